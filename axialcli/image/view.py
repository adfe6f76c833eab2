"""The slide on the grid of its mask: one level as it is, or resampled to wanted microns per pixel.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from axialcli.errors import UsageError
from axialcli.geometry import Box, GeoReference, Size
from axialcli.image.resample import Resampled, Source, Step

if TYPE_CHECKING:
    from axialcli.image.slide import Slide

FINEST = 16
"""Enlarging further than this cannot be meant: the mask would be hundreds of times the slide."""

_SAME = 1e-3
"""Microns per pixel that differ by less than this share are the same."""


@dataclass(frozen=True, kw_only=True)
class SlideView:
    """A picture on a grid of its own.

    size: of the grid. mpp: microns per pixel (y, x), or None. downsample: pixels of level 0 per pixel of
    the grid, (y, x). level: which level the pixels come from. channels, dtype: as the slide's.
    georeference: the slide's, scaled to this grid. covered: which share of its height and width lies on the
    slide; less than 1 where its last pixels reach beyond.
    """

    size: Size
    mpp: tuple[float, float] | None
    downsample: tuple[float, float]
    level: int
    channels: int
    dtype: np.dtype[Any]
    georeference: GeoReference | None
    resampled: bool
    pixels: Source
    covered: tuple[float, float] = (1.0, 1.0)

    def read(self, box: Box) -> NDArray[Any]:
        """The pixels of `box`, [H, W, C]. Their values do not depend on the box.

        Raises ValueError where the box is empty or leaves the grid, otherwise as Slide.read.
        """
        if box.empty or box.y0 < 0 or box.x0 < 0 or box.y1 > self.size.height or box.x1 > self.size.width:
            raise ValueError(f"{box} is not inside the view, {self.size}")
        return self.pixels.read(box)


class LevelPixels:
    """One level of a slide as a source of pixels."""

    def __init__(self, slide: Slide, level: int) -> None:
        self._slide = slide
        self._level = level
        self.size = slide.levels[level].size

    def read(self, box: Box) -> NDArray[Any]:
        return self._slide.read(self._level, box)


def level_view(slide: Slide, level: int) -> SlideView:
    """A level as it is. Raises UsageError where there is no such level, LimitError where it is too large."""
    if not 0 <= level < len(slide.levels):
        raise UsageError(
            f"{slide.path}: level {level} does not exist; the slide has levels 0 to {len(slide.levels) - 1}"
        )
    slide.check(level)
    down_y, down_x = slide.levels[level].downsample
    return SlideView(
        size=slide.levels[level].size,
        mpp=None if slide.mpp is None else (slide.mpp[0] * down_y, slide.mpp[1] * down_x),
        downsample=(down_y, down_x),
        level=level,
        channels=slide.channels,
        dtype=slide.dtype,
        georeference=slide.georeference.scaled(down_y, down_x) if slide.georeference else None,
        resampled=False,
        pixels=LevelPixels(slide, level),
    )


def mpp_view(slide: Slide, mpp: float) -> SlideView:
    """The slide at `mpp` microns per pixel. Raises UsageError where its own scale is not known."""
    if not 0 < mpp < math.inf:
        raise UsageError(f"{mpp} microns per pixel make no sense: give a number above 0")
    if slide.mpp is None:
        raise UsageError(f"{slide.path}: its microns per pixel are not known; give them with --mpp-override")
    down = (mpp / slide.mpp[0], mpp / slide.mpp[1])
    if min(down) < 1 / FINEST:
        raise UsageError(
            f"{slide.path}: {mpp:g} microns per pixel is over {FINEST} times finer than the slide's own "
            f"{max(slide.mpp):g}: choose a resolution that the slide has"
        )
    for number, level in enumerate(slide.levels):
        if all(abs(own / wanted - 1) <= _SAME for own, wanted in zip(level.downsample, down, strict=True)):
            return level_view(slide, number)
    number = finer_level([level.downsample for level in slide.levels], down)
    slide.check(number)
    size = grid_size(slide.size, down)
    return SlideView(
        size=size,
        mpp=(mpp, mpp),
        downsample=down,
        level=number,
        channels=slide.channels,
        dtype=slide.dtype,
        georeference=slide.georeference.scaled(*down) if slide.georeference else None,
        resampled=True,
        pixels=resampled(slide, number, size, down),
        covered=(
            min(slide.size.height / down[0] / size.height, 1.0),
            min(slide.size.width / down[1] / size.width, 1.0),
        ),
    )


def resampled(slide: Slide, level: int, size: Size, down: tuple[float, float]) -> Resampled:
    """A level on a grid of `size` whose pixels are `down` pixels of level 0 large."""
    own = slide.levels[level].downsample
    return Resampled(LevelPixels(slide, level), size, Step(down[0] / own[0], down[1] / own[1]), slide.run)


def grid_size(size: Size, down: tuple[float, float]) -> Size:
    """Level 0's size over `down`, rounded up; a millionth of a pixel is float noise, not a pixel."""
    height, width = (max(math.ceil(px / by - 1e-6), 1) for px, by in zip(size, down, strict=True))
    return Size(height, width)


def finer_level(levels: Sequence[tuple[float, float]], down: tuple[float, float]) -> int:
    """The coarsest level that is at least as fine as `down`; level 0 where none is."""
    fits = [
        number
        for number, own in enumerate(levels)
        if own[0] <= down[0] * (1 + _SAME) and own[1] <= down[1] * (1 + _SAME)
    ]
    return max(fits, default=0)


def thumbnail(slide: Slide, max_px: int) -> NDArray[np.uint8]:
    """The whole field, at most `max_px` on its longer side: uint8 [H, W, 1 or 3]."""
    if max_px < 1:
        raise ValueError(f"a thumbnail of {max_px} pixels makes no sense")
    by = max(max(slide.size) / max_px, 1.0)
    number = finer_level([level.downsample for level in slide.levels], (by, by))
    size = grid_size(slide.size, (by, by))
    whole = Box(0, 0, size.height, size.width)
    image_HWC = (
        slide.read(number, whole)
        if slide.levels[number].size == size
        else resampled(slide, number, size, (by, by)).read(whole)
    )
    image_HWC = image_HWC[..., : 3 if slide.channels >= 3 else 1]
    if image_HWC.dtype == np.uint8:
        return image_HWC
    values = np.nan_to_num(image_HWC.astype(np.float32))
    brightest = float(values.max())
    scaled = values * (255.0 / brightest if brightest > 0 else 0.0)
    rounded: NDArray[np.uint8] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return rounded
