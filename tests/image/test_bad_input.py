"""What cannot be read is refused in one line that names the file, fast, and by nothing else."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from axialcli.errors import AxialError, ImageError
from axialcli.geometry import whole
from axialcli.image import describe, open_slide
from tests.fixtures.damage import (
    REFUSED_ON_OPENING,
    REFUSED_ON_READING,
    header_only,
    mpp_of_nonsense,
    ome_not_xml,
)
from tests.fixtures.slides import Made

NAMES = [case[0].__name__ for case in REFUSED_ON_OPENING]


@pytest.mark.parametrize(("make", "code", "message"), REFUSED_ON_OPENING, ids=NAMES)
def test_refused_on_opening(
    make: Callable[[Path], Path], code: int, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path / "slide.tif")
    start = time.perf_counter()
    with pytest.raises(AxialError) as error:
        open_slide(path)
    assert str(error.value) == f"{path}: {message}"
    assert error.value.exit_code == code
    assert len(message) <= 140
    assert time.perf_counter() - start < 2
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("make", "message"), REFUSED_ON_READING, ids=[case[0].__name__ for case in REFUSED_ON_READING]
)
def test_refused_on_reading(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    path = make(tmp_path / "slide.tif")
    with open_slide(path, threads=2) as slide:
        with pytest.raises(ImageError) as error:
            slide.read(0, whole(slide.size))
        assert str(error.value).startswith(f"{path}: {message}")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [header_only, ome_not_xml])
def test_refused_with_foreign_words(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path / "slide.tif")
    with pytest.raises(ImageError) as error:
        open_slide(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_scale_of_nonsense_is_said_and_not_used(tmp_path: Path) -> None:
    with open_slide(mpp_of_nonsense(tmp_path / "a.svs")) as slide:
        assert slide.mpp is None


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "slide.tif"
    path.write_bytes(b"II*\0")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError) as error:
        open_slide(path)
    assert str(error.value) == f"{path}: cannot be opened (Permission denied)"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are for Unix")
def test_a_pipe_or_a_device_is_refused_at_once_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "slide.tif"
    os.mkfifo(pipe)
    for path in (pipe, Path(os.devnull)):
        with pytest.raises(ImageError) as error:
            open_slide(path)
        assert str(error.value) == f"{path}: is a pipe, socket or device; give one picture as a file"


def test_a_name_that_no_file_can_have() -> None:
    with pytest.raises(ImageError) as error:
        open_slide("sli\0de.tif")
    assert str(error.value) == r"'sli\x00de.tif': no file can have this name"


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / f"{'a' * 300}.tif"
    with pytest.raises(ImageError) as error:
        open_slide(path)
    assert str(error.value) == f"{path}: cannot be opened (File name too long)"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may enter every folder")
def test_a_folder_that_may_not_be_entered(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o000)
    with pytest.raises(ImageError) as error:
        open_slide(folder / "slide.tif")
    assert str(error.value) == f"{folder / 'slide.tif'}: cannot be opened (Permission denied)"


def test_a_folder_that_may_not_be_entered_as_the_system_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(ImageError) as error:
        open_slide("closed/slide.tif")
    assert str(error.value) == "closed/slide.tif: cannot be opened (Permission denied)"


FUZZED = [
    *("svs", "tiled-lzw-predictor", "strips-lzw", "ome", "ndpi", "philips", "imagej", "scn"),
    *("tiled-webp", "tiled-jpeg2000", "svs-33003", "strip-none"),
]


@pytest.mark.parametrize("name", FUZZED)
def test_damage_never_shows_as_anything_else(name: str, made: dict[str, Made], tmp_path: Path) -> None:
    """Cuts and flipped bytes: a picture, or an AxialError. Never another exception, never a crash."""
    good = made[name].path.read_bytes()
    chance = random.Random(name)
    path = tmp_path / f"slide{made[name].path.suffix}"
    for trial in range(40):
        data = bytearray(good)
        if trial % 4 == 0:
            del data[chance.randrange(len(data)) :]
        else:
            near = chance.choice([len(data), 600, min(len(data), 4000)])
            for _ in range(chance.choice([1, 3, 20])):
                data[chance.randrange(8, max(near, 9)) % max(len(data), 1)] = chance.randrange(256)
        path.write_bytes(bytes(data))
        try:
            with open_slide(path, threads=1) as slide:
                describe(slide)
                if slide.size.height * slide.size.width * slide.channels < 50e6:
                    slide.read(0, whole(slide.size))
                    slide.thumbnail(64)
        except AxialError as error:
            assert str(path) in str(error)  # noqa: PT017 - most trials raise nothing
            assert "\n" not in str(error)  # noqa: PT017
