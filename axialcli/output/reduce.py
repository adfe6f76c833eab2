"""Smaller pictures: labels by the mode of 2x2 pixels or the nearest one, probabilities by their mean.

Shapes: H height, W width. Odd sides round up; what lies past the edge repeats the edge, so that
the last pixel is decided by the pixels that exist.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def mode_2x2(labels_HW: NDArray[Any]) -> NDArray[Any]:
    """The most frequent label of each 2x2 pixels; of equally frequent ones the lowest but 0.

    Unsigned integers [H, W] to [ceil(H/2), ceil(W/2)], same dtype.
    """
    even_HW = _even(labels_HW)
    low, high = even_HW[:, 0::2], even_HW[:, 1::2]
    low, high = np.minimum(low, high), np.maximum(low, high)
    # A sorting network of four: first <= second <= third <= fourth.
    first, second = np.minimum(low[0::2], low[1::2]), np.maximum(low[0::2], low[1::2])
    third, fourth = np.minimum(high[0::2], high[1::2]), np.maximum(high[0::2], high[1::2])
    second, third = np.minimum(second, third), np.maximum(second, third)
    if int(fourth.max()) <= 1:
        return np.asarray(third)
    # Equal middles are the mode. Else a lower pair wins against two singles, an upper pair against
    # two singles, and of two pairs or four singles the lowest that is not 0: `first`, or what follows.
    lower_pair = first == second
    upper_pair = third == fourth
    balanced = lower_pair == upper_pair
    lower = np.where((first == 0) & balanced, np.where(lower_pair, third, second), first)
    mode = np.where(upper_pair & ~lower_pair, third, lower)
    return np.asarray(np.where(second == third, second, mode))


def mean_2x2(image_HW: NDArray[Any]) -> NDArray[Any]:
    """The mean of each 2x2 pixels, taken in float32; integers are rounded to the nearest, halves to even.

    [H, W] to [ceil(H/2), ceil(W/2)], same dtype.
    """
    even_HW = _even(image_HW).astype(np.float32)
    rows = even_HW[0::2] + even_HW[1::2]
    mean_HW = (rows[:, 0::2] + rows[:, 1::2]) * np.float32(0.25)
    if np.issubdtype(image_HW.dtype, np.integer):
        np.rint(mean_HW, out=mean_HW)
    return mean_HW.astype(image_HW.dtype)


def nearest(
    labels_HW: NDArray[Any], height: int, width: int, *, covered: tuple[float, float] = (1.0, 1.0)
) -> NDArray[Any]:
    """The labels [H, W] at another size, each pixel from the nearest one: labels are never mixed.

    covered: which share of their height and width, from the top left corner on, is wanted.
    """
    if labels_HW.shape == (height, width) and covered == (1.0, 1.0):
        return labels_HW
    rows, columns = (
        np.minimum((np.arange(new) + 0.5) * (share * old / new), old - 1).astype(np.intp)
        for old, new, share in zip(labels_HW.shape, (height, width), covered, strict=True)
    )
    return np.ascontiguousarray(labels_HW[rows[:, np.newaxis], columns])


def _even(image_HW: NDArray[Any]) -> NDArray[Any]:
    height, width = image_HW.shape
    if height % 2 == 0 and width % 2 == 0:
        return image_HW
    return np.pad(image_HW, ((0, height % 2), (0, width % 2)), mode="edge")
