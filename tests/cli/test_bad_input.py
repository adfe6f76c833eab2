"""Every refusal keeps the contract: exit code, one line, nothing left behind, inputs untouched.

The cases are data: what is given, and the line that comes back ({rest}: words of a library, or figures of
this machine).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from tests.cli.conftest import Axial
from tests.fixtures.damage import damaged_deflate_tile, data_cut_off, deflate_bomb
from tests.networks import small_model_file


def good_slide(path: Path, **options: object) -> Path:
    image = np.random.default_rng(0).integers(0, 256, (600, 700, 3), dtype=np.uint8)
    settings = {"photometric": "rgb", "tile": (256, 256), "compression": "zlib", **options}
    tifffile.imwrite(path, image, **settings)  # type: ignore[arg-type]
    return path


def good_slide_of_four(path: Path) -> None:
    image = np.zeros((300, 300, 4), np.uint8)
    tifffile.imwrite(path, image, photometric="minisblack", planarconfig="contig", tile=(256, 256))


def five_channels(folder: Path) -> None:
    image = np.zeros((5, 300, 300), np.uint8)
    tifffile.imwrite(
        folder / "slide.tif", image, photometric="minisblack", planarconfig="separate", tile=(256, 256)
    )


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("ran",))


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[Path], object]
    code: int
    line: str
    options: tuple[str, ...] = ()


CASES = [
    Case("missing", lambda f: None, 3, "slide.tif: no such file"),
    Case("empty", lambda f: (f / "slide.tif").touch(), 3, "slide.tif: the file is empty"),
    Case(
        "text",
        lambda f: (f / "slide.tif").write_text("hello " * 99),
        3,
        "slide.tif: not a TIFF, PNG or JPEG; "
        "other slides are converted with `vips tiffsave --tile --pyramid`",
    ),
    Case("folder", lambda f: (f / "slide.tif").mkdir(), 3, "slide.tif: is a folder; give one picture"),
    Case(
        "truncated",
        lambda f: data_cut_off(f / "slide.tif"),
        3,
        "slide.tif: 1 of 12 segments of level 0 lie outside of the file: it is cut short; copy it again",
    ),
    Case(
        "damaged tile",
        lambda f: damaged_deflate_tile(f / "slide.tif"),
        3,
        "slide.tif: tile (1, 1) of level 0 is damaged: {rest}",
    ),
    Case(
        "bomb",
        lambda f: deflate_bomb(f / "slide.tif"),
        6,
        "slide.tif: one strip of level 0 unpacks to 1.4 GiB (limit 0.5 GiB); {rest}",
    ),
    Case(
        "wrong channels",
        five_channels,
        4,
        "model 'small' wants 3 channels (channel 0, channel 1, channel 2), the picture has 5: "
        "choose them with --channels",
    ),
    Case(
        "missing model",
        lambda f: good_slide(f / "slide.tif"),
        4,
        "no model 'nowhere.safetensors': neither a file nor one of the names landcover, {rest}",
        ("--model", "nowhere.safetensors"),
    ),
    Case(
        "model with code",
        lambda f: (good_slide(f / "slide.tif"), torch.save({"w": Evil()}, f / "evil.pth")),
        4,
        "evil.pth: refused, it carries code and not only weights",
        ("--model", "evil.pth"),
    ),
    Case(
        "no folder for the output",
        lambda f: good_slide(f / "slide.tif"),
        5,
        "no/mask.tif: there is no folder no; make it first",
        ("--out", "no/mask.tif"),
    ),
    Case(
        "output is the input",
        lambda f: good_slide(f / "slide.tif"),
        2,
        "slide.tif: is an input; choose another output",
        ("--out", "slide.tif", "--force"),
    ),
    Case(
        "overlap too large",
        lambda f: good_slide(f / "slide.tif"),
        2,
        "--overlap is 256: it has to be below half of --tile (512)",
        ("--overlap", "256"),
    ),
    Case(
        "unknown blend",
        lambda f: good_slide(f / "slide.tif"),
        2,
        "--blend is 'magic': choose one of gaussian, linear, mean, crop",
        ("--blend", "magic"),
    ),
    Case(
        "no such level",
        lambda f: good_slide(f / "slide.tif"),
        2,
        "slide.tif: level 3 does not exist; the slide has levels 0 to 0",
        ("--level", "3"),
    ),
    Case(
        "too little memory",
        lambda f: good_slide(f / "slide.tif"),
        6,
        "--max-ram of 100 MiB is too little: {rest}",
        ("--max-ram", "100M", "--engine", "tiles"),
    ),
    Case(
        "a size that is none",
        lambda f: good_slide(f / "slide.tif"),
        2,
        "'lots' is not a size: write it like 800M or 1.5G",
        ("--max-ram", "lots"),
    ),
    Case(
        "an engine that is none",
        lambda f: good_slide(f / "slide.tif"),
        2,
        "--engine is 'steam': choose one of auto, stream, tiles",
        ("--engine", "steam"),
    ),
    Case(
        "a background that is none",
        lambda f: good_slide(f / "slide.tif"),
        2,
        "--background is 'white': choose auto, off, or a colour and a tolerance of 0 to 255, "
        "such as #f4f4f4:6",
        ("--background", "white"),
    ),
    Case(
        "a background in colour on a slide of four channels",
        lambda f: good_slide_of_four(f / "slide.tif"),
        2,
        "--background gives red, green and blue, the slide has 4 channel(s): give a grey such as #f0f0f0:4",
        ("--background", "#f0f1f2:4"),
    ),
    Case(
        "too many windows",
        lambda f: good_slide(f / "slide.tif"),
        2,
        "--certify is 1001: choose 0 to 1000 windows",
        ("--certify", "1001"),
    ),
    Case(
        "scratch is no folder",
        lambda f: good_slide(f / "slide.tif"),
        5,
        "slide.tif: is no folder; --scratch needs one that is there",
        ("--scratch", "slide.tif"),
    ),
    Case(
        "scratch is not there",
        lambda f: good_slide(f / "slide.tif"),
        5,
        "nowhere: is no folder; --scratch needs one that is there",
        ("--scratch", "nowhere"),
    ),
    Case("unknown option", lambda f: None, 2, "No such option: --wrong{rest}", ("--wrong",)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_gets_one_line_and_leaves_nothing(case: Case, tmp_path: Path, axial: Axial) -> None:
    small_model_file(tmp_path / "small.safetensors")
    case.make(tmp_path)
    before = contents(tmp_path)
    options = case.options if "--out" in case.options else ("--out", "mask.tif", *case.options)
    options = options if "--model" in options else (*options, "--model", "small.safetensors")

    done = axial("predict", "slide.tif", *options)

    assert done.returncode == case.code, done.stderr
    line = done.stderr
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert len(line) <= 201
    expected, _, rest = ("axial: error: " + case.line).partition("{rest}")
    assert line.startswith(expected)
    assert rest or "{rest}" in case.line or line == expected + "\n"
    assert done.stdout == ""
    assert contents(tmp_path) == before


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(
            path.read_bytes() if path.is_file() else b""
        ).hexdigest()
        for path in folder.rglob("*")
    }


def test_control_characters_of_a_file_name_do_not_reach_the_terminal(tmp_path: Path, axial: Axial) -> None:
    done = axial("info", "evil\x1b[31m\nname.tif")

    assert done.returncode == 3
    assert "\x1b" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_grey_picture_is_replicated_for_a_model_of_three_channels(tmp_path: Path, axial: Axial) -> None:
    small_model_file(tmp_path / "small.safetensors")
    grey_HW = np.random.default_rng(0).integers(0, 256, (90, 80), dtype=np.uint8)
    Image.fromarray(grey_HW).save(tmp_path / "g.png")

    done = axial("predict", "g.png", "--out", "m.tif", "--model", "small.safetensors")

    assert done.returncode == 0, done.stderr


def test_debug_shows_where(tmp_path: Path, axial: Axial) -> None:
    assert "Traceback" in axial("--debug", "info", "nowhere.tif").stderr
