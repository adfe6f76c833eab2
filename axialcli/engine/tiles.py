"""TileEngine: overlapping tiles, row by row, blended into finished blocks.

Shapes: B batch, H height, W width, C channels, K classes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch

from axialcli.backends import Model
from axialcli.backends.memory import give_back_memory, memory_is_a_limit
from axialcli.config import MASK_TILE, EngineName
from axialcli.engine.ahead import ahead
from axialcli.engine.background import Background
from axialcli.engine.band import Band
from axialcli.engine.grid import TileSpan
from axialcli.engine.halving import Halvings, halved_strips
from axialcli.engine.mask_grid import mask_size
from axialcli.engine.memory import peak_resident_bytes
from axialcli.engine.slabs import Slabs
from axialcli.engine.stopwatch import Stopwatch
from axialcli.engine.tile_plan import TilePlan, cut, strip_edges
from axialcli.engine.tile_runner import TileRunner
from axialcli.engine.tiling import Tiling
from axialcli.errors import AllocationError, LimitError
from axialcli.geometry import Block, Box, Size, label_dtype
from axialcli.image import SlideView

SPARE_BYTES = 48 << 20
"""What the budget leaves for the rest: the slide's own buffers, compressed tiles, the final assembly."""

OVERLAY_BYTES = 128 << 20
"""What thumbnail, labels and the picture of both take while they are put together."""

DEFAULT_BATCH = {"cpu": 4, "mps": 4, "cuda": 16}

logger = logging.getLogger("axial")


class TileEngine:
    """An Engine that runs a model over a view of a slide in overlapping tiles.

    tiling: the tiles, and with them the mask's grid. batch: tiles that run at once, None for what suits
    the device. max_ram_bytes: what the whole process may take; column strips keep it. cached_rows: rows
    of the view that the slide keeps decoded between two reads. background: its pixels are set to one
    colour, and tiles of nothing else are not run. windows: of the mask, whose logits the blocks carry: the
    logarithms of the blended probabilities. probs: whether the blocks carry probabilities. overlay:
    whether the budget has to leave room for one. repeat: the `plan_notes` of an earlier run. size: of the
    mask.
    """

    name: EngineName = "tiles"

    def __init__(
        self,
        view: SlideView,
        model: Model,
        *,
        tiling: Tiling,
        batch: int | None,
        max_ram_bytes: int,
        cached_rows: int = 0,
        background: Background | None = None,
        windows: Sequence[Box] = (),
        probs: bool = False,
        overlay: bool = False,
        repeat: Mapping[str, Any] | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self.view, self.model, self.tiling, self.probs = view, model, tiling, probs
        self.size = mask_size(view.size, tiling.stride)
        self.background, self.windows = background, tuple(windows)
        self.cached_rows = cached_rows
        self.spare_bytes = SPARE_BYTES + overlay * OVERLAY_BYTES
        self.stopwatch = stopwatch or Stopwatch()
        self._cancelled = threading.Event()
        self._slabs = Slabs(view, background, self.stopwatch)
        self._runner = TileRunner(
            model, tiling, background=background, dtype=view.dtype, stopwatch=self.stopwatch
        )
        self._halvings = Halvings(repeat)
        rows, columns = tiling.rows(view.size.height), tiling.columns(view.size.width)
        self.batch = (
            int(repeat["batch"]) if repeat else min(batch or DEFAULT_BATCH[model.device.type], len(columns))
        )
        self._seen = Size(rows[0].length, columns[0].length)
        edges = list(repeat["strips"]) if repeat else self._strips(max_ram_bytes)
        self.plan = TilePlan(rows=rows, strips=cut(columns, edges, self.size.width))

    def boxes(self) -> list[Box]:
        """The blocks in the order in which they are finished."""
        return self._halvings.boxes(self.plan.boxes(self.size))

    def cancel(self) -> None:
        """Asks a running `blocks`, in whatever thread, to stop after the batch in work."""
        self._cancelled.set()

    def plan_notes(self) -> dict[str, Any]:
        """Batch, the left edges of the strips, and what was halved to come to them."""
        return {"batch": self.batch, "strips": self._edges(), **self._halvings.notes()}

    def halve(self, done: Collection[Box]) -> str | None:
        """Half as many tiles at once; where it is one already, strips of half the width."""
        self._cancelled.clear()
        if self.batch > 1:
            self._halve_batch()
            return f"batches of {self.batch}"
        edges = halved_strips(self._edges(), self.size.width)
        if len(edges) == len(self.plan.strips):
            return None
        columns = self.tiling.columns(self.view.size.width)
        self._halvings.add("strips", done)
        self.plan = TilePlan(rows=self.plan.rows, strips=cut(columns, edges, self.size.width))
        return f"{len(edges)} column strips"

    def finish(self) -> None:
        """Nothing to do: tiles leave nothing behind."""

    def close(self) -> None:
        """Nothing to do: nothing is open between two blocks."""

    def describe(self) -> dict[str, Any]:
        """batch, strips and tiles of the plan; the shares of pixels that were blank and of tiles that were
        skipped, of what this run itself did."""
        runner, pixels = self._runner, self._slabs.pixels.read_px
        tiles = runner.tiles_run + runner.tiles_skipped
        return {
            "batch": self.batch,
            "strips": len(self.plan.strips),
            "tiles": self.plan.tiles,
            "halved": self._halvings.describe(),
            "blank_share": round(self._slabs.pixels.blank_px / pixels, 4) if pixels else 0.0,
            "skipped_share": round(runner.tiles_skipped / tiles, 4) if tiles else 0.0,
        }

    def blocks(self, done: Collection[Box] = ()) -> Iterator[Block]:
        """The finished blocks, in the plan's order, without those that are `done` already.

        A strip of which some blocks are done is computed again from the first row of tiles that
        the first missing block needs; the numbers are the same as in one run, bit by bit.
        """
        missing = self._halvings.missing(self.plan.boxes(self.size), done)
        with memory_is_a_limit():
            for x0, x1, columns in self.plan.strips:
                wanted = [box for box in missing if box.x0 == x0]
                if wanted:
                    yield from self._strip(x0, x1, columns, wanted)

    def _strip(self, x0: int, x1: int, columns: list[TileSpan], wanted: list[Box]) -> Iterator[Block]:
        """The wanted blocks of one strip. They differ in y alone."""
        rows = [row for row in self.plan.rows if row.stop > wanted[0].y0]
        band = Band(
            self.model,
            top=rows[0].start,
            columns=(x0, x1),
            wanted=wanted,
            probs=self.probs,
            windows=self.windows,
        )
        stride = self.tiling.stride.width
        own = (x0 * stride, min(x1 * stride, self.view.size.width))
        read = self._slabs.under(rows, (columns[0].first, columns[-1].last), own)
        with ahead(read, depth=1) as slabs:
            for index, (row, slab) in enumerate(zip(rows, slabs, strict=True)):
                band.open(row)
                for spans, probs_BKHW in self._runner.run_row(row, columns, slab, self.batch):
                    if self._cancelled.is_set():
                        return
                    with self.stopwatch.stage("blend"):
                        for span, probs_KHW in zip(spans, probs_BKHW, strict=True):
                            band.add(probs_KHW, row, span)
                last = index + 1 == len(rows)
                with self.stopwatch.stage("blend"):
                    finished = list(band.finish(row.stop if last else rows[index + 1].start))
                yield from finished

    def _strips(self, max_ram_bytes: int) -> list[int]:
        """Left edges of strips of whole mask tiles, as few as the budget allows. Raises LimitError."""
        tile_bytes = (
            4 * self._seen.height * self._seen.width * (self.view.channels + len(self.model.spec.classes))
        )
        # Before a batch is tried, at least its input and its probabilities have to fit.
        if self.batch * tile_bytes > max_ram_bytes:
            raise LimitError(
                f"--max-ram of {max_ram_bytes >> 20} MiB is too little for a batch of {self.batch} tiles of "
                f"{max(self.tiling.tile)}: give more, or use a smaller --tile or --batch"
            )
        # Blank tiles of up to four shapes are kept: inside, at the right, at the bottom, in the corner.
        blank = 4 * tile_bytes if self.background else 0
        return strip_edges(
            self.size.width,
            tile=-(-self.tiling.tile.width // self.tiling.stride.width),
            used_bytes=self._resident_bytes_with_one_batch() + self.spare_bytes + blank,
            bytes_per_px=self._bytes_per_px_of_width(),
            max_ram_bytes=max_ram_bytes,
        )

    def _bytes_per_px_of_width(self) -> int:
        """What one more pixel of the mask's width costs: slabs (one ahead, one in work, one being joined),
        segments, accumulator, and blocks on their way to the sinks."""
        classes = len(self.model.spec.classes)
        pixels = self.view.channels * self.view.dtype.itemsize
        tile, stride = self.tiling.tile.height, self.tiling.stride
        slabs = 4 * tile * (pixels + (self.background is not None)) * stride.width
        segments = 2 * self.cached_rows * pixels * stride.width
        rows = -(-tile // stride.height)
        # Twice: it is copied where rows leave it and where it grows.
        accumulator = (rows + min(rows, MASK_TILE)) * classes * 4
        blocks = 3 * MASK_TILE * (label_dtype(classes).itemsize + 4 * classes * self.probs)
        return slabs + segments + accumulator + blocks

    def _resident_bytes_with_one_batch(self) -> int:
        """Peak resident memory after a first batch: libraries, weights and the network's buffers."""
        while not self._fits():
            self._halve_batch()
            logger.warning("memory ran out in a first batch; going on with batches of %d", self.batch)
            give_back_memory(self.model.device)
        return peak_resident_bytes()

    def _fits(self) -> bool:
        """Runs a batch of blank tiles; False where memory runs out. Raises AllocationError for one tile."""
        try:
            with memory_is_a_limit():
                batch = torch.ones((self.batch, *self._seen, self.view.channels), dtype=torch.uint8)
                # What allocators and runtimes keep shows in the second run, while the first answer is held.
                held = self._runner.predict(batch)
                self._runner.predict(batch)
                del held
        except AllocationError:
            if self.batch == 1:
                raise
            return False
        return True

    def _halve_batch(self) -> None:
        self.batch //= 2
        self._halvings.add("batch")

    def _edges(self) -> list[int]:
        """Left edges of the strips."""
        return [x0 for x0, _, _ in self.plan.strips]
