"""The grid of overlapping tiles along one axis, and how the tiles share the pixels between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from axialcli.config import Blend
from axialcli.errors import UsageError


@dataclass(frozen=True)
class TileSpan:
    """One tile along one axis: the pixels [start, stop) and its weight at each of them.

    weight: float32, between 0 and 1; over all tiles the weights of a pixel sum to 1.
    """

    start: int
    stop: int
    weight: NDArray[np.float32]


def tile_spans(length: int, *, tile: int, overlap: int, blend: Blend, stride_of: int = 1) -> list[TileSpan]:
    """Tiles of `tile` pixels that cover [0, length) and share 2 * overlap pixels with each neighbour.

    Origins are multiples of `stride_of`, the network's stride. The last tile ends at the picture's
    edge and is shorter where it has to be, but never so short that it brings nothing but overlap.
    Raises UsageError where tile, overlap and stride do not leave a step forward.
    """
    step = (tile - 2 * overlap) // stride_of * stride_of
    if overlap < 0 or step <= 0:
        raise UsageError(
            f"tile {tile} with overlap {overlap} leaves no step forward "
            f"(the network's stride is {stride_of}): use a larger --tile or a smaller --overlap"
        )
    count = max(1, -(-(length - (tile - step)) // step))
    starts = [index * step for index in range(count)]
    raw = [_raw_weight(start, min(start + tile, length), tile, blend) for start in starts]
    if blend == "crop":
        _keep_centres(raw, starts, (tile - step) // 2)
    total = np.zeros(length)
    for start, weight in zip(starts, raw, strict=True):
        total[start : start + len(weight)] += weight
    return [
        TileSpan(start, start + len(weight), (weight / total[start : start + len(weight)]).astype(np.float32))
        for start, weight in zip(starts, raw, strict=True)
    ]


def _raw_weight(start: int, stop: int, tile: int, blend: Blend) -> NDArray[np.float64]:
    """The weight before sharing, above 0 everywhere, by the distance from the nominal tile's centre."""
    from_centre = np.arange(stop - start) + 0.5 - tile / 2
    if blend == "gaussian":
        return np.asarray(np.exp(-0.5 * (from_centre / (tile / 8)) ** 2))
    if blend == "linear":
        return np.asarray(tile / 2 - np.abs(from_centre))
    return np.ones(stop - start)


def _keep_centres(raw: list[NDArray[np.float64]], starts: list[int], margin: int) -> None:
    """Sets to zero what a neighbour owns: of the shared pixels each tile keeps the half nearer to it."""
    for index, weight in enumerate(raw):
        if index > 0:
            weight[:margin] = 0
        if index + 1 < len(raw):
            weight[starts[index + 1] + margin - starts[index] :] = 0
