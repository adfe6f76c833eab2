"""A flow that skips what is blank, exactly.

Where all that a number depends on is background, the number depends on its row alone (and, behind a
shuffle of channels to pixels, on its place within a small period of columns). A twin of the flow computes
these numbers (twin.py); the flow itself computes the columns that other pixels or the picture's sides reach,
and takes the rest from the twin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from axialcli.engine.stream.buffers import MemoryLayout, RingBuffer
from axialcli.engine.stream.flow import Chunk, Flow
from axialcli.engine.stream.graph import Graph
from axialcli.engine.stream.intervals import Interval, clip, cut, union, without
from axialcli.engine.stream.pointwise import Add
from axialcli.engine.stream.schedule import Schedule
from axialcli.engine.stream.sight import Activity, column_sights, read_from, row_sights, rows_together
from axialcli.engine.stream.twin import Twin, write_repeated

CELL_PX = 64
"""Columns of pixels are skipped in cells of about this width: finer ones would be mostly edge."""

GAP_PX = 128
"""Narrower gaps between columns that are computed are computed as well."""


@dataclass
class _Made:
    """Rows that a node has made in one step. filled: the columns whose numbers lie in the node's buffer.
    blank: the twin's numbers."""

    rows: tuple[int, int]
    filled: list[Interval]
    blank: Tensor


class SparseFlow(Flow):
    """A flow over pictures with background.

    blank_BCHW: one background pixel as the network sees it, [1, C, 1, 1]. A node's columns are computed
    wherever, in some of its rows, another pixel or the picture's side can be felt; skipped, total: positions
    of the output that were taken from the twin, and all.
    """

    def __init__(
        self,
        graph: Graph,
        schedule: Schedule,
        *,
        dtype: torch.dtype,
        device: torch.device,
        blank_BCHW: Tensor,
    ) -> None:
        super().__init__(graph, schedule, dtype=dtype, device=device)
        self._twin = Twin(graph, schedule, dtype=dtype, device=device)
        self._sides = self._all_sides()
        self._row_sights, self._column_sights = row_sights(graph), column_sights(graph)
        # Where there is something to see is looked up in groups of rows, alike in every run.
        self.fed_together = rows_together(schedule.rows_px)
        self._read_from_NS = read_from(graph, schedule)
        self._activity = Activity(-(-CELL_PX // graph.period) * graph.period, graph.width, schedule.rows_px)
        self._blank_BCHW = blank_BCHW
        self._history: list[list[_Made]] = [[] for _ in graph.nodes]
        self._pixels: Callable[[int, int], Tensor] | None = None
        self._active_pixels: list[Interval] = []
        self.skipped = self.total = 0

    @property
    def twin_steps(self) -> int:
        """Steps in which the twin had to compute."""
        return self._twin.computed

    def begin(self, row: int = 0) -> int:
        self._twin.begin(row)
        self._activity.clear()
        for made in self._history:
            made.clear()
        return super().begin(row)

    def run_over(
        self, step: int, pixels: Callable[[int, int], Tensor] | None, blank_HW: NDArray[np.bool_] | None
    ) -> dict[int, tuple[int, Tensor]]:
        """As `run`. pixels(x0, x1): the wanted rows of these columns, as the network sees them, with blank
        ones set to the background; blank_HW: which they are. None where no rows are wanted.
        """
        if pixels is None or blank_HW is None:
            fed: dict[int, Tensor] = {}
        else:
            start, stop = self.wanted(0, step)
            self._activity.add(start, blank_HW)
            self._pixels = pixels
            self._active_pixels = clip(self._activity.within(start, stop), self.graph.width)
            period = self._twin.graph.nodes[0].plane.width
            first, last = self._twin.wanted(0, step)
            fed = {0: self._blank_BCHW.expand(-1, -1, last - first, period)}
        self._twin.advance(step, fed)
        made = super().run(step, fed)
        self._forget(step)
        return made

    def _forget(self, step: int) -> None:
        for index, history in enumerate(self._history):
            kept = int(self.schedule.kept_NS[index, step])
            buffer = self._buffers.get(index)
            if isinstance(buffer, RingBuffer):
                # Attention reads all that lies in a ring, also what it then gives no weight.
                kept = min(kept, buffer.oldest)
            history[:] = [made for made in history if made.rows[1] > kept]
        below = zip(self._row_sights, self.schedule.produced_NS[:, step], strict=True)
        self._activity.forget(min(sight.pixels(int(row), int(row) + 1)[0] for sight, row in below))

    def _keep(self, index: int, rows: tuple[int, int], tensor: Tensor) -> None:
        assert self._pixels is not None
        plane = self.graph.nodes[index].plane
        self._note(index, rows, self._active_pixels)
        buffer = self._buffers.get(index)
        columns = self._active_pixels
        if buffer is None:
            # With some pixels beside them, so that whoever looks farther finds them in one piece.
            beside = [(x0 - CELL_PX, x1 + CELL_PX) for x0, x1 in columns]
            columns = union(clip(beside, plane.width), gap=GAP_PX)
        parts = [(x0, x1, self._pixels(x0, x1)) for x0, x1 in columns]
        if buffer is None:
            self._made[index] = Chunk(rows, parts, False, self._readers(index))
            return
        for y0, y1, out in buffer.append(rows[1] - rows[0]):
            for x0, x1, part in parts:
                out.narrow(plane.column_dim, x0, x1 - x0).copy_(
                    part.narrow(plane.row_dim, y0 - rows[0], y1 - y0)
                )

    def _note(self, index: int, rows: tuple[int, int], columns: list[Interval]) -> None:
        self._history[index].append(_Made(rows, list(columns), self._twin.rows_made[index]))

    def _all_sides(self) -> list[list[Interval]]:
        """Of each node the columns whose numbers feel the left or right side of the picture."""
        found: list[list[Interval]] = []
        for index, node in enumerate(self.graph.nodes):
            felt = self._beside(index)
            for source, (_, across) in node.reads:
                felt += [across.felt(*part) for part in found[source]]
            found.append(union(clip(felt, node.plane.width)))
        return found

    def _beside(self, index: int) -> list[Interval]:
        """The columns of a node whose numbers feel the left or right side of the picture through it alone.

        Without a fill an operator sees fewer of the same numbers at a side, and its answer is the same;
        unless the numbers repeat with a period of several columns and are not all the same.
        """
        node = self.graph.nodes[index]
        if node.operator is None:
            return []
        felt: list[Interval] = []
        for source, (_, reach) in zip(node.inputs, node.operator.reaches, strict=True):
            of = self.graph.nodes[source]
            if node.operator.border or self.graph.period * of.column_rate != 1:
                beyond = reach.felt(of.plane.width, of.plane.width + reach.block)
                if of.plane.width % reach.block:
                    beyond = (of.plane.width // reach.block * reach.block, node.plane.width)
                felt += [(0, reach.felt(-1, 0)[1]), (beyond[0], node.plane.width)]
        return clip(felt, node.plane.width)

    def _columns(self, index: int, rows: tuple[int, int]) -> list[tuple[int, int]]:
        node = self.graph.nodes[index]
        assert node.operator is not None
        step = self.schedule.step_of(index, rows[0])
        above, below = self._row_sights[index].pixels(*rows)
        # The same rows in a run that starts late, so that the same columns are computed.
        other = self._activity.within(max(above, int(self._read_from_NS[index, step])), below)
        felt = [*self._sides[index], *(self._column_sights[index].feel(*part) for part in other)]
        columns = union(clip(felt, node.plane.width), gap=int(GAP_PX * node.column_rate))
        self._note(index, rows, columns)
        if index in self.graph.outputs:
            height, width = rows[1] - rows[0], node.plane.width
            self.total += height * width
            self.skipped += height * (width - sum(x1 - x0 for x0, x1 in columns))
        if index in self._buffers and isinstance(node.operator, Add):
            # What one of the two lacks at its sides comes from the twin; between them nothing is copied.
            chunks = (self._made.get(source) for source in node.inputs)
            return cut(columns, (x for chunk in chunks if chunk for part in chunk.parts for x in part[:2]))
        return columns

    def _ring(self, index: int, buffer: RingBuffer, columns: tuple[int, int]) -> Tensor:
        self._fill(index, columns)
        return super()._ring(index, buffer, columns)

    def _read(self, index: int, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
        if index in self._buffers:
            self._fill(index, columns)
        return super()._read(index, rows, columns)

    def _fill(self, index: int, columns: tuple[int, int]) -> None:
        """Writes the twin's numbers into a node's buffer, where columns were skipped and are now read."""
        plane, buffer = self.graph.nodes[index].plane, self._buffers[index]
        for made in self._history[index]:
            missing = without(columns, made.filled)
            if not missing:
                continue
            made.filled = union([*made.filled, *missing])
            for y0, y1, view in buffer.parts(*made.rows):
                blank = made.blank.narrow(plane.row_dim, y0 - made.rows[0], y1 - y0)
                for x0, x1 in missing:
                    write_repeated(view.narrow(plane.column_dim, x0, x1 - x0), blank, plane.column_dim, x0)

    def _from_chunk(
        self, index: int, chunk: Chunk, rows: tuple[int, int], columns: tuple[int, int]
    ) -> Tensor:
        if any(x0 <= columns[0] and columns[1] <= x1 for x0, x1, _ in chunk.parts):
            return super()._from_chunk(index, chunk, rows, columns)
        plane = self.graph.nodes[index].plane
        blank = self._history[index][-1].blank
        memory = MemoryLayout(plane)
        shape = (rows[1] - rows[0], columns[1] - columns[0], *memory.others)
        joined = memory.view(torch.empty(shape, dtype=blank.dtype, device=blank.device))
        below = blank.narrow(plane.row_dim, rows[0] - chunk.rows[0], rows[1] - rows[0])
        write_repeated(joined, below, plane.column_dim, columns[0])
        for x0, x1, tensor in chunk.parts:
            first, last = max(x0, columns[0]), min(x1, columns[1])
            if first < last:
                part = tensor.narrow(plane.row_dim, rows[0] - chunk.rows[0], rows[1] - rows[0])
                joined.narrow(plane.column_dim, first - columns[0], last - first).copy_(
                    part.narrow(plane.column_dim, first - x0, last - first)
                )
        return joined
