"""VolumeEngine: overlapping blocks of a stack, slab by slab from its first plane on, blended into labels.

Shapes: B batch, D depth, H height, W width, C channels, K classes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from axialcli.backends import Model
from axialcli.backends.memory import memory_is_a_limit
from axialcli.engine.ahead import ahead
from axialcli.engine.blocks import Blocks
from axialcli.engine.grid import TileSpan
from axialcli.engine.memory import peak_resident_bytes
from axialcli.engine.stopwatch import Stopwatch
from axialcli.errors import AllocationError, LimitError, ModelError
from axialcli.geometry import Box, VolumePart
from axialcli.image import Stack

SPARE_BYTES = 48 << 20
"""What the budget leaves for the rest: the slide's own buffers, the file that is written."""

ADVICE = "use a smaller --block or --max-ram"


class VolumeEngine:
    """Runs a model of volumes over a stack in overlapping blocks.

    A slab is as deep as a block and as wide as the stack. Slabs follow each other from the first plane to
    the last; the planes that two of them share are kept, so that each plane is read once, and finished
    planes leave at once. Where memory does not hold whole planes of a slab, the height is cut into strips,
    each of them run over the whole depth; a row of blocks at their border is then computed twice, and
    segments there are read twice. The numbers do not depend on the strips.

    max_ram_bytes: what the whole process may take. Raises LimitError where not even the lowest strip fits.
    """

    def __init__(
        self, stack: Stack, model: Model, blocks: Blocks, *, max_ram_bytes: int, stopwatch: Stopwatch
    ) -> None:
        self._stack, self._model, self._blocks, self._stopwatch = stack, model, blocks, stopwatch
        self._cancelled = threading.Event()
        self._edges = self._strips(max_ram_bytes)

    def cancel(self) -> None:
        """Asks a running `parts`, in whatever thread, to stop after the block in work."""
        self._cancelled.set()

    def describe(self) -> dict[str, Any]:
        """For the report: the blocks, how many of them were run, and in how many strips."""
        rows = sum(len(self._rows(y0, y1)) for y0, y1 in pairwise(self._edges))
        blocks = rows * len(self._blocks.layers) * len(self._blocks.columns)
        return {**self._blocks.describe(), "blocks": blocks, "strips": len(self._edges) - 1}

    def parts(self) -> Iterator[VolumePart]:
        """The labels, strip by strip, each from the first plane to the last.

        Raises AllocationError where memory runs out, otherwise as Stack.read and Model.predict.
        """
        try:
            with memory_is_a_limit():
                for y0, y1 in pairwise(self._edges):
                    yield from self._strip(y0, y1)
        except AllocationError as error:
            raise AllocationError(f"out of memory in a volume: {ADVICE}") from error

    def _strip(self, y0: int, y1: int) -> Iterator[VolumePart]:
        rows, layers = self._rows(y0, y1), self._blocks.layers
        sums = _Sums(self._model, self._blocks, y0, y1)
        with ahead(self._slabs(rows[0].first, rows[-1].last), 1) as slabs:
            for index, (layer, slab_DHWC) in enumerate(zip(layers, slabs, strict=True)):
                for row in rows:
                    below = row.first - rows[0].first
                    band_DHWC = slab_DHWC[:, below : below + row.length]
                    for column in self._blocks.columns:
                        if self._cancelled.is_set():
                            return
                        probs_KDHW = self._probs(band_DHWC[:, :, column.first : column.last])
                        with self._stopwatch.stage("blend"):
                            sums.add(probs_KDHW, layer, row, column)
                last = index + 1 == len(layers)
                with self._stopwatch.stage("blend"):
                    part = sums.finish(layer.stop if last else layers[index + 1].start)
                yield part

    def _slabs(self, y0: int, y1: int) -> Iterator[NDArray[Any]]:
        """The pixels [D, H, W, C] of these rows of each layer; planes that two layers share are read once."""
        box, end = Box(y0, 0, y1, self._stack.size.width), 0
        slab_DHWC = np.empty((0, box.height, box.width, self._stack.channels), self._stack.dtype)
        for layer in self._blocks.layers:
            kept = end - layer.first if end else 0
            below_DHWC = slab_DHWC
            slab_DHWC = np.empty((layer.length, *slab_DHWC.shape[1:]), slab_DHWC.dtype)
            slab_DHWC[:kept] = below_DHWC[len(below_DHWC) - kept :]
            del below_DHWC
            with self._stopwatch.stage("read"):
                for z in range(layer.first + kept, layer.last):
                    slab_DHWC[z - layer.first] = self._stack.read(z, box)
            end = layer.last
            yield slab_DHWC

    def _probs(self, block_DHWC: NDArray[Any]) -> Tensor:
        """Probabilities [K, D, H, W] of a block, in the processor's memory. Raises ModelError."""
        size, classes = block_DHWC.shape[:3], len(self._model.spec.classes)
        with self._stopwatch.stage("network"):
            image_BCDHW = torch.from_numpy(np.ascontiguousarray(block_DHWC)).permute(3, 0, 1, 2)[None]
            probs_BKDHW = self._model.predict(image_BCDHW)
            if probs_BKDHW.shape != (1, classes, *size):
                raise ModelError(
                    f"model '{self._model.spec.name}' answers {list(probs_BKDHW.shape)} to a block of "
                    f"{list(size)} voxels and not [1, {classes}, ...] of the same"
                )
            return probs_BKDHW[0].cpu()

    def _rows(self, y0: int, y1: int) -> list[TileSpan]:
        """The rows of blocks that touch a strip."""
        return [row for row in self._blocks.rows if row.start < y1 and row.stop > y0]

    def _strips(self, max_ram_bytes: int) -> list[int]:
        """Where strips begin, and the height: as few as the budget allows. Raises LimitError."""
        rows, size = self._blocks.rows, self._blocks.size
        used = self._resident_bytes() + SPARE_BYTES
        for count in range(1, len(rows) + 1):
            at_once = -(-len(rows) // count)
            # A strip begins where the block above its first one ends: that one is not run again.
            edges = [0, *(rows[first - 1].stop for first in range(at_once, len(rows), at_once)), size.height]
            need = max(self._strip_bytes(y0, y1) for y0, y1 in pairwise(edges))
            if used + need <= max_ram_bytes:
                return edges
        raise LimitError(
            f"--max-ram of {max_ram_bytes >> 20} MiB is too little: libraries, model and one block take "
            f"{used >> 20} MiB, the lowest strip of rows {need >> 20} MiB; give more, or a smaller --block"
        )

    def _strip_bytes(self, y0: int, y1: int) -> int:
        """Slabs (one in work, one ahead, one being made of the one before it), sums, and labels on their
        way to the file."""
        rows, width, depth = self._rows(y0, y1), self._stack.size.width, self._blocks.block.depth
        pixels = 4 * (rows[-1].last - rows[0].first) * self._stack.channels * self._stack.dtype.itemsize
        sums = 2 * 4 * len(self._model.spec.classes) * (y1 - y0)
        return depth * width * (pixels + sums + 4 * (y1 - y0))

    def _resident_bytes(self) -> int:
        """Peak resident memory with a first block: libraries, weights and the network's buffers."""
        block = self._blocks.block
        if len(self._blocks.rows) == 1:
            # There is nothing to cut, and one block may be all the work that there is.
            return peak_resident_bytes()
        with memory_is_a_limit():
            self._model.predict(torch.ones((1, self._stack.channels, *block), dtype=torch.uint8))
        return peak_resident_bytes()


class _Sums:
    """Weighted probabilities of the planes that blocks are still being added to, rows [y0, y1)."""

    def __init__(self, model: Model, blocks: Blocks, y0: int, y1: int) -> None:
        self._model, self._y0, self._y1 = model, y0, y1
        self._z0 = 0
        depth, width = max(layer.length for layer in blocks.layers), blocks.size.width
        self._sum_KDHW = torch.zeros(len(model.spec.classes), depth, y1 - y0, width)

    def add(self, probs_KDHW: Tensor, layer: TileSpan, row: TileSpan, column: TileSpan) -> None:
        """Adds a block, weighted, to those of its rows that are ours."""
        first, last = max(row.start, self._y0), min(row.stop, self._y1)
        inside = slice(first - row.start, last - row.start)
        weight_D, weight_H, weight_W = (
            torch.from_numpy(weight) for weight in (layer.weight, row.weight[inside], column.weight)
        )
        target_KDHW = self._sum_KDHW[
            :,
            layer.start - self._z0 : layer.stop - self._z0,
            first - self._y0 : last - self._y0,
            column.start : column.stop,
        ]
        weight_DHW = weight_D[:, None, None] * weight_H[:, None] * weight_W
        target_KDHW.addcmul_(probs_KDHW[:, :, inside], weight_DHW)

    def finish(self, stop: int) -> VolumePart:
        """Takes the planes before `stop` as final."""
        final = stop - self._z0
        labels_DHW = np.empty((final, *self._sum_KDHW.shape[2:]), np.uint8)
        for z in range(final):
            labels_DHW[z] = self._model.decide(self._sum_KDHW[:, z]).numpy()
        # In place, and a copy of the few planes that stay alone: the sums are the largest of all there is.
        left = self._sum_KDHW.shape[1] - final
        self._sum_KDHW[:, :left] = self._sum_KDHW[:, final:].clone()
        self._sum_KDHW[:, left:] = 0
        part = VolumePart(z0=self._z0, y0=self._y0, labels_DHW=labels_DHW)
        self._z0 = stop
        return part
