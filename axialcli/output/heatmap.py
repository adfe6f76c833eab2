"""Pictures of how probable one class is, over the slide.

Shapes: H height, W width, C channels (red, green, blue).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from axialcli.output.folder import WorkFolder
from axialcli.output.info import MaskInfo
from axialcli.output.journal import OVERLAY_FILE
from axialcli.output.overlay import OVERLAY_MAX_PX, write_overlay
from axialcli.output.probs import ProbsSink
from axialcli.output.reduce import nearest

_UNLIKELY, _LIKELY = (255, 230, 0), (215, 0, 38)
_STRENGTH = 0.8


class HeatmapPicture(ProbsSink):
    """A Sink for the probability of one class that becomes a PNG."""

    def __init__(self, folder: WorkFolder, info: MaskInfo, *, label: int) -> None:
        """Opens the spool in `folder`, which is no other sink's. Raises OutputError."""
        super().__init__(folder, info, label=label)
        self._picture = folder.file(OVERLAY_FILE)

    def draw(self, thumbnail_HWC: NDArray[np.uint8]) -> Path:
        """Draws the probability over a thumbnail of the slide; returns the file. Raises OutputError."""
        self._raster.build_pyramid()
        prob_HW = self._raster.at_most(OVERLAY_MAX_PX)
        return write_overlay(self._picture, heated(thumbnail_HWC, prob_HW, covered=self._info.covered))


def heated(
    thumbnail_HWC: NDArray[np.uint8],
    prob_HW: NDArray[np.uint8],
    *,
    covered: tuple[float, float] = (1.0, 1.0),
) -> NDArray[np.uint8]:
    """The thumbnail in grey, under a colour from yellow to red that is the stronger the more probable.

    thumbnail_HWC: uint8, one or three channels. prob_HW: uint8, 255 is certain, of the same picture at any
    size. covered: the share of their height and width that lies on the picture. Returns uint8 [H, W, 3].
    """
    height, width, _ = thumbnail_HWC.shape
    grey_HW1 = thumbnail_HWC.mean(2, dtype=np.float32, keepdims=True)
    p_HW1 = nearest(prob_HW, height, width, covered=covered)[..., np.newaxis] / np.float32(255)
    low, high = np.array(_UNLIKELY, np.float32), np.array(_LIKELY, np.float32)
    colour_HWC = low + (high - low) * p_HW1
    mixed_HWC = grey_HW1 + (colour_HWC - grey_HW1) * (np.float32(_STRENGTH) * p_HW1)
    return np.asarray(np.rint(mixed_HWC), np.uint8)
