"""TileEngine: overlapping tiles, row by row, blended into finished blocks.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from axialcli.backends import Model
from axialcli.config import MASK_TILE, Blend
from axialcli.engine.ahead import ahead
from axialcli.engine.grid import TileSpan, tile_spans
from axialcli.engine.memory import peak_resident_bytes
from axialcli.errors import LimitError
from axialcli.geometry import Block, Box, Size
from axialcli.image import SlideView

DEFAULT_BATCH = {"cpu": 4, "mps": 4, "cuda": 16}


@dataclass(frozen=True, kw_only=True)
class TilePlan:
    """How a view is cut: column strips of whole mask tiles, each from top to bottom.

    rows: tiles along the height. strips: of each, its columns [x0, x1) and the tiles that touch them.
    """

    rows: list[TileSpan]
    strips: list[tuple[int, int, list[TileSpan]]]

    @property
    def tiles(self) -> int:
        """Tiles that the network runs on, those that two strips share counted twice."""
        return len(self.rows) * sum(len(columns) for _, _, columns in self.strips)

    def boxes(self, size: Size) -> list[Box]:
        """The blocks in the order in which they are finished."""
        return [
            Box(y, x0, min(y + MASK_TILE, size.height), x1)
            for x0, x1, _ in self.strips
            for y in range(0, size.height, MASK_TILE)
        ]


class TileEngine:
    """Runs a model over a view of a slide in overlapping tiles.

    tile, overlap: in pixels of the view; overlap on each side. blend: how tiles share the pixels.
    batch: tiles that run at once, None for what suits the device. max_ram_bytes: what the whole
    process may take; column strips keep it.
    """

    def __init__(
        self,
        view: SlideView,
        model: Model,
        *,
        tile: int,
        overlap: int,
        blend: Blend,
        batch: int | None,
        max_ram_bytes: int,
        probs: bool,
    ) -> None:
        self.view, self.model, self.probs = view, model, probs
        self.batch = batch or DEFAULT_BATCH[model.device.type]
        self.tile = tile
        grid = {
            "tile": tile,
            "overlap": overlap,
            "blend": blend,
            "stride_of": model.spec.network_stride,
        }
        columns = tile_spans(view.size.width, **grid)  # type: ignore[arg-type]
        self.plan = TilePlan(
            rows=tile_spans(view.size.height, **grid),  # type: ignore[arg-type]
            strips=[
                (x0, x1, [span for span in columns if span.start < x1 and span.stop > x0])
                for x0, x1 in self._strips(max_ram_bytes)
            ],
        )

    def blocks(self, done: Collection[Box] = ()) -> Iterator[Block]:
        """The finished blocks, in the plan's order, without those that are `done` already.

        A strip of which some blocks are done is computed again from the first row of tiles that
        the first missing block needs; the numbers are the same as in one run, bit by bit.
        """
        finished = set(done)
        missing = [box for box in self.plan.boxes(self.view.size) if box not in finished]
        for x0, x1, columns in self.plan.strips:
            wanted = [box for box in missing if box.x0 == x0]
            if wanted:
                yield from self._strip(x0, x1, columns, wanted)

    def _strip(self, x0: int, x1: int, columns: list[TileSpan], wanted: list[Box]) -> Iterator[Block]:
        """The wanted blocks of one strip. They differ in y alone."""
        rows = [row for row in self.plan.rows if row.stop > wanted[0].y0]
        band = _Band(self, Box(rows[0].start, x0, self.view.size.height, x1), wanted)
        with ahead(self._slabs(rows, columns), depth=1) as slabs:
            for index, (row, slab_HWC) in enumerate(zip(rows, slabs, strict=True)):
                accumulator_KHW = band.accumulator(row)
                for spans, probs_BKHW in self._run_row(row, columns, slab_HWC):
                    for span, probs_KHW in zip(spans, probs_BKHW, strict=True):
                        _add(accumulator_KHW, probs_KHW, row, span, x0, x1)
                last = index + 1 == len(rows)
                yield from band.finish_rows(row.stop if last else rows[index + 1].start)

    def _slabs(self, rows: list[TileSpan], columns: list[TileSpan]) -> Iterator[NDArray[np.generic]]:
        """The pixels [H, W, C] under each row of tiles; what two rows share is read once."""
        x0, x1 = columns[0].start, columns[-1].stop
        previous_HWC = np.empty((0, x1 - x0, self.view.channels), self.view.dtype)
        read_to = rows[0].start
        for row in rows:
            shared = read_to - row.start
            fresh_HWC = self.view.read(Box(read_to, x0, row.stop, x1))
            if shared:
                fresh_HWC = np.concatenate((previous_HWC[len(previous_HWC) - shared :], fresh_HWC))
            yield fresh_HWC
            previous_HWC, read_to = fresh_HWC, row.stop

    def _run_row(
        self, row: TileSpan, columns: list[TileSpan], slab_HWC: NDArray[np.generic]
    ) -> Iterator[tuple[list[TileSpan], Tensor]]:
        """Probabilities [B, K, H, W] of the row's tiles, in batches of equal width."""
        slab = torch.from_numpy(slab_HWC)
        left = columns[0].start
        batch: list[TileSpan] = []
        for index, span in enumerate(columns):
            batch.append(span)
            following = columns[index + 1] if index + 1 < len(columns) else None
            same = following is not None and following.stop - following.start == span.stop - span.start
            if len(batch) == self.batch or not same:
                images_BHWC = torch.stack([slab[:, s.start - left : s.stop - left] for s in batch])
                yield batch, self.model.predict(images_BHWC.permute(0, 3, 1, 2))
                batch = []

    def _strips(self, max_ram_bytes: int) -> list[tuple[int, int]]:
        """Column ranges of whole mask tiles, as few as the budget allows. Raises LimitError."""
        width = self.view.size.width
        tiles_across = -(-width // MASK_TILE)
        per_px = self._bytes_per_px_of_width()
        used = self._resident_bytes_with_one_batch()
        across = (max_ram_bytes - used) // (per_px * MASK_TILE)
        # A strip reads up to a tile more on each side than it writes.
        if across < tiles_across:
            across -= -(-2 * self.tile // MASK_TILE)
        if across < 1:
            raise LimitError(
                f"--max-ram of {max_ram_bytes >> 20} MiB is too little: libraries, model and one batch take "
                f"{used >> 20} MiB, the narrowest strip {3 * per_px * MASK_TILE >> 20} MiB; "
                "give more, or use a smaller --tile or --batch"
            )
        count = -(-tiles_across // min(across, tiles_across))
        edges = [index * tiles_across // count * MASK_TILE for index in range(count)]
        return list(zip(edges, [*edges[1:], width], strict=True))

    def _bytes_per_px_of_width(self) -> int:
        """What one more pixel of width costs: slabs (one ahead, one in work, one being joined), segments,
        accumulator, and blocks on their way to the sinks."""
        classes = len(self.model.spec.classes)
        pixels = self.view.channels * self.view.dtype.itemsize
        slabs = 4 * self.tile * pixels
        segments = 2 * self.view.segment_rows * pixels
        accumulator = (self.tile + MASK_TILE) * classes * 4
        blocks = 3 * MASK_TILE * (1 + 4 * classes * self.probs)
        return slabs + segments + accumulator + blocks

    def _resident_bytes_with_one_batch(self) -> int:
        """Peak resident memory after a first batch: libraries, weights and the network's buffers."""
        height, width = (min(self.tile, length) for length in self.view.size)
        batch = torch.zeros((self.batch, self.view.channels, height, width), dtype=torch.uint8)
        self.model.predict(batch)
        return peak_resident_bytes()


class _Band:
    """The rows of one strip that are not finished yet: sums of weighted probabilities, then blocks."""

    def __init__(self, engine: TileEngine, box: Box, wanted: list[Box]) -> None:
        self._model, self._probs = engine.model, engine.probs
        self._x0, self._width = box.x0, box.width
        self._top = box.y0
        self._wanted = wanted
        classes = len(engine.model.spec.classes)
        self._sum_KHW = torch.zeros((classes, 0, box.width), device=engine.model.device)
        self._labels: list[NDArray[np.uint8]] = []
        self._kept_probs: list[NDArray[np.float32]] = []
        self._kept_from = box.y0

    def accumulator(self, row: TileSpan) -> Tensor:
        """The sums [K, H, W] of exactly this row's pixels, those of earlier rows included."""
        rows = row.stop - row.start
        have = self._sum_KHW.shape[1]
        if have < rows:
            fresh_KHW = self._sum_KHW.new_zeros((self._sum_KHW.shape[0], rows, self._width))
            fresh_KHW[:, :have] = self._sum_KHW
            self._sum_KHW = fresh_KHW
        return self._sum_KHW

    def finish_rows(self, stop: int) -> Iterator[Block]:
        """Takes the rows above `stop` as final; yields the blocks that they complete."""
        final = stop - self._top
        done_KHW, self._sum_KHW = self._sum_KHW[:, :final], self._sum_KHW[:, final:]
        self._labels.append(self._model.decide(done_KHW).cpu().numpy())
        if self._probs:
            self._kept_probs.append(done_KHW.cpu().numpy().astype(np.float32, copy=True))
        self._top = stop
        while self._wanted and self._wanted[0].y1 <= stop:
            box = self._wanted.pop(0)
            yield Block(
                box=box,
                labels_HW=_rows(self._labels, box.y0 - self._kept_from, box.y1 - self._kept_from, axis=0),
                probs_KHW=(
                    _rows(self._kept_probs, box.y0 - self._kept_from, box.y1 - self._kept_from, axis=1)
                    if self._probs
                    else None
                ),
            )
            self._forget(box.y1)

    def _forget(self, y: int) -> None:
        """Drops the kept rows above y."""
        above = y - self._kept_from
        self._labels = [_rows(self._labels, above, self._top - self._kept_from, axis=0)]
        if self._probs:
            self._kept_probs = [_rows(self._kept_probs, above, self._top - self._kept_from, axis=1)]
        self._kept_from = y


def _rows(parts: list[NDArray[np.generic]], start: int, stop: int, axis: int) -> NDArray[np.generic]:
    """A copy of the rows [start, stop) of arrays that lie below each other."""
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis)
    return joined[start:stop].copy() if axis == 0 else joined[:, start:stop].copy()


def _add(
    accumulator_KHW: Tensor, probs_KHW: Tensor, row: TileSpan, column: TileSpan, x0: int, x1: int
) -> None:
    """Adds one tile, weighted, to the part of it that the strip [x0, x1) owns."""
    first, last = max(column.start, x0), min(column.stop, x1)
    inside = slice(first - column.start, last - column.start)
    device = accumulator_KHW.device
    weight_HW = (
        torch.from_numpy(row.weight).to(device)[:, None]
        * torch.from_numpy(column.weight[inside]).to(device)[None]
    )
    target_KHW = accumulator_KHW[:, : row.stop - row.start, first - x0 : last - x0]
    target_KHW.addcmul_(probs_KHW[:, :, inside].to(device), weight_HW)
