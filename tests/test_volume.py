"""The whole way from stack to stack, through `axialcli.predict` and the command line."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import skimage.io
import tifffile
from numpy.typing import NDArray
from PIL import Image

import axialcli
from axialcli.backends.torch_model import TorchModel
from axialcli.cli.app import run
from axialcli.engine import VolumeEngine, volumes
from axialcli.errors import ImageError, LimitError, UsageError
from tests.cli.conftest import command
from tests.fixtures.volumes import (
    PIXEL_UM,
    PLANE_UM,
    stack_of,
    volume_model,
    volume_model_file,
    write_imagej_stack,
    write_ome_stack,
)
from tests.image.test_stacks import LAYOUTS
from tests.networks import small_model

EXACT: dict[str, Any] = {"block": (64, 48, 52), "overlap": "auto", "blend": "crop"}


def wanted(model: TorchModel, stack_DHWC: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The labels of the network on the whole volume at once, and where they are no tie."""
    probs_KDHW = model.predict(np.ascontiguousarray(stack_DHWC.transpose(3, 0, 1, 2)[None]))[0]
    ordered = np.sort(probs_KDHW, 0)
    return probs_KDHW.argmax(0), ordered[-1] - ordered[-2] > 2e-4


def physical_sizes(path: Path) -> dict[str, float]:
    """X, Y and Z of the OME-XML, in microns."""
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        text = tiff.ome_metadata
    assert text is not None
    pixels = ElementTree.fromstring(text).find(".//{*}Pixels")
    assert pixels is not None
    found = {axis: pixels.get(f"PhysicalSize{axis}") for axis in "XYZ"}
    assert {pixels.get(f"PhysicalSize{axis}Unit") for axis, size in found.items() if size} <= {"µm"}
    return {axis: float(size) for axis, size in found.items() if size}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_of_a_stack_becomes_the_mask_of_the_whole_volume(name: str, tmp_path: Path) -> None:
    write, channels = LAYOUTS[name]
    stack_DHWC = stack_of(6, 60, 70, channels)
    model = volume_model(channels=channels)
    write(tmp_path / "s.tif", stack_DHWC)

    report = axialcli.predict(tmp_path / "s.tif", tmp_path / "m.tif", model=model, **EXACT)

    labels_DHW, clear = wanted(model, stack_DHWC)
    with tifffile.TiffFile(tmp_path / "m.tif") as tiff:
        (series,) = tiff.series
        assert (series.axes, series.shape, series.dtype) == ("ZYX", (6, 60, 70), np.uint8)
        mask_DHW = series.asarray()
        assert all(page.is_contiguous is not None for page in tiff.pages)
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(mask_DHW[clear], labels_DHW[clear])
    assert physical_sizes(tmp_path / "m.tif") == pytest.approx({"X": PIXEL_UM, "Y": PIXEL_UM, "Z": PLANE_UM})
    assert report == json.loads((tmp_path / "m.tif.json").read_text())
    assert report["output"]["size"] == [6, 60, 70]
    assert report["settings"]["blocks"] == 9
    counted = [int(np.count_nonzero(mask_DHW == label)) for label in range(3)]
    assert [entry["voxels"] for entry in report["classes"]] == counted
    voxel_um3 = PIXEL_UM**2 * PLANE_UM
    assert [e["volume_um3"] for e in report["classes"]] == pytest.approx([n * voxel_um3 for n in counted])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.tif", "m.tif.json", "s.tif"]


def test_another_reader_finds_the_same_planes_and_the_mask_is_a_stack_for_axial_itself(
    tmp_path: Path,
) -> None:
    write_imagej_stack(tmp_path / "s.tif", stack_of(5, 40, 50))

    axialcli.predict(tmp_path / "s.tif", tmp_path / "m.tif", model=volume_model())

    mask_DHW = tifffile.imread(tmp_path / "m.tif")
    with Image.open(tmp_path / "m.tif") as pillow:
        assert pillow.n_frames == 5
        for z in range(5):
            pillow.seek(z)
            np.testing.assert_array_equal(np.asarray(pillow), mask_DHW[z])
    with axialcli.open_slide(tmp_path / "m.tif") as slide:
        assert (slide.depth, slide.spacing_um, slide.mpp) == (5, PLANE_UM, (PIXEL_UM, PIXEL_UM))


def test_a_flat_picture_is_a_volume_of_one_plane(tmp_path: Path) -> None:
    image_HWC = stack_of(1, 40, 50)[0]
    skimage.io.imsave(tmp_path / "flat.png", image_HWC[..., 0], check_contrast=False)
    model = volume_model()

    report = axialcli.predict(tmp_path / "flat.png", tmp_path / "m.tif", model=model)

    labels_DHW, clear = wanted(model, image_HWC[None])
    assert report["output"]["size"] == [1, 40, 50]
    assert report["classes"][0]["volume_um3"] is None
    assert tifffile.imread(tmp_path / "m.tif").shape == (40, 50)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "m.tif")[clear[0]], labels_DHW[0][clear[0]])


def test_grey_is_replicated_for_a_model_of_three_channels(tmp_path: Path) -> None:
    stack_DHWC = stack_of(4, 30, 40, dtype=np.uint16)
    write_ome_stack(tmp_path / "s.tif", stack_DHWC)
    model = volume_model(channels=3)

    axialcli.predict(tmp_path / "s.tif", tmp_path / "m.tif", model=model)

    labels_DHW, clear = wanted(model, np.repeat(stack_DHWC, 3, 3))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "m.tif")[clear], labels_DHW[clear])


def test_two_runs_write_the_same_bytes_and_colours_where_they_are_wanted(tmp_path: Path) -> None:
    write_ome_stack(tmp_path / "s.tif", stack_of(4, 30, 40))
    for name in ("a.tif", "b.tif", "c.tif"):
        palette = name == "c.tif" or None
        axialcli.predict(tmp_path / "s.tif", tmp_path / name, model=volume_model(), palette=palette)

    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "c.tif") as tiff:
        assert tiff.pages[3].photometric == tifffile.PHOTOMETRIC.PALETTE  # type: ignore[union-attr]
        np.testing.assert_array_equal(tiff.asarray(), tifffile.imread(tmp_path / "a.tif"))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"probs": "p.tif"}, "--probs"),
    ({"overlay": "o.png"}, "--overlay"),
    ({"csv": "t.csv"}, "--csv"),
    ({"heatmaps": [("class 1", "h.tif")]}, "--heatmap"),
    ({"engine": "stream"}, "--engine"),
    ({"z": 1}, "--z"),
    ({"mpp": 0.5}, "--mpp"),
    ({"tile": 256}, "--tile"),
    ({"batch": 2}, "--batch"),
    ({"background": "auto"}, "--background"),
    ({"certify": 3}, "--certify"),
    ({"tta": "turns"}, "--tta"),
    ({"layout": "generic"}, "--layout"),
    ({"store_dtype": "float16", "probs_dtype": "float16"}, "--probs-dtype, --store-dtype"),
    ({"probs": "p.tif", "certify": 3}, "--probs, --certify"),
]


def test_strips_leave_no_trace_in_the_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "peak_resident_bytes", lambda: 0)
    write_ome_stack(tmp_path / "s.tif", stack_of(10, 100, 48))
    model, block = volume_model(), (8, 32, 48)
    of_all_rows = 8 * 48 * 100 * 32

    reports = [
        axialcli.predict(tmp_path / "s.tif", tmp_path / name, model=model, block=block, max_ram_bytes=allowed)
        for name, allowed in (("a.tif", 1 << 40), ("b.tif", volumes.SPARE_BYTES + of_all_rows // 2))
    ]

    assert [report["settings"]["strips"] > 1 for report in reports] == [False, True]
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


@pytest.mark.parametrize(("options", "names"), REFUSED, ids=lambda value: str(value))
def test_what_has_no_meaning_for_volumes_is_refused_in_one_line(
    options: dict[str, Any], names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_ome_stack(tmp_path / "s.tif", stack_of(3, 20, 30))

    with pytest.raises(UsageError) as caught:
        axialcli.predict("s.tif", "m.tif", model=volume_model(), **options)

    assert str(caught.value) == (
        f"model 'small volume' takes volumes, in blocks, and answers a mask alone: leave out {names}"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["s.tif"]


@pytest.mark.parametrize("options", [{"engine": "tiles"}, {"layout": "ome-strict"}, {"level": 0}], ids=str)
def test_what_asks_for_no_more_than_is_done_is_taken(options: dict[str, Any], tmp_path: Path) -> None:
    write_ome_stack(tmp_path / "s.tif", stack_of(3, 20, 30))

    axialcli.predict(tmp_path / "s.tif", tmp_path / "m.tif", model=volume_model(), **options)


def test_a_model_of_pictures_still_sees_one_plane_and_says_which(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_ome_stack(tmp_path / "s.tif", stack_of(5, 40, 50, 3))
    model = small_model()
    said = "a stack of 5 planes: 2, the middle, is read; choose with --z"

    by_itself = axialcli.predict(tmp_path / "s.tif", tmp_path / "m.tif", model=model)
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path / 's.tif'}: {said}"]
    caplog.clear()
    chosen = axialcli.predict(tmp_path / "s.tif", tmp_path / "z.tif", model=model, z=2)

    assert caplog.records == []
    assert (by_itself["input"]["warnings"], chosen["input"]["warnings"]) == ([said], [])
    mask_HW = tifffile.imread(tmp_path / "m.tif")
    assert mask_HW.shape == (40, 50)
    np.testing.assert_array_equal(mask_HW, tifffile.imread(tmp_path / "z.tif"))
    with pytest.raises(UsageError, match="--block is for models of volumes, 'small' takes pictures"):
        axialcli.predict(tmp_path / "s.tif", tmp_path / "n.tif", model=model, block=(8, 8, 8))


@pytest.fixture
def own_logger() -> Iterator[None]:
    """The command sets handlers; later tests find the logger as it was."""
    logger = logging.getLogger("axial")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.mark.usefixtures("own_logger")
def test_the_command_line_predicts_a_stack_without_a_word_of_one_plane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_ome_stack(tmp_path / "s.tif", stack_of(5, 40, 50))
    volume_model_file(tmp_path / "v.safetensors")

    code = run(["predict", "s.tif", "--out", "m.tif", "--model", "v.safetensors", "--block", "4x24x24"])
    said = capsys.readouterr()
    shown = run(["models", "show", "v.safetensors"])

    assert (code, shown, said.err) == (0, 0, "")
    assert said.out.startswith("m.tif: 50 x 40 x 5 voxels, model small volume\n  class 0: ")
    report = json.loads((tmp_path / "m.tif.json").read_text())
    assert report["settings"]["block"] == [4, 24, 24]
    assert report["input"]["warnings"] == []
    assert "no, it takes volumes, which run in overlapping blocks" in capsys.readouterr().out


@pytest.mark.usefixtures("own_logger")
@pytest.mark.parametrize(
    ("options", "code", "line"),
    [
        (["--block", "8x8"], 2, "--block is '8x8': write DxHxW such as 32x256x256"),
        (["--block", "8x0x8"], 2, "--block is 8x0x8: its sides go from 1 to 4096"),
        (["--probs", "p.tif"], 2, "model 'small volume' takes volumes, in blocks, and answers a mask alone: "
                                  "leave out --probs"),
        (["--channels", "0,1"], 4, "model 'small volume' wants 1 channels (channel 0), the picture has 2: "
                                   "choose them with --channels"),
        (["--level", "1"], 2, "s.tif: level 1 does not exist; the slide has levels 0 to 0"),
        (["--max-ram", "2M"], 6, "--max-ram of 2 MiB is too little: "),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line_and_leaves_nothing(
    options: list[str],
    code: int,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_ome_stack(tmp_path / "s.tif", stack_of(5, 20, 30, 2))
    volume_model_file(tmp_path / "v.safetensors")
    (tmp_path / "m.tif").write_text("precious")
    before = contents(tmp_path)
    options = options if "--channels" in options else [*options, "--channels", "1"]

    given = run(["predict", "s.tif", "--out", "m.tif", "--force", "--model", "v.safetensors", *options])

    said = capsys.readouterr()
    assert given == code, said.err
    assert said.err.startswith(f"axial: error: {line}")
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert contents(tmp_path) == before


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_plane_that_is_damaged_in_the_middle_leaves_the_old_mask(tmp_path: Path) -> None:
    path = write_ome_stack(tmp_path / "s.tif", stack_of(40, 48, 64), "ZYX", compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        (offset,) = tiff.pages[33].dataoffsets  # type: ignore[union-attr]
    data = bytearray(path.read_bytes())
    data[offset : offset + 40] = bytes(40)
    path.write_bytes(data)
    (tmp_path / "m.tif").write_text("precious")
    before = contents(tmp_path)

    with pytest.raises(ImageError, match=r"strip 0 of level 0 is damaged"):
        axialcli.predict(path, tmp_path / "m.tif", model=volume_model(), block=(8, 48, 64), force=True)

    assert contents(tmp_path) == before
    assert not (tmp_path / "m.tif.partial").exists()


def test_a_killed_run_leaves_no_mask_and_the_next_one_starts_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_ome_stack(tmp_path / "s.tif", stack_of(60, 64, 64))
    volume_model_file(tmp_path / "v.safetensors", depth=2)
    told = ["predict", "s.tif", "--out", "m.tif", "--model", "v.safetensors", "--block", "8x24x24"]

    with subprocess.Popen(command(told), cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        labels = tmp_path / "m.tif.partial" / "labels.bin"
        deadline = time.monotonic() + 60
        while not (labels.exists() and labels.stat().st_size):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "m.tif").exists()
    assert not (tmp_path / "m.tif.json").exists()

    axialcli.predict(tmp_path / "s.tif", tmp_path / "m.tif", model=tmp_path / "v.safetensors", device="cpu")

    assert caplog.messages == [
        f"{tmp_path / 'm.tif.partial'}: starting over, runs over volumes are not continued"
    ]
    assert tifffile.imread(tmp_path / "m.tif").shape == (60, 64, 64)
    assert not (tmp_path / "m.tif.partial").exists()


def test_memory_that_runs_out_names_the_options_of_volumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ome_stack(tmp_path / "s.tif", stack_of(3, 20, 30))

    def fails(self: VolumeEngine, block: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(VolumeEngine, "_probs", fails)

    with pytest.raises(LimitError, match="a smaller --block or --max-ram"):
        axialcli.predict(tmp_path / "s.tif", tmp_path / "m.tif", model=volume_model())
    assert [path.name for path in tmp_path.iterdir()] == ["s.tif"]


def test_a_resolution_that_the_model_is_not_made_for_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_ome_stack(tmp_path / "s.tif", stack_of(3, 20, 30))
    volume_model_file(tmp_path / "v.safetensors", said={"mpp": 1.0})

    axialcli.predict(tmp_path / "s.tif", tmp_path / "m.tif", model=tmp_path / "v.safetensors")

    (said,) = caplog.messages
    assert "s.tif has 0.25 microns per pixel at level 0, and small volume is made for 1" in said
    assert tifffile.imread(tmp_path / "m.tif").shape == (3, 20, 30)


def test_volumes_are_counted_to_their_end(tmp_path: Path) -> None:
    write_ome_stack(tmp_path / "s.tif", stack_of(9, 40, 50))
    seen: list[tuple[int, int]] = []

    axialcli.predict(
        tmp_path / "s.tif",
        tmp_path / "m.tif",
        model=volume_model(),
        block=(4, 24, 24),
        overlap=0,
        progress=lambda state: seen.append((state.done_px, state.total_px)),
    )

    assert seen[0] == (0, 18_000)
    assert seen[-1] == (18_000, 18_000)
    assert seen == sorted(seen)
    assert len(seen) > 2
