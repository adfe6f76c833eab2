"""Resampling on the coordinates of the whole slide, so that no value depends on the box that was asked for.

The output is cut into cells of an absolute grid, and a cell is always computed in the same way from the
same source pixels. Triangle filter with antialiasing (Pillow's bilinear); strong reductions average
whole blocks first, which bounds the memory.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from axialcli.geometry import Box, Size

Pixels = NDArray[Any]
Run = Callable[[Callable[[Sequence[Box]], None], Sequence[Box]], None]

_WINDOW_BYTES = 32 * 2**20
_CELL_PX = 64
_CELL_WIDTH_PX = 1024
_STRONG = 8


class Source(Protocol):
    """Pixels to resample."""

    @property
    def size(self) -> Size: ...

    def read(self, box: Box) -> Pixels:
        """[H, W, C] of a box inside `size`."""


class Step(NamedTuple):
    """Source pixels per output pixel."""

    y: float
    x: float


class Resampled:
    """A source on a grid of `size` whose pixel i covers [i, i + 1) times `step` of the source.

    Where the last pixels reach over the source's edge, the edge is repeated.
    """

    def __init__(self, source: Source, size: Size, step: Step, run: Run) -> None:
        factors = tuple(int(one // 4) if one >= _STRONG else 1 for one in step)
        if factors != (1, 1):
            source = BlockMeans(source, factors[0], factors[1], run)
            step = Step(step.y / factors[0], step.x / factors[1])
        self.size = size
        self._source = source
        self._step = step
        self._run = run
        self._cell = Size(_cell(_CELL_PX, step.y), _cell(_CELL_WIDTH_PX, step.x))

    def read(self, box: Box) -> Pixels:
        """[H, W, C] of a box inside `size`, in the source's dtype; values do not depend on the box."""
        out_HWC: Pixels | None = None
        for band in self._bands(box):
            window = self._window(band)
            source_HWC = self._source.read(window)
            if out_HWC is None:
                out_HWC = np.empty((box.height, box.width, source_HWC.shape[2]), source_HWC.dtype)
            self._fill(out_HWC, box, band, source_HWC, window)
        assert out_HWC is not None
        return out_HWC

    def _bands(self, box: Box) -> list[Box]:
        """Whole cells that cover the box, in bands whose source fits into a window's memory."""
        height, width = self._cell
        x0, x1 = box.x0 // width * width, min(-(-box.x1 // width) * width, self.size.width)
        # Four bytes a pixel stand for whatever the pixels are.
        row_bytes = height * self._step.y * (x1 - x0) * self._step.x * 4
        band_px = height * max(1, int(_WINDOW_BYTES / max(row_bytes, 1)))
        start, stop = box.y0 // height * height, min(-(-box.y1 // height) * height, self.size.height)
        return [Box(y, x0, min(y + band_px, stop), x1) for y in range(start, stop, band_px)]

    def _window(self, cells: Box) -> Box:
        """What the source must give for some cells: the filter's support on every side, inside the source."""
        size = self._source.size
        y0, y1 = _reach(cells.y0, cells.y1, self._step.y, size.height)
        x0, x1 = _reach(cells.x0, cells.x1, self._step.x, size.width)
        return Box(y0, x0, y1, x1)

    def _fill(self, out_HWC: Pixels, box: Box, band: Box, source_HWC: Pixels, window: Box) -> None:
        height, width = self._cell
        cells = [
            Box(y, x, min(y + height, band.y1), min(x + width, band.x1))
            for y in range(band.y0, band.y1, height)
            for x in range(band.x0, band.x1, width)
        ]

        def work(jobs: Sequence[Box]) -> None:
            for cell in jobs:
                wanted = cell.intersection(box)
                if wanted.empty:
                    continue
                own = self._window(cell)
                values = self._resize(source_HWC[own.within(window)], own, cell)
                out_HWC[wanted.within(box)] = values[wanted.within(cell)]

        self._run(work, cells)

    def _resize(self, source_HWC: Pixels, window: Box, cell: Box) -> Pixels:
        frame = (
            cell.x0 * self._step.x - window.x0,
            cell.y0 * self._step.y - window.y0,
            cell.x1 * self._step.x - window.x0,
            cell.y1 * self._step.y - window.y0,
        )
        over_y = max(0, math.ceil(frame[3]) - window.height)
        over_x = max(0, math.ceil(frame[2]) - window.width)
        if over_y or over_x:
            source_HWC = np.pad(source_HWC, ((0, over_y), (0, over_x), (0, 0)), mode="edge")
        size = (cell.width, cell.height)
        return _by_plane(source_HWC, lambda image: image.resize(size, Image.Resampling.BILINEAR, box=frame))


class BlockMeans:
    """A source reduced by whole factors, each pixel the mean of a block; see Source."""

    def __init__(self, source: Source, factor_y: int, factor_x: int, run: Run) -> None:
        height, width = source.size
        self.size = Size(-(-height // factor_y), -(-width // factor_x))
        self._source = source
        self._factor = (factor_y, factor_x)
        self._run = run

    def read(self, box: Box) -> Pixels:
        factor_y, factor_x = self._factor
        height, width = self._source.size
        rows = max(1, int(_WINDOW_BYTES / (box.width * factor_x * factor_y * 4)))
        out_HWC: Pixels | None = None
        for y in range(box.y0, box.y1, rows):
            y1 = min(y + rows, box.y1)
            window = Box(
                y * factor_y, box.x0 * factor_x, min(y1 * factor_y, height), min(box.x1 * factor_x, width)
            )
            source_HWC = self._source.read(window)
            if out_HWC is None:
                out_HWC = np.empty((box.height, box.width, source_HWC.shape[2]), source_HWC.dtype)
            self._fill(out_HWC[y - box.y0 : y1 - box.y0], source_HWC)
        assert out_HWC is not None
        return out_HWC

    def _fill(self, out_HWC: Pixels, source_HWC: Pixels) -> None:
        factor_y, factor_x = self._factor
        step = max(1, _CELL_WIDTH_PX // factor_x)
        height, width = out_HWC.shape[:2]
        columns = [Box(0, x, height, min(x + step, width)) for x in range(0, width, step)]

        def work(jobs: Sequence[Box]) -> None:
            for job in jobs:
                block = source_HWC[:, job.x0 * factor_x : job.x1 * factor_x]
                out_HWC[:, job.x0 : job.x1] = _by_plane(
                    block, lambda image: image.reduce((factor_x, factor_y))
                )

        self._run(work, columns)


def _cell(source_px: int, step: float) -> int:
    """The side of a cell in output pixels, a power of two: about `source_px` of the source."""
    return int(2 ** min(max(round(math.log2(source_px / step)), 3), 10))


def _reach(start: int, stop: int, step: float, size: int) -> tuple[int, int]:
    support = max(step, 1.0) + 1
    first = min(max(math.floor(start * step - support), 0), size - 1)
    return first, max(min(math.ceil(stop * step + support), size), first + 1)


def _by_plane(image_HWC: Pixels, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    """Applies a change of Pillow's to pixels of any dtype and any number of channels."""
    dtype = image_HWC.dtype
    if dtype == np.uint8 and image_HWC.shape[2] == 3:
        return np.asarray(change(Image.fromarray(np.ascontiguousarray(image_HWC))))
    planes = []
    for channel in range(image_HWC.shape[2]):
        plane = np.ascontiguousarray(image_HWC[..., channel])
        planes.append(
            np.asarray(change(Image.fromarray(plane if dtype == np.uint8 else plane.astype(np.float32))))
        )
    values = np.stack(planes, axis=-1)
    if dtype.kind == "f" or dtype == np.uint8:
        return values.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    rounded: Pixels = np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
    return rounded
