"""Pixels beyond a picture's edge: its first and last rows and columns, repeated, or its mirror image.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def fill_edges(
    image_HWC: NDArray[Any], rows: tuple[int, int], columns: tuple[int, int], *, mirrored: bool = False
) -> NDArray[Any]:
    """The image [H, W, C] with its first and last row and column repeated so many times; any dtype.

    rows, columns: how often before and after, 0 or more. mirrored: mirrored at them instead, a small image in
    turn. Without any the same array comes back.
    """
    if not any((*rows, *columns)):
        return image_HWC
    return np.pad(image_HWC, (rows, columns, (0, 0)), mode="reflect" if mirrored else "edge")
