"""TileEngine: overlapping tiles, row by row, blended into finished blocks.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from axialcli.backends import Model
from axialcli.backends.memory import memory_is_a_limit
from axialcli.config import MASK_TILE, Blend, EngineName
from axialcli.engine.ahead import ahead
from axialcli.engine.background import Background
from axialcli.engine.band import Band
from axialcli.engine.grid import TileSpan, tile_spans
from axialcli.engine.memory import peak_resident_bytes
from axialcli.engine.slabs import Slab, Slabs
from axialcli.engine.stopwatch import Stopwatch
from axialcli.engine.tile_plan import TilePlan, cut, strip_edges
from axialcli.errors import LimitError
from axialcli.geometry import Block, Box
from axialcli.image import SlideView

SPARE_BYTES = 48 << 20
"""What the budget leaves for the rest: the slide's own buffers, compressed tiles, the final assembly."""

OVERLAY_BYTES = 128 << 20
"""What thumbnail, labels and the picture of both take while they are put together."""

DEFAULT_BATCH = {"cpu": 4, "mps": 4, "cuda": 16}


class TileEngine:
    """An Engine that runs a model over a view of a slide in overlapping tiles.

    tile, overlap: in pixels of the view; overlap on each side. blend: how tiles share the pixels.
    batch: tiles that run at once, None for what suits the device. max_ram_bytes: what the whole
    process may take; column strips keep it. cached_rows: rows of the view that the slide keeps
    decoded between two reads. background: its pixels are set to one colour, and tiles of nothing else
    are not run. windows: whose logits the blocks carry: the logarithms of the blended probabilities.
    probs: whether the blocks carry probabilities. overlay: whether the budget has to leave room for
    one. repeat: batch and left edges of the strips of an earlier run.
    """

    name: EngineName = "tiles"

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
        background: Background | None = None,
        windows: Sequence[Box] = (),
        probs: bool = False,
        overlay: bool = False,
        repeat: Mapping[str, Any] | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self.view, self.model, self.probs = view, model, probs
        self.background, self.windows = background, tuple(windows)
        self.cached_rows = cached_rows
        self.spare_bytes = SPARE_BYTES + overlay * OVERLAY_BYTES
        self.stopwatch = stopwatch or Stopwatch()
        self._cancelled = threading.Event()
        self._slabs = Slabs(view, background, self.stopwatch)
        self._blank_probs: dict[tuple[int, int], Tensor] = {}
        self._tiles_run = self._tiles_skipped = 0
        self.tile = tile

        def spans(length: int) -> list[TileSpan]:
            return tile_spans(
                length, tile=tile, overlap=overlap, blend=blend, stride_of=model.spec.network_stride
            )

        columns = spans(view.size.width)
        self.batch = (
            int(repeat["batch"]) if repeat else min(batch or DEFAULT_BATCH[model.device.type], len(columns))
        )
        edges = list(repeat["strips"]) if repeat else self._strips(max_ram_bytes)
        self.plan = TilePlan(rows=spans(view.size.height), strips=cut(columns, edges, view.size.width))

    def boxes(self) -> list[Box]:
        """The blocks in the order in which they are finished."""
        return self.plan.boxes(self.view.size)

    def cancel(self) -> None:
        """Asks a running `blocks`, in whatever thread, to stop after the batch in work."""
        self._cancelled.set()

    def plan_notes(self) -> dict[str, Any]:
        """Batch, and the left edges of the strips."""
        return {"batch": self.batch, "strips": [x0 for x0, _, _ in self.plan.strips]}

    def finish(self) -> None:
        """Nothing to do: tiles leave nothing behind."""

    def close(self) -> None:
        """Nothing to do: nothing is open between two blocks."""

    def describe(self) -> dict[str, Any]:
        """batch, strips and tiles of the plan; the shares of pixels that were blank and of tiles that were
        skipped, of what this run itself did."""
        tiles, pixels = self._tiles_run + self._tiles_skipped, self._slabs.pixels.read_px
        return {
            "batch": self.batch,
            "strips": len(self.plan.strips),
            "tiles": self.plan.tiles,
            "blank_share": round(self._slabs.pixels.blank_px / pixels, 4) if pixels else 0.0,
            "skipped_share": round(self._tiles_skipped / tiles, 4) if tiles else 0.0,
        }

    def blocks(self, done: Collection[Box] = ()) -> Iterator[Block]:
        """The finished blocks, in the plan's order, without those that are `done` already.

        A strip of which some blocks are done is computed again from the first row of tiles that
        the first missing block needs; the numbers are the same as in one run, bit by bit.
        """
        finished = set(done)
        missing = [box for box in self.boxes() if box not in finished]
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
        read = self._slabs.under(rows, (columns[0].start, columns[-1].stop), (x0, x1))
        with ahead(read, depth=1) as slabs:
            for index, (row, slab) in enumerate(zip(rows, slabs, strict=True)):
                band.open(row)
                for spans, probs_BKHW in self._run_row(columns, slab):
                    if self._cancelled.is_set():
                        return
                    with self.stopwatch.stage("blend"):
                        for span, probs_KHW in zip(spans, probs_BKHW, strict=True):
                            band.add(probs_KHW, row, span)
                last = index + 1 == len(rows)
                with self.stopwatch.stage("blend"):
                    finished = list(band.finish(row.stop if last else rows[index + 1].start))
                yield from finished

    def _run_row(self, columns: list[TileSpan], slab: Slab) -> Iterator[tuple[list[TileSpan], Tensor]]:
        """Probabilities [B, K, H, W] of the row's tiles, in batches of equal width; blank tiles first."""
        left = columns[0].start
        blank_W = slab.blank_columns()
        mixed = []
        for span in columns:
            if blank_W[span.start - left : span.stop - left].all():
                self._tiles_skipped += 1
                yield [span], self._blank_tile(slab.height, span.stop - span.start)
            else:
                mixed.append(span)
        self._tiles_run += len(mixed)
        pixels = torch.from_numpy(slab.image_HWC)
        for batch in _batches(mixed, self.batch):
            with self.stopwatch.stage("network"):
                images_BHWC = torch.stack([pixels[:, s.start - left : s.stop - left] for s in batch])
                probs_BKHW = self.model.predict(images_BHWC.permute(0, 3, 1, 2))
            yield batch, probs_BKHW

    def _blank_tile(self, height: int, width: int) -> Tensor:
        """The probabilities [1, K, H, W] of a tile that is blank everywhere: a network is a function of its
        input, so all such tiles of one shape have the same ones."""
        assert self.background is not None
        if (height, width) not in self._blank_probs:
            colour_C = np.asarray(self.background.colour_C, self.view.dtype)
            image_HWC: NDArray[Any] = np.broadcast_to(colour_C, (height, width, len(colour_C))).copy()
            with self.stopwatch.stage("network"):
                images_BHWC = torch.from_numpy(image_HWC)[None]
                self._blank_probs[height, width] = self.model.predict(images_BHWC.permute(0, 3, 1, 2))
        return self._blank_probs[height, width]

    def _strips(self, max_ram_bytes: int) -> list[int]:
        """Left edges of strips of whole mask tiles, as few as the budget allows. Raises LimitError."""
        height, width = (min(self.tile, length) for length in self.view.size)
        tile_bytes = 4 * height * width * (self.view.channels + len(self.model.spec.classes))
        # Before a batch is tried, at least its input and its probabilities have to fit.
        if self.batch * tile_bytes > max_ram_bytes:
            raise LimitError(
                f"--max-ram of {max_ram_bytes >> 20} MiB is too little for a batch of {self.batch} tiles of "
                f"{self.tile}: give more, or use a smaller --tile or --batch"
            )
        # Blank tiles of up to four shapes are kept: inside, at the right, at the bottom, in the corner.
        blank = 4 * tile_bytes if self.background else 0
        return strip_edges(
            self.view.size.width,
            tile=self.tile,
            used_bytes=self._resident_bytes_with_one_batch(height, width) + self.spare_bytes + blank,
            bytes_per_px=self._bytes_per_px_of_width(),
            max_ram_bytes=max_ram_bytes,
        )

    def _bytes_per_px_of_width(self) -> int:
        """What one more pixel of width costs: slabs (one ahead, one in work, one being joined), segments,
        accumulator, and blocks on their way to the sinks."""
        classes = len(self.model.spec.classes)
        pixels = self.view.channels * self.view.dtype.itemsize
        slabs = 4 * self.tile * (pixels + (self.background is not None))
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


def _batches(spans: list[TileSpan], most: int) -> Iterator[list[TileSpan]]:
    """The spans in order, up to `most` at a time, all of one width."""
    batch: list[TileSpan] = []
    for span in spans:
        if batch and (len(batch) == most or span.stop - span.start != batch[0].stop - batch[0].start):
            yield batch
            batch = []
        batch.append(span)
    if batch:
        yield batch
