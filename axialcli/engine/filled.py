"""The pixels of a view with its background set to one colour, and how much of them that was.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialcli.engine.background import Background
from axialcli.geometry import Box
from axialcli.image import SlideView

EVERY = slice(None)


class FilledView:
    """Reads a view for an engine. read_px, blank_px: pixels that were read and counted, and blank ones."""

    def __init__(self, view: SlideView, background: Background | None) -> None:
        self._view, self._background = view, background
        self.read_px = self.blank_px = 0

    def read(self, box: Box, counted: slice = EVERY) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """The pixels [H, W, C] of `box`, and which are blank [H, W]; None where nobody looks for it.

        counted: the columns of the box that count.
        """
        image_HWC = self._view.read(box)
        if self._background is None:
            return image_HWC, None
        image_HWC, blank_HW = self._background.fill(np.ascontiguousarray(image_HWC))
        counted_HW = blank_HW[:, counted]
        self.read_px += counted_HW.size
        self.blank_px += int(np.count_nonzero(counted_HW))
        return image_HWC, blank_HW
