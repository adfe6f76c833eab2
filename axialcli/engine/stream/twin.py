"""A blank picture without a left and a right edge: one period of its columns, computed row by row.

Numbers there depend on their row alone (and, behind a shuffle of channels to pixels, on their place within a
small period of columns). Far from the top and the bottom they do not depend on the row either: from there on
nothing is computed until the bottom comes into reach.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from axialcli.engine.stream.buffers import RingBuffer
from axialcli.engine.stream.flow import Chunk, Flow, buffer_rows
from axialcli.engine.stream.graph import Graph
from axialcli.engine.stream.operators import Operator, Piece
from axialcli.engine.stream.reach import Reach
from axialcli.engine.stream.schedule import Schedule
from axialcli.engine.stream.sight import FAR
from axialcli.geometry import Box, Size


class Twin(Flow):
    """A flow over one period of columns, which repeat to the left and to the right for ever.

    rows_made: of each node what it has made in the last step. computed: steps that were not a repetition.
    """

    def __init__(self, graph: Graph, schedule: Schedule, *, dtype: torch.dtype, device: torch.device) -> None:
        narrow = Graph(outputs=graph.outputs)
        for node in graph.nodes:
            plane = node.plane.with_size(node.plane.height, int(graph.period * node.column_rate))
            narrow.nodes.append(replace(node, plane=plane))
        super().__init__(narrow, replace(schedule, graph=narrow), dtype=dtype, device=device)
        # Whole steps: they cost next to nothing, and are alike from the first one on.
        self.fed_together = schedule.rows_px
        self.rows_made: dict[int, Tensor] = {}
        self._even_S = _even_steps(narrow, schedule)
        self._memory_steps = _memory_steps(narrow, schedule)
        self._alike = self._repeated = self.computed = 0

    def begin(self, row: int = 0) -> int:
        self._alike = self._repeated = 0
        self.rows_made = {}
        return super().begin(row)

    def advance(self, step: int, fed: dict[int, Tensor]) -> None:
        """One step, after which `rows_made` is right. fed: as for `run`, and all of it blank."""
        if self._even_S[step] and self._alike >= self._memory_steps:
            # The step before, once more: the same numbers, so many rows further down.
            self._repeated += 1
            return
        if self._repeated:
            for index, buffer in self._buffers.items():
                start, stop = self.schedule.rows(index, step - 1)
                buffer.move_on(self._repeated * (stop - start))
            self._repeated = 0
        before = self.rows_made
        self.rows_made = {}
        self.run(step, fed)
        self.computed += 1
        alike = self._even_S[step] and before.keys() == self.rows_made.keys()
        alike = alike and all(torch.equal(before[index], made) for index, made in self.rows_made.items())
        self._alike = self._alike + 1 if alike else 0

    def _box(self, rows: tuple[int, int], columns: tuple[int, int]) -> Box:
        far = FAR * (columns[1] - columns[0])
        return Box(rows[0], far, rows[1], far + columns[1] - columns[0])

    def _execute(self, index: int, operator: Operator, rows: tuple[int, int]) -> None:
        # All rows at once and into new memory, whatever becomes of them: the last bits of a matrix product
        # depend on how many rows it has and where they lie, and no step would repeat another.
        width = self.graph.nodes[index].plane.width
        box = self._box(rows, (0, width))
        made = operator.run(self._pieces(index, operator, box), box)
        if index in self._buffers:
            self._keep(index, rows, made)
        else:
            self._made[index] = Chunk(rows, [(0, width, made)], operator.fresh, self._readers(index))
            self.rows_made[index] = made.clone()
        self._let_go(index, operator)

    def _keep(self, index: int, rows: tuple[int, int], tensor: Tensor) -> None:
        super()._keep(index, rows, tensor)
        # A copy, for a reader may write into it.
        self.rows_made[index] = tensor.clone()

    def _piece(self, source: int, reaches: tuple[Reach, Reach], box: Box) -> Piece:
        plane = self.graph.nodes[source].plane
        rows = reaches[0].clipped(box.y0, box.y1, plane.height)
        columns = reaches[1].needs(box.x0, box.x1)
        buffer = self._buffers.get(source)
        period = (0, plane.width)
        if isinstance(buffer, RingBuffer):
            # In order: sums of another order have other last bits, and no step would repeat another.
            numbers, order = buffer.numbers.sort()
            tensor = self._ring(source, buffer, period).index_select(plane.row_dim, order)
        else:
            tensor, numbers = self._read(source, rows, period), None
        inside = Box(rows[0], columns[0], rows[1], columns[1])
        size = Size(plane.height, 2 * FAR * plane.width)
        return Piece(repeated(tensor, plane.column_dim, columns), inside, size, rows=numbers)


def repeated(tensor: Tensor, dim: int, columns: tuple[int, int]) -> Tensor:
    """The columns [x0, x1) of a tensor that repeats along `dim` for ever, a copy."""
    at = torch.arange(columns[0], columns[1], device=tensor.device) % tensor.shape[dim]
    return tensor.index_select(dim, at)


def write_repeated(out: Tensor, tensor: Tensor, dim: int, first: int) -> None:
    """Writes a tensor that repeats along `dim` for ever into `out`, whose columns begin at `first`."""
    period, width = tensor.shape[dim], out.shape[dim]
    if first % period or width < period:
        out.copy_(repeated(tensor, dim, (first, first + width)))
        return
    whole = width // period
    # A broadcast copies whole periods; an index for every column would be many times slower.
    main = out.narrow(dim, 0, whole * period)
    main.view(*main.shape[:dim], whole, period, *main.shape[dim + 1 :]).copy_(tensor.unsqueeze(dim))
    rest = width - whole * period
    if rest:
        out.narrow(dim, width - rest, rest).copy_(tensor.narrow(dim, 0, rest))


def _even_steps(graph: Graph, schedule: Schedule) -> NDArray[np.bool_]:
    """The steps that repeat the step before some rows further down, out of reach of top and bottom."""
    # A Reach counts in whole numbers; arrays of them do as well.
    produced_NS: Any = np.pad(schedule.produced_NS, ((0, 0), (1, 0)))
    made_NS, kept_NS = np.diff(produced_NS), np.diff(schedule.kept_NS, prepend=0)
    even_S = np.zeros(schedule.steps, bool)
    even_S[1:] = (np.diff(made_NS) == 0).all(0) & (np.diff(kept_NS) == 0).all(0)
    for index, node in enumerate(graph.nodes):
        for source, (along, _) in node.reads:
            low_S, high_S = along.needs(produced_NS[index, :-1], produced_NS[index, 1:])
            inside_S = (low_S >= 0) & (high_S <= graph.nodes[source].plane.height)
            even_S &= (made_NS[index] == 0) | (inside_S & (not along.whole))
    return even_S


def _memory_steps(graph: Graph, schedule: Schedule) -> int:
    """After how many steps alike everything that lies in a line buffer is alike as well."""
    steps = 1
    for index in range(len(graph.nodes)):
        if schedule.waits(index):
            made = int(np.diff(schedule.produced_NS[index], prepend=0).max())
            steps = max(steps, 1 + -(-buffer_rows(graph, schedule, index) // max(1, made)))
    return steps
