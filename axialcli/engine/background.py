"""Background: the one colour of a slide's empty glass, and the pixels that have it.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK_BYTES = 1 << 17
"""Pixels that are looked at together: few enough to stay in a core's cache from step to step."""

FEW_CHANNELS = 4
"""Up to here the channels of a pixel are joined by shifting whole rows, which suits vector units."""


@dataclass(frozen=True)
class Background:
    """Pixels within `tolerance` of `colour_C` in every channel are blank.

    colour_C: one number per channel, in the slide's own values and type, which must hold it exactly.
    tolerance: 0 or more, in the same units. share: of the slide that is blank, an estimate, which decides
    how much is computed at once and no number.
    """

    colour_C: tuple[float, ...]
    tolerance: float
    share: float = field(default=0.0, compare=False)

    def blank(self, image_HWC: NDArray[Any]) -> NDArray[np.bool_]:
        """Which pixels are blank, [H, W]. NaN never is.

        image_HWC: any real type. Raises ValueError where it has other channels than the colour.
        """
        blank_HW = np.empty(image_HWC.shape[:2], np.bool_)
        for _ in self._marked(np.ascontiguousarray(image_HWC), blank_HW):
            pass
        return blank_HW

    def fill(self, image_HWC: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Sets the blank pixels to the colour, in place. Returns the same array and which they were, [H, W].

        Raises ValueError where the array is not contiguous or has other channels than the colour.
        """
        if not image_HWC.flags.c_contiguous:
            raise ValueError("pixels are filled in place: the array has to be contiguous")
        blank_HW = np.empty(image_HWC.shape[:2], np.bool_)
        colour_W = np.tile(np.asarray(self.colour_C, image_HWC.dtype), image_HWC.shape[1])
        for rows_HN, blank_N in self._marked(image_HWC, blank_HW):
            count = np.count_nonzero(blank_N)
            if count == blank_N.size:
                rows_HN[:] = colour_W
            elif count:
                _set(rows_HN, blank_N, colour_W, len(self.colour_C))
        return image_HWC, blank_HW

    def _marked(
        self, image_HWC: NDArray[Any], blank_HW: NDArray[np.bool_]
    ) -> Iterator[tuple[NDArray[Any], NDArray[np.bool_]]]:
        """A few rows of the picture at a time [H, W * C], with the same pixels' marks [H * W], just made."""
        height, width, channels = image_HWC.shape
        if channels != len(self.colour_C):
            raise ValueError(f"a background of {len(self.colour_C)} channels, a picture of {channels}")
        near = self._nearness(image_HWC.dtype, width)
        flat_HN = image_HWC.reshape(height, width * channels)
        rows = max(1, CHUNK_BYTES // max(flat_HN.strides[0], 1))
        for y in range(0, height, rows):
            rows_HN, blank_N = flat_HN[y : y + rows], blank_HW[y : y + rows].reshape(-1)
            _join(near(rows_HN).reshape(-1), channels, blank_N)
            yield rows_HN, blank_N

    def _nearness(self, kind: np.dtype[Any], width: int) -> Callable[[NDArray[Any]], NDArray[np.bool_]]:
        """What says of rows of pixels [H, W * C] which single values are within the tolerance."""
        low_W = np.tile(np.asarray(self.colour_C, np.float64) - self.tolerance, width)
        high_W = np.tile(np.asarray(self.colour_C, np.float64) + self.tolerance, width)
        if kind.kind != "u":
            return lambda rows_HN: (rows_HN >= low_W) & (rows_HN <= high_W)
        # Unsigned numbers below the first wrap around to large ones: one subtraction and one comparison do.
        most = np.iinfo(kind).max
        first_W = np.ceil(low_W).clip(0, most).astype(kind)
        reach_W = np.floor(high_W).clip(0, most).astype(kind) - first_W
        return lambda rows_HN: rows_HN - first_W <= reach_W


def _join(near_N: NDArray[np.bool_], channels: int, blank_N: NDArray[np.bool_]) -> None:
    """A pixel is blank where all its channels are near."""
    if channels == 1 or channels > FEW_CHANNELS or not near_N.size:
        np.all(near_N.reshape(-1, channels), axis=1, out=blank_N)
        return
    stop = near_N.size - channels + 1
    joined = near_N[:stop] & near_N[1 : stop + 1]
    for channel in range(2, channels):
        joined &= near_N[channel : stop + channel]
    blank_N[:] = joined[::channels]


def _set(rows_HN: NDArray[Any], blank_N: NDArray[np.bool_], colour_W: NDArray[Any], channels: int) -> None:
    """Gives the blank ones of mixed rows their colour."""
    if rows_HN.dtype.kind != "u":
        np.copyto(rows_HN, colour_W, where=blank_N.repeat(channels).reshape(rows_HN.shape))
        return
    # With integers: x ^ ((x ^ colour) & mask), the mask all ones where blank. Several times faster than
    # assigning through a mask.
    mask_NC = np.empty((blank_N.size, channels), rows_HN.dtype)
    ones = blank_N.astype(rows_HN.dtype)
    for channel in range(channels):
        np.negative(ones, out=mask_NC[:, channel])
    change_HN = rows_HN ^ colour_W
    change_HN &= mask_NC.reshape(rows_HN.shape)
    rows_HN ^= change_HN
