"""TileEngine: overlapping tiles, row by row, blended into finished blocks.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise, zip_longest

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from axialcli.backends import Model
from axialcli.backends.memory import memory_is_a_limit
from axialcli.config import MASK_TILE, Blend
from axialcli.engine.ahead import ahead
from axialcli.engine.band import Band
from axialcli.engine.grid import TileSpan, tile_spans
from axialcli.engine.memory import peak_resident_bytes
from axialcli.engine.stopwatch import Stopwatch
from axialcli.errors import LimitError
from axialcli.geometry import Block, Box, Size
from axialcli.image import SlideView

SPARE_BYTES = 48 << 20
"""What the budget leaves for the rest: the slide's own buffers, compressed tiles, the final assembly."""

OVERLAY_BYTES = 128 << 20
"""What thumbnail, labels and the picture of both take while they are put together."""

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
    process may take; column strips keep it. cached_rows: rows of the view that the slide keeps
    decoded between two reads. probs: whether the blocks carry probabilities. overlay: whether the budget
    has to leave room for one. strips: the left edges
    of the strips of an earlier run, to be repeated; None: as few as the budget allows.
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
        cached_rows: int = 0,
        probs: bool = False,
        overlay: bool = False,
        strips: list[int] | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self.view, self.model, self.probs = view, model, probs
        self.cached_rows = cached_rows
        self.spare_bytes = SPARE_BYTES + overlay * OVERLAY_BYTES
        self.stopwatch = stopwatch or Stopwatch()
        self._cancelled = threading.Event()
        self.tile = tile

        def spans(length: int) -> list[TileSpan]:
            return tile_spans(
                length, tile=tile, overlap=overlap, blend=blend, stride_of=model.spec.network_stride
            )

        columns = spans(view.size.width)
        self.batch = min(batch or DEFAULT_BATCH[model.device.type], len(columns))
        self.plan = TilePlan(
            rows=spans(view.size.height),
            strips=[
                (x0, x1, [span for span in columns if span.start < x1 and span.stop > x0])
                for x0, x1 in pairwise([*(strips or self._strips(max_ram_bytes)), view.size.width])
            ],
        )

    def cancel(self) -> None:
        """Asks a running `blocks`, in whatever thread, to stop after the batch in work."""
        self._cancelled.set()

    def blocks(self, done: Collection[Box] = ()) -> Iterator[Block]:
        """The finished blocks, in the plan's order, without those that are `done` already.

        A strip of which some blocks are done is computed again from the first row of tiles that
        the first missing block needs; the numbers are the same as in one run, bit by bit.
        """
        finished = set(done)
        missing = [box for box in self.plan.boxes(self.view.size) if box not in finished]
        with memory_is_a_limit():
            for x0, x1, columns in self.plan.strips:
                wanted = [box for box in missing if box.x0 == x0]
                if wanted:
                    yield from self._strip(x0, x1, columns, wanted)

    def _strip(self, x0: int, x1: int, columns: list[TileSpan], wanted: list[Box]) -> Iterator[Block]:
        """The wanted blocks of one strip. They differ in y alone."""
        rows = [row for row in self.plan.rows if row.stop > wanted[0].y0]
        band = Band(self.model, top=rows[0].start, columns=(x0, x1), wanted=wanted, probs=self.probs)
        with ahead(self._slabs(rows, columns), depth=1) as slabs:
            for index, (row, slab_HWC) in enumerate(zip(rows, slabs, strict=True)):
                band.open(row)
                for spans, probs_BKHW in self._run_row(columns, slab_HWC):
                    if self._cancelled.is_set():
                        return
                    with self.stopwatch.stage("blend"):
                        for span, probs_KHW in zip(spans, probs_BKHW, strict=True):
                            band.add(probs_KHW, row, span)
                last = index + 1 == len(rows)
                with self.stopwatch.stage("blend"):
                    finished = list(band.finish(row.stop if last else rows[index + 1].start))
                yield from finished

    def _slabs(self, rows: list[TileSpan], columns: list[TileSpan]) -> Iterator[NDArray[np.generic]]:
        """The pixels [H, W, C] under each row of tiles; what two rows share is read once."""
        x0, x1 = columns[0].start, columns[-1].stop
        shared_HWC = np.empty((0, x1 - x0, self.view.channels), self.view.dtype)
        for row, following in zip_longest(rows, rows[1:]):
            with self.stopwatch.stage("read"):
                slab_HWC = self.view.read(Box(row.start + len(shared_HWC), x0, row.stop, x1))
                if len(shared_HWC):
                    slab_HWC = np.concatenate((shared_HWC, slab_HWC))
                if following:
                    shared_HWC = slab_HWC[following.start - row.start :].copy()
            yield slab_HWC
            # The consumer alone decides how long a slab lives.
            del slab_HWC

    def _run_row(
        self, columns: list[TileSpan], slab_HWC: NDArray[np.generic]
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
                with self.stopwatch.stage("network"):
                    images_BHWC = torch.stack([slab[:, s.start - left : s.stop - left] for s in batch])
                    probs_BKHW = self.model.predict(images_BHWC.permute(0, 3, 1, 2))
                yield batch, probs_BKHW
                batch = []

    def _strips(self, max_ram_bytes: int) -> list[int]:
        """Left edges of strips of whole mask tiles, as few as the budget allows. Raises LimitError."""
        tiles_across = -(-self.view.size.width // MASK_TILE)
        per_px = self._bytes_per_px_of_width()
        height, width = (min(self.tile, length) for length in self.view.size)
        # Before a batch is tried, at least its input and its probabilities have to fit.
        if (
            4 * self.batch * height * width * (self.view.channels + len(self.model.spec.classes))
            > max_ram_bytes
        ):
            raise LimitError(
                f"--max-ram of {max_ram_bytes >> 20} MiB is too little for a batch of {self.batch} tiles of "
                f"{self.tile}: give more, or use a smaller --tile or --batch"
            )
        used = self._resident_bytes_with_one_batch(height, width) + self.spare_bytes
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
        return [index * tiles_across // count * MASK_TILE for index in range(count)]

    def _bytes_per_px_of_width(self) -> int:
        """What one more pixel of width costs: slabs (one ahead, one in work, one being joined), segments,
        accumulator, and blocks on their way to the sinks."""
        classes = len(self.model.spec.classes)
        pixels = self.view.channels * self.view.dtype.itemsize
        slabs = 4 * self.tile * pixels
        segments = 2 * self.cached_rows * pixels
        accumulator = (self.tile + MASK_TILE) * classes * 4
        blocks = 3 * MASK_TILE * (1 + 4 * classes * self.probs)
        return slabs + segments + accumulator + blocks

    def _resident_bytes_with_one_batch(self, height: int, width: int) -> int:
        """Peak resident memory after a first batch: libraries, weights and the network's buffers."""
        with memory_is_a_limit():
            batch = torch.zeros((self.batch, self.view.channels, height, width), dtype=torch.uint8)
            self.model.predict(batch)
        return peak_resident_bytes()
