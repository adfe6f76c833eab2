"""The grid of overlapping tiles along one axis, and how the tiles share the mask's pixels between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from axialcli.config import Blend
from axialcli.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class TileSpan:
    """One tile along one axis.

    start, stop: the mask's pixels [start, stop) that it answers. weight: of its answer at each of them,
    float32, between 0 and 1; over all tiles the weights of a pixel sum to 1. first, last: the view's pixels
    [first, last) that it is made of. before, after: how many are missing where the tile reaches beyond the
    view, and are filled.
    """

    start: int
    stop: int
    weight: NDArray[np.float32]
    first: int
    last: int
    before: int = 0
    after: int = 0

    @property
    def length(self) -> int:
        """Pixels that the network sees."""
        return self.before + self.last - self.first + self.after


def tile_step(tile: int, overlap: int, unit: int) -> int:
    """How far tiles of `tile` pixels are apart that share `overlap` on each side, a multiple of `unit`.

    Raises UsageError where that leaves no step forward.
    """
    step = (tile - 2 * overlap) // unit * unit
    if overlap < 0 or step <= 0:
        raise UsageError(
            f"tile {tile} with overlap {overlap} leaves no step forward "
            f"(the network's stride is {unit}): use a larger --tile or a smaller --overlap"
        )
    return step


def tile_spans(
    length: int,
    *,
    tile: int,
    overlap: int,
    blend: Blend,
    stride_of: int = 1,
    stride: int = 1,
    multiple: int = 1,
    fixed: bool = False,
) -> list[TileSpan]:
    """Tiles of `tile` pixels that cover [0, length) and share at least 2 * overlap with each neighbour.

    stride: pixels per pixel of the mask; it and `multiple` divide `tile`. Origins are multiples of both, and
    of `stride_of`, the network's own stride. The last tile ends at the picture's edge and is shorter where it
    has to be, but never so short that it brings nothing but overlap; it is filled up to a multiple of
    `multiple` and `stride`, or to a whole tile where tiles are `fixed`. Raises UsageError where tile,
    overlap and strides do not leave a step forward.
    """
    step = tile_step(tile, overlap, math.lcm(stride_of, stride, multiple)) // stride
    size, span = -(-length // stride), tile // stride
    count = max(1, -(-(size - (span - step)) // step))
    starts = [index * step for index in range(count)]
    raw = [_raw_weight(start, min(start + span, size), span, blend) for start in starts]
    if blend == "crop":
        _keep_centres(raw, starts, (span - step) // 2)
    total = np.zeros(size)
    for start, weight in zip(starts, raw, strict=True):
        total[start : start + len(weight)] += weight
    unit = tile if fixed else math.lcm(multiple, stride)
    spans = []
    for start, weight in zip(starts, raw, strict=True):
        shared = (weight / total[start : start + len(weight)]).astype(np.float32)
        first, last = start * stride, min(start * stride + tile, length)
        after = -(last - first) % unit if last == length else 0
        spans.append(
            TileSpan(
                start=start,
                stop=start + len(weight),
                weight=shared,
                first=first,
                last=last,
                after=after,
            )
        )
    return spans


def centred_spans(length: int, *, tile: int, overlap: int) -> list[TileSpan]:
    """Tiles that answer one pixel of the mask each, `tile` - 2 * overlap pixels of the view large.

    Each tile reaches `overlap` beyond its pixel on both sides, and is filled where it leaves the view.
    Raises UsageError where the overlap leaves nothing of the tile.
    """
    step = tile_step(tile, overlap, 1)
    one = np.ones(1, np.float32)
    spans = []
    for index in range(-(-length // step)):
        first, last = index * step - overlap, index * step - overlap + tile
        inside = (max(first, 0), min(last, length))
        spans.append(
            TileSpan(
                start=index,
                stop=index + 1,
                weight=one,
                first=inside[0],
                last=inside[1],
                before=inside[0] - first,
                after=last - inside[1],
            )
        )
    return spans


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
