"""The cache of decoded segments: bounded, and kept where the next band needs it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from axialcli.geometry import Box, whole
from axialcli.image import cache, open_slide
from axialcli.image.cache import SegmentCache
from axialcli.image.segments import BORDER_PX
from tests.fixtures.slides import Made, picture, write_tiled

KIB = np.zeros(1024, np.uint8)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "FLOOR_BYTES", 4096)


@pytest.mark.usefixtures("small")
def test_what_is_not_kept_never_displaces_anything() -> None:
    store = SegmentCache()
    for key in range(10):
        store.put(key, KIB, kept=False)
    assert sorted(store.take(range(10), 0)) == [0, 1, 2, 3]


@pytest.mark.usefixtures("small")
def test_it_grows_to_what_is_kept_and_shrinks_again() -> None:
    store = SegmentCache()
    store.take([], 9 * 1024)
    for key in range(9):
        store.put(key, KIB, kept=True)
    assert len(store.take(range(9), 1024)) == 9
    store.put("new", KIB, kept=True)
    assert len(store.take([*range(9), "new"], 0)) == 4


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("overlap", [0, 30, 100])
def test_one_pass_decodes_once_however_small_the_floor(overlap: int, tmp_path: Path) -> None:
    image = picture(1500, 700)
    path, _ = write_tiled(tmp_path / "a.tif", image, factors=())
    with open_slide(path, threads=2) as slide:
        for y in range(0, 1500, 150):
            box = Box(max(y - overlap, 0), 0, min(y + 150, 1500), 700)
            np.testing.assert_array_equal(slide.read(0, box), image[box.y0 : box.y1])
        assert slide.counts.decoded_segments == 24 * 11


@pytest.mark.usefixtures("small")
def test_column_strips_decode_only_their_borders_twice(tmp_path: Path) -> None:
    path, _ = write_tiled(tmp_path / "a.tif", picture(640, 640), factors=())
    with open_slide(path, threads=1) as slide:
        for x in range(0, 640, 160):
            for y in range(0, 640, 50):
                slide.read(0, Box(y, x, min(y + 50, 640), x + 160))
        # Ten columns of tiles; two of the three cuts go through one.
        assert slide.counts.decoded_segments == 10 * (10 + 2)


def test_reads_from_several_threads_at_once(made: dict[str, Made]) -> None:
    path, truth = made["tiled-jpeg"]
    boxes = [Box(y, x, y + 70, x + 90) for y in range(0, 140, 23) for x in range(0, 210, 31)]
    with open_slide(path, threads=2) as slide, ThreadPoolExecutor(4) as pool:
        for box, read in zip(boxes, pool.map(lambda box: slide.read(0, box), boxes), strict=True):
            np.testing.assert_array_equal(read, truth[box.y0 : box.y1, box.x0 : box.x1])


def test_patches_are_remembered(made: dict[str, Made]) -> None:
    with open_slide(made["tiled-jpeg"].path) as slide:
        slide.read(0, Box(0, 0, 64, 128))
        slide.read(0, Box(0, 0, 64, 64))
        assert slide.counts.decoded_segments == 2
        slide.read(0, whole(slide.size))
        assert slide.counts.decoded_segments == 20
    assert BORDER_PX == 256
