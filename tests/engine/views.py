"""A view on an array, in place of one on a slide: what the engine asks of a view and nothing more."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from axialcli.geometry import Box, Size


class ArrayView:
    """image_HWC behind the interface of a SlideView; keeps the boxes that were read."""

    def __init__(self, image_HWC: NDArray[np.generic]) -> None:
        self.image_HWC = image_HWC
        self.size = Size(*image_HWC.shape[:2])
        self.channels = image_HWC.shape[2]
        self.dtype = image_HWC.dtype
        self.read_boxes: list[Box] = []

    def read(self, box: Box) -> NDArray[np.generic]:
        self.read_boxes.append(box)
        return self.image_HWC[box.y0 : box.y1, box.x0 : box.x1].copy()
