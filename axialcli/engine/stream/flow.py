"""Rows flow through the graph once, from top to bottom.

Coordinates are those of each node's own grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from axialcli.engine.stream.buffers import LineBuffer, RingBuffer
from axialcli.engine.stream.graph import Graph
from axialcli.engine.stream.operators import Operator, Piece, clipped
from axialcli.engine.stream.pointwise import Norm
from axialcli.engine.stream.reach import Reach
from axialcli.engine.stream.schedule import Schedule
from axialcli.geometry import Box, Size

FEW = 8
"""A line buffer that keeps one row, at most, of so many that are made in a step moves them in each step:
a neighbourhood's edge, not worth the memory that would make it rare."""


@dataclass
class Chunk:
    """What a node has made in this step, where no later step needs it.

    parts: its columns [x0, x1) and their numbers. owned: nobody else reads that memory. readers: nodes
    that are still to read it.
    """

    rows: tuple[int, int]
    parts: list[tuple[int, int, Tensor]]
    owned: bool
    readers: int


class Flow:
    """Executes a graph step by step.

    All that outlives a step lies in line buffers; a node whose rows are read in the step that makes
    them hands them on without a copy. fed_together: a late start is fed rows from a multiple of so many on,
    also where nobody reads the first of them.
    """

    fed_together = 1

    def __init__(self, graph: Graph, schedule: Schedule, *, dtype: torch.dtype, device: torch.device) -> None:
        self.graph, self.schedule = graph, schedule
        self._consumers = graph.consumers()
        self._first = [0] * len(graph.nodes)
        self._first_rows: dict[int, int] = {}
        self._recomputed = recomputed(graph, schedule)
        self._buffers = {
            index: _buffer(graph, schedule, index, dtype, device)
            for index in range(len(graph.nodes))
            if schedule.waits(index) and index not in self._recomputed
        }
        self._made: dict[int, Chunk] = {}

    @property
    def state_bytes(self) -> int:
        """Memory of the line buffers."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def begin(self, row: int = 0) -> int:
        """Prepares for the output's rows from `row` on. Returns the step to start with."""
        self._first = self.schedule.first_steps(row)
        self._first_rows = {
            source: first // self.fed_together * self.fed_together
            for source, first in self.schedule.first_rows(row).items()
        }
        self._made.clear()
        for index, buffer in self._buffers.items():
            buffer.begin(self._rows(index, min(self._first[index], self.schedule.steps - 1))[0])
        return min(self._first)

    def _rows(self, index: int, step: int) -> tuple[int, int]:
        """The rows that a node makes in a step, or that are fed to it, those that nobody reads left out."""
        start, stop = self.schedule.rows(index, step)
        return max(start, self._first_rows.get(index, 0)), stop

    def wanted(self, source: int, step: int) -> tuple[int, int]:
        """The rows of a source that `run` wants in a step; none where the two are equal."""
        return self._rows(source, step) if step >= self._first[source] else (0, 0)

    def run(self, step: int, fed: dict[int, Tensor]) -> dict[int, tuple[int, Tensor]]:
        """One step. fed: of each source its wanted rows. Returns of each output the first of its next
        rows, and these rows.

        The tensors are valid until the next step.
        """
        made: dict[int, tuple[int, Tensor]] = {}
        for index, node in enumerate(self.graph.nodes):
            rows = self._rows(index, step)
            if step < self._first[index] or rows[0] == rows[1] or index in self._recomputed:
                continue
            if node.operator is None:
                self._keep(index, rows, fed[index])
            else:
                self._execute(index, node.operator, rows)
            if index in self.graph.outputs:
                made[index] = (rows[0], self._read(index, rows, (0, node.plane.width)))
        self._made.clear()
        for index, buffer in self._buffers.items():
            buffer.forget(int(self.schedule.kept_NS[index, step]))
        return made

    def _columns(self, index: int, rows: tuple[int, int]) -> list[tuple[int, int]]:
        """The columns in which a node has to be computed."""
        return [(0, self.graph.nodes[index].plane.width)]

    def _box(self, rows: tuple[int, int], columns: tuple[int, int]) -> Box:
        return Box(rows[0], columns[0], rows[1], columns[1])

    def _execute(self, index: int, operator: Operator, rows: tuple[int, int]) -> None:
        columns = self._columns(index, rows)
        buffer = self._buffers.get(index)
        if buffer is not None:
            for y0, y1, out in buffer.append(rows[1] - rows[0]):
                for x0, x1 in columns:
                    box = self._box((y0, y1), (x0, x1))
                    part = out.narrow(self.graph.nodes[index].plane.column_dim, x0, x1 - x0)
                    operator.run_into(self._pieces(index, operator, box), box, part)
        else:
            parts = []
            owned = operator.fresh
            for x0, x1 in columns:
                box = self._box(rows, (x0, x1))
                pieces = self._pieces(index, operator, box)
                parts.append((x0, x1, operator.run(pieces, box)))
            self._made[index] = Chunk(rows, parts, owned, self._readers(index))
        self._let_go(index, operator)

    def _let_go(self, index: int, operator: Operator) -> None:
        """A node has read its inputs."""
        for source in self.graph.nodes[index].inputs:
            chunk = self._made.get(source)
            if chunk is not None:
                # What an operator gives back that makes nothing fresh may be a view of its input.
                chunk.owned = chunk.owned and operator.fresh
                chunk.readers -= 1
                if not chunk.readers:
                    del self._made[source]

    def _readers(self, index: int) -> int:
        """How many read what a node makes; an output is also read by the caller."""
        return len(self._consumers[index]) + (index in self.graph.outputs)

    def _keep(self, index: int, rows: tuple[int, int], tensor: Tensor) -> None:
        """Takes the rows of a source."""
        buffer = self._buffers.get(index)
        if buffer is None:
            width = self.graph.nodes[index].plane.width
            self._made[index] = Chunk(rows, [(0, width, tensor)], False, self._readers(index))
            return
        for y0, y1, out in buffer.append(rows[1] - rows[0]):
            out.copy_(tensor.narrow(self.graph.nodes[index].plane.row_dim, y0 - rows[0], y1 - y0))

    def _pieces(self, index: int, operator: Operator, box: Box) -> list[Piece]:
        return [
            self._piece(source, reaches, box)
            for source, reaches in zip(self.graph.nodes[index].inputs, operator.reaches, strict=True)
        ]

    def _piece(self, source: int, reaches: tuple[Reach, Reach], box: Box) -> Piece:
        plane = self.graph.nodes[source].plane
        size = Size(plane.height, plane.width)
        inside = clipped(reaches, box, size)
        rows, columns = (inside.y0, inside.y1), (inside.x0, inside.x1)
        buffer = self._buffers.get(source)
        if isinstance(buffer, RingBuffer):
            return Piece(self._ring(source, buffer, columns), inside, size, rows=buffer.numbers)
        chunk = self._made.get(source)
        whole = chunk is not None and chunk.rows == rows and columns in [part[:2] for part in chunk.parts]
        owned = whole and chunk is not None and chunk.owned and chunk.readers == 1
        return Piece(self._read(source, rows, columns), inside, size, owned=owned)

    def _ring(self, index: int, buffer: RingBuffer, columns: tuple[int, int]) -> Tensor:
        """All rows of a ring."""
        tensor = buffer.read()
        return tensor.narrow(self.graph.nodes[index].plane.column_dim, columns[0], columns[1] - columns[0])

    def _read(self, index: int, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
        """A node's numbers; a view wherever they lie in memory already."""
        node = self.graph.nodes[index]
        if index in self._recomputed:
            assert node.operator is not None
            box = self._box(rows, columns)
            return node.operator.run(self._pieces(index, node.operator, box), box)
        buffer = self._buffers.get(index)
        if isinstance(buffer, LineBuffer):
            tensor = buffer.read(*rows)
            return tensor.narrow(node.plane.column_dim, columns[0], columns[1] - columns[0])
        return self._from_chunk(index, self._made[index], rows, columns)

    def _from_chunk(
        self, index: int, chunk: Chunk, rows: tuple[int, int], columns: tuple[int, int]
    ) -> Tensor:
        plane = self.graph.nodes[index].plane
        for x0, x1, tensor in chunk.parts:
            if x0 <= columns[0] and columns[1] <= x1:
                tensor = tensor.narrow(plane.column_dim, columns[0] - x0, columns[1] - columns[0])
                return tensor.narrow(plane.row_dim, rows[0] - chunk.rows[0], rows[1] - rows[0])
        raise AssertionError(f"columns {columns} of node {self.graph.nodes[index].name} were not computed")


def recomputed(graph: Graph, schedule: Schedule) -> set[int]:
    """Norms that are made again from their input, which waits as long, and not kept.

    It costs less than its place in memory, unless steps are high: a buffer that holds two of them at most has
    hardly more than what a step makes anyway.
    """
    return {
        index
        for index, node in enumerate(graph.nodes)
        if isinstance(node.operator, Norm)
        and index not in graph.outputs
        and schedule.waits(index)
        and schedule.waits(node.inputs[0])
        and bool((schedule.kept_NS[node.inputs[0]] <= schedule.kept_NS[index]).all())
        and schedule.held_rows(index) > 2 * _at_once(schedule, index)
    }


def in_a_ring(graph: Graph, index: int) -> bool:
    """Whether all that read a node do not mind the order of its rows."""
    readers = [
        (operator, number)
        for consumer, number in graph.consumers()[index]
        if (operator := graph.nodes[consumer].operator) is not None
    ]
    return bool(readers) and all(
        operator.any_order and number == len(operator.reaches) - 1 for operator, number in readers
    )


def buffer_rows(graph: Graph, schedule: Schedule, index: int) -> int:
    """Rows that the buffer of a node has room for."""
    room = schedule.held_rows(index)
    if in_a_ring(graph, index):
        return room
    at_once = _at_once(schedule, index)
    if FEW * schedule.kept_rows(index) <= at_once:
        return room
    # Enough to move rows rarely; no more than the rows of a few steps, or memory would double.
    return room + min(room, 2 * at_once)


def _at_once(schedule: Schedule, index: int) -> int:
    """The most rows of a node that are made in a step."""
    return int((schedule.produced_NS[index, 1:] - schedule.produced_NS[index, :-1]).max(initial=1))


def _buffer(
    graph: Graph, schedule: Schedule, index: int, dtype: torch.dtype, device: torch.device
) -> LineBuffer | RingBuffer:
    plane, room = graph.nodes[index].plane, buffer_rows(graph, schedule, index)
    kind = RingBuffer if in_a_ring(graph, index) else LineBuffer
    return kind(plane, room=room, dtype=dtype, device=device)
