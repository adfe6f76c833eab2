"""Any region of any layout equals the whole page, read by somebody else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openslide import OpenSlide

from axialcli.geometry import Box, whole
from axialcli.image import Slide, open_slide
from tests.fixtures.slides import Made
from tests.image.layouts import LAYOUTS

# 33003 holds YCbCr: its truth was rounded once on the way there and once on the way back.
TOLERANCE = {"svs-33003": 1}


@pytest.fixture(scope="module")
def slides(made: dict[str, Made]) -> Iterator[dict[str, Slide]]:
    opened = {name: open_slide(one.path, threads=2) for name, one in made.items()}
    yield opened
    for slide in opened.values():
        slide.close()


def boxes(draw: st.DrawFn, height: int, width: int) -> Box:
    y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return Box(y0, x0, draw(st.integers(y0 + 1, height)), draw(st.integers(x0 + 1, width)))


def assert_equal(ours: Any, theirs: Any, tolerance: int = 0) -> None:
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max()
    assert difference <= tolerance


@pytest.mark.parametrize("name", LAYOUTS)
def test_whole_level_0_is_the_truth(name: str, made: dict[str, Made], slides: dict[str, Slide]) -> None:
    slide = slides[name]
    assert slide.size == made[name].truth.shape[:2]
    assert_equal(slide.read(0, whole(slide.size)), made[name].truth, TOLERANCE.get(name, 0))


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(sorted(LAYOUTS)))
def test_any_region_equals_the_crop(
    data: st.DataObject, name: str, made: dict[str, Made], slides: dict[str, Slide]
) -> None:
    truth = made[name].truth
    box = data.draw(st.composite(boxes)(*truth.shape[:2]))
    assert_equal(slides[name].read(0, box), truth[box.y0 : box.y1, box.x0 : box.x1], TOLERANCE.get(name, 0))


def pages_of_size(file: tifffile.TiffFile, size: tuple[int, int]) -> Any:
    for page in file.pages:
        for one in (page, *(page.pages or ())):
            if (one.imagelength, one.imagewidth) == size and one.photometric != 4:
                return one.asarray()
    return None


LOWER = [name for name in LAYOUTS if name not in {"svs-33003", "philips", "qptiff", "ome-channels"}]


@settings(max_examples=200, deadline=None)
@given(data=st.data(), name=st.sampled_from(LOWER))
def test_lower_levels_equal_tifffiles_pages(
    data: st.DataObject, name: str, slides: dict[str, Slide], made: dict[str, Made]
) -> None:
    slide = slides[name]
    level = data.draw(st.integers(0, len(slide.levels) - 1))
    if level == 0:
        return
    size = slide.levels[level].size
    with tifffile.TiffFile(made[name].path) as file:
        page = pages_of_size(file, size)
    page = page if page.ndim == 3 else page[..., None]
    box = data.draw(st.composite(boxes)(*size))
    assert_equal(slide.read(level, box), page[box.y0 : box.y1, box.x0 : box.x1])


OPENSLIDE = ["tiled-jpeg", "tiled-deflate", "svs", "svs-33003", "svs-33005", "ndpi", "philips"]


@pytest.mark.parametrize("name", OPENSLIDE)
def test_openslide_sees_the_same_levels_and_pixels(
    name: str, made: dict[str, Made], slides: dict[str, Slide]
) -> None:
    slide = slides[name]
    with OpenSlide(str(made[name].path)) as other:
        sizes = [(height, width) for width, height in other.level_dimensions]
        if name == "ndpi":
            # OpenSlide makes up levels below the stored ones.
            sizes = sizes[: len(slide.levels)]
        assert [tuple(level.size) for level in slide.levels] == sizes
        for number, (height, width) in enumerate(sizes):
            rgba = np.asarray(other.read_region((0, 0), number, (width, height)))
            seen = rgba[..., 3:] == 255
            ours = slide.read(number, Box(0, 0, height, width))
            # Where OpenSlide is transparent, a tile is missing: glass.
            assert_equal(np.where(seen, ours, 255), np.where(seen, rgba[..., :3], 255), 2)
            assert (ours[~seen[..., 0]] == 255).all()


def test_openslide_sees_the_same_leica_region(made: dict[str, Made], slides: dict[str, Slide]) -> None:
    height, width = slides["scn"].size
    with OpenSlide(str(made["scn"].path)) as other:
        # OpenSlide shows the whole glass; the region begins a millimetre from its corner, at 0.5 um a pixel.
        rgba = np.asarray(other.read_region((2000, 2000), 0, (width, height)))
    assert_equal(slides["scn"].read(0, whole(slides["scn"].size)), rgba[..., :3])


# GDAL is built without JPEG 2000 for TIFF; it upsamples chroma in another way.
NOT_IN_GDAL = {"tiled-jpeg2000"}
GDAL_TOLERANCE = {"tiled-jpeg": 16, "tiled-webp": 1}
RASTERIO = [
    name for name in LAYOUTS if name.startswith(("tiled-", "strip", "geotiff")) and name not in NOT_IN_GDAL
]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("name", RASTERIO)
def test_gdal_reads_the_same_pixels(name: str, made: dict[str, Made], slides: dict[str, Slide]) -> None:
    with rasterio.open(made[name].path) as other:
        theirs = np.moveaxis(other.read(), 0, 2)
    assert_equal(slides[name].read(0, whole(slides[name].size)), theirs, GDAL_TOLERANCE.get(name, 0))


@pytest.mark.parametrize("name", ["tiled-jpeg", "strips-lzw", "ndpi", "tiled-planar", "ome-channels"])
@pytest.mark.parametrize("overlap", [0, 40])
def test_each_segment_is_decoded_once_per_pass(name: str, overlap: int, made: dict[str, Made]) -> None:
    with open_slide(made[name].path, threads=2) as slide:
        height, width = slide.size
        for y in range(0, height, 37):
            slide.read(0, Box(max(y - overlap, 0), 0, min(y + 37, height), width))
        down, right = slide.levels[0].segment
        planes = {"tiled-planar": 3, "ome-channels": 5}.get(name, 1)
        assert slide.counts.decoded_segments == -(-height // down) * -(-width // right) * planes
        assert slide.counts.missing_segments == 0


def test_uncompressed_strips_read_only_the_rows_of_the_box(made: dict[str, Made]) -> None:
    with open_slide(made["strip-none"].path) as slide:
        slide.read(0, Box(100, 10, 110, 30))
        assert slide.counts.bytes_read == 10 * 20 * 3
        slide.read(0, Box(0, 0, 10, 300))
        assert slide.counts.bytes_read == 10 * 20 * 3 + 10 * 307 * 3


def test_missing_tiles_are_counted(made: dict[str, Made]) -> None:
    with open_slide(made["philips"].path) as slide:
        slide.read(0, whole(slide.size))
        assert slide.counts.missing_segments == 2
        assert slide.counts.decoded_segments == 4 * 5 - 2


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 10), (-1, 0, 5, 5), (0, 0, 212, 10), (0, 300, 10, 308), (5, 5, 4, 9)]
)
def test_a_box_outside_of_the_level_is_refused(box: tuple[int, ...], slides: dict[str, Slide]) -> None:
    with pytest.raises(ValueError, match="is not inside level 0"):
        slides["tiled-deflate"].read(0, Box(*box))


@pytest.mark.parametrize("name", ["qptiff", "ome-channels", "strips-five-channels", "imagej"])
def test_channels_are_chosen_and_ordered(name: str, made: dict[str, Made]) -> None:
    with open_slide(made[name].path, channels=[1, 0, 1]) as slide:
        assert slide.channels == 3
        assert_equal(slide.read(0, whole(slide.size)), made[name].truth[..., [1, 0, 1]])


def test_planar_channels_are_chosen(made: dict[str, Made]) -> None:
    for name in ("tiled-planar", "strips-planar"):
        with open_slide(made[name].path, channels=[2]) as slide:
            assert_equal(slide.read(0, whole(slide.size)), made[name].truth[..., 2:])
