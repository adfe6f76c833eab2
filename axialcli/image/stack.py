"""A stack of planes as a volume: one level of a slide, in all of its planes.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from axialcli.errors import UsageError
from axialcli.geometry import Box, VolumeSize, whole
from axialcli.image.segments import LevelSource

if TYPE_CHECKING:
    from axialcli.image.slide import Slide


class Stack:
    """All planes of one level of a slide; a slide without a stack has one.

    size: depth, height and width. mpp: microns per pixel (y, x), or None; spacing_um: microns between two
    planes, or None. channels, dtype: of what `read` returns. level: of the slide.

    Raises UsageError where the slide has no such level, or not in all planes; ImageError where the planes
    are not alike or one is damaged; LimitError where one is too large to unpack.
    """

    def __init__(self, slide: Slide, level: int) -> None:
        if not 0 <= level < len(slide.levels):
            raise UsageError(
                f"{slide.path}: level {level} does not exist; "
                f"the slide has levels 0 to {len(slide.levels) - 1}"
            )
        own = slide.levels[level]
        self.level = level
        self.size = VolumeSize(slide.depth, *own.size)
        self.mpp = (
            None
            if slide.mpp is None
            else (slide.mpp[0] * own.downsample[0], slide.mpp[1] * own.downsample[1])
        )
        self.downsample = own.downsample
        self.spacing_um = slide.spacing_um
        self.channels = slide.channels
        self.dtype: np.dtype[Any] = slide.dtype
        self._slide = slide
        self._planes: Sequence[LevelSource] = [slide.source(level, z) for z in range(slide.depth)]
        for plane in self._planes:
            plane.check()

    def read(self, z: int, box: Box) -> NDArray[Any]:
        """The pixels of `box` of plane `z`, [H, W, C] in the slide's dtype; any thread may call it.

        Raises ValueError where the box is empty or leaves the plane, ImageError where a segment is damaged.
        """
        if box.empty or not whole(self.size.plane).contains(box):
            raise ValueError(f"{box} is not inside a plane of {self.size}")
        out_HWC = np.empty((box.height, box.width, self.channels), self.dtype)
        self._planes[z].read_into(box, out_HWC)
        return out_HWC
