"""Views and thumbnails: no value depends on the box, and all agree with the whole resampled at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from axialcli.errors import UsageError
from axialcli.geometry import Box, whole
from axialcli.image import open_slide
from tests.fixtures.slides import Made, picture, write_geotiff, write_tiled

KINDS: dict[str, Any] = {
    "rgb": picture(700, 1021),
    "grey16": picture(700, 1021, 1, np.uint16),
    "five": picture(301, 411, 5),
    "float": picture(301, 411, 1, np.float32),
}


@pytest.fixture(scope="module")
def pyramids(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    folder = tmp_path_factory.mktemp("views")
    return {name: write_tiled(folder / f"{name}.tif", image, mpp=0.25) for name, image in KINDS.items()}


def resized_whole(level_HWC: Any, size: tuple[int, int], step: tuple[float, float]) -> Any:
    """Pillow's own answer for a whole level, edges repeated where the grid reaches over."""
    over_y = max(math.ceil(size[0] * step[0]) - level_HWC.shape[0], 0)
    over_x = max(math.ceil(size[1] * step[1]) - level_HWC.shape[1], 0)
    padded = np.pad(level_HWC, ((0, over_y), (0, over_x), (0, 0)), mode="edge")
    frame = (0.0, 0.0, size[1] * step[1], size[0] * step[0])
    planes = [
        np.asarray(
            Image.fromarray(padded[..., c].astype(np.float32)).resize(
                size[::-1], Image.Resampling.BILINEAR, box=frame
            )
        )
        for c in range(padded.shape[2])
    ]
    return np.stack(planes, axis=-1)


MPPS = [0.11, 0.25, 0.3, 0.37, 0.499, 0.7, 1.3, 2.9, 9.0]


@pytest.mark.parametrize("mpp", MPPS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_view_is_the_whole_level_resampled_at_once(
    kind: str, mpp: float, pyramids: dict[str, Made]
) -> None:
    with open_slide(pyramids[kind].path, threads=2) as slide:
        view = slide.view(mpp=mpp)
        height, width = slide.size
        if not view.resampled:
            assert view.size == slide.levels[view.level].size
            return
        assert view.size == (math.ceil(height * 0.25 / mpp - 1e-6), math.ceil(width * 0.25 / mpp - 1e-6))
        assert view.mpp == (mpp, mpp)
        assert slide.levels[view.level].downsample[0] <= max(mpp / 0.25, 1)
        level = slide.read(view.level, whole(slide.levels[view.level].size))
        own = slide.levels[view.level].downsample
        step = (view.downsample[0] / own[0], view.downsample[1] / own[1])
        expected = resized_whole(level, view.size, step)
        got = view.read(whole(view.size))
        assert got.dtype == slide.dtype
        # Where a level is reduced more than eightfold, means of blocks come first; bytes are rounded twice.
        scale = 1.0 if slide.dtype.kind == "f" else float(np.iinfo(slide.dtype).max)
        strong = max(step) >= 8
        difference = np.abs(got.astype(np.float64) - expected)
        assert difference.mean() <= scale * (0.003 if strong else 0.0025)
        if not strong:
            assert difference.max() <= (1e-5 if slide.dtype.kind == "f" else scale / 255 * 1.01)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(sorted(KINDS)), mpp=st.sampled_from(MPPS))
def test_no_value_of_a_view_depends_on_the_box(
    data: st.DataObject, kind: str, mpp: float, pyramids: dict[str, Made]
) -> None:
    with open_slide(pyramids[kind].path, threads=2) as slide:
        view = slide.view(mpp=mpp)
        height, width = view.size
        y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        box = Box(y0, x0, data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width)))
        every = view.read(whole(view.size))
        np.testing.assert_array_equal(view.read(box), every[box.y0 : box.y1, box.x0 : box.x1])


def test_a_flat_picture_stays_flat(tmp_path: Path) -> None:
    path, _ = write_tiled(tmp_path / "a.tif", np.full((333, 517, 3), 77, np.uint8), mpp=0.25, factors=())
    with open_slide(path) as slide:
        for mpp in (0.1, 0.33, 3.1):
            view = slide.view(mpp=mpp)
            assert (view.read(whole(view.size)) == 77).all()


def test_a_ramp_stays_where_it_is(tmp_path: Path) -> None:
    """The value at a view's pixel is that of the slide under the pixel's centre: nothing shifts."""
    ramp = np.broadcast_to(np.arange(1000, dtype=np.float32)[None, :, None], (300, 1000, 1))
    path, _ = write_tiled(tmp_path / "a.tif", ramp.copy(), mpp=0.25, factors=())
    with open_slide(path) as slide:
        for mpp in (0.4, 0.65, 1.1):
            view = slide.view(mpp=mpp)
            row = view.read(Box(50, 0, 51, view.size.width))[0, :, 0]
            centres = (np.arange(view.size.width) + 0.5) * mpp / 0.25 - 0.5
            # A triangle that meets whole pixels is off by a few hundredths, to both sides.
            difference = (row - centres)[10:-10]
            assert np.abs(difference).max() < 0.15
            assert abs(difference.mean()) < 0.002


def test_a_level_within_a_thousandth_is_taken_as_it_is(tmp_path: Path) -> None:
    path, _ = write_tiled(tmp_path / "a.tif", picture(200, 300), mpp=0.25)
    with open_slide(path) as slide:
        view = slide.view(mpp=0.50004)
        assert (view.level, view.resampled, view.size) == (1, False, slide.levels[1].size)
        assert slide.view(mpp=0.502).resampled


def test_a_level_as_it_is(pyramids: dict[str, Made]) -> None:
    with open_slide(pyramids["rgb"].path) as slide:
        view = slide.view(level=2)
        assert view.size == (175, 256)
        assert view.downsample == (700 / 175, 1021 / 256)
        assert view.mpp == (0.25 * 4, 0.25 * 1021 / 256)
        np.testing.assert_array_equal(view.read(Box(3, 5, 90, 200)), slide.read(2, Box(3, 5, 90, 200)))
        assert slide.view().size == slide.size


def test_a_view_that_cannot_be(pyramids: dict[str, Made], tmp_path: Path) -> None:
    plain, _ = write_tiled(tmp_path / "plain.tif", KINDS["rgb"])
    with open_slide(pyramids["rgb"].path) as slide:
        with pytest.raises(UsageError, match="level 3 does not exist; the slide has levels 0 to 2"):
            slide.view(level=3)
        with pytest.raises(ValueError, match="not both"):
            slide.view(level=0, mpp=1)
        with pytest.raises(ValueError, match="is not inside the view"):
            slide.view(mpp=0.7).read(Box(0, 0, 1, 1000))
    with (
        open_slide(plain) as slide,
        pytest.raises(UsageError, match="not known; give them with --mpp-override"),
    ):
        slide.view(mpp=0.5)


def test_a_views_georeference_has_its_pixels(tmp_path: Path) -> None:
    path, _ = write_geotiff(tmp_path / "a.tif", KINDS["rgb"])
    with open_slide(path, mpp_override=0.5) as slide:
        geo = slide.view(mpp=0.8).georeference
        assert geo is not None
        assert geo.pixel_scale == pytest.approx((0.8, 0.8, 0))
        assert geo.tiepoints == (0, 0, 0, 5e5, 4.6e6, 0)


def test_a_view_decodes_each_segment_once(pyramids: dict[str, Made]) -> None:
    with open_slide(pyramids["rgb"].path, threads=2) as slide:
        view = slide.view(mpp=0.4)
        for y in range(0, view.size.height, 50):
            view.read(Box(max(y - 20, 0), 0, min(y + 50, view.size.height), view.size.width))
        assert slide.counts.decoded_segments == 11 * 16


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_px", [1, 50, 333, 1021, 5000])
def test_thumbnail(kind: str, max_px: int, pyramids: dict[str, Made]) -> None:
    with open_slide(pyramids[kind].path) as slide:
        height, width = slide.size
        image = slide.thumbnail(max_px)
        longer = min(max_px, width)
        assert image.dtype == np.uint8
        assert image.shape == (
            max(math.ceil(height * longer / width - 1e-6), 1),
            longer,
            1 if slide.channels == 1 else 3,
        )
        if slide.dtype == np.uint8:
            mean = slide.read(0, whole(slide.size))[..., : image.shape[2]].mean()
            assert abs(image.mean() - mean) < (10 if max_px == 1 else 2)
        else:
            assert image.max() == 255


def test_a_thumbnail_of_a_large_picture_without_levels_needs_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.zeros((6000, 9000, 3), np.uint8), tile=(256, 256), compression="zlib", photometric="rgb"
    )
    import tracemalloc

    with open_slide(path, threads=1) as slide:
        tracemalloc.start()
        image = slide.thumbnail(90)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert image.shape == (60, 90, 3)
    # The picture itself is 162 MB.
    assert peak < 120e6
