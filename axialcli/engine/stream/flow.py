"""Rows flow through the graph once, from top to bottom.

Coordinates are those of each node's own grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from axialcli.engine.stream.buffers import LineBuffer, RingBuffer
from axialcli.engine.stream.graph import Graph
from axialcli.engine.stream.operators import Operator, Piece
from axialcli.engine.stream.schedule import Schedule
from axialcli.geometry import Box, Size


@dataclass
class _Chunk:
    """What a node has made in this step, where no later step needs it. readers: nodes still to read it."""

    tensor: Tensor
    first_row: int
    owned: bool
    readers: int


class Flow:
    """Executes a graph step by step.

    All that outlives a step lies in line buffers; a node whose rows are read in the step that makes
    them hands them on without a copy.
    """

    def __init__(self, graph: Graph, schedule: Schedule, *, dtype: torch.dtype, device: torch.device) -> None:
        self.graph, self.schedule = graph, schedule
        self._consumers = graph.consumers()
        self._first = [0] * len(graph.nodes)
        self._buffers: dict[int, LineBuffer | RingBuffer] = {
            index: _buffer(graph, schedule, index, self._consumers[index], dtype, device)
            for index in range(len(graph.nodes))
            if schedule.waits(index)
        }
        self._made: dict[int, _Chunk] = {}

    @property
    def state_bytes(self) -> int:
        """Memory of the line buffers."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def begin(self, row: int = 0) -> int:
        """Prepares for the output's rows from `row` on. Returns the step to start with."""
        self._first = self.schedule.first_steps(row)
        self._made.clear()
        for index, buffer in self._buffers.items():
            buffer.begin(self.schedule.rows(index, min(self._first[index], self.schedule.steps - 1))[0])
        return min(self._first)

    def wanted(self, source: int, step: int) -> tuple[int, int]:
        """The rows of a source that `run` wants in a step; none where the two are equal."""
        return self.schedule.rows(source, step) if step >= self._first[source] else (0, 0)

    def run(self, step: int, fed: dict[int, Tensor]) -> tuple[int, Tensor] | None:
        """One step. fed: of each source its wanted rows. Returns the output's next rows, and their first.

        The tensor is valid until the next step.
        """
        output: tuple[int, Tensor] | None = None
        for index, node in enumerate(self.graph.nodes):
            start, stop = self.schedule.rows(index, step)
            if step < self._first[index] or start == stop:
                continue
            box = Box(start, 0, stop, node.plane.width)
            if node.operator is None:
                self._keep(index, box, fed[index])
            else:
                self._execute(index, node.operator, box)
            if index == self.graph.output:
                chunk = self._made.get(index)
                output = (start, chunk.tensor if chunk else self._read(index, start, stop))
        self._made.clear()
        for index, buffer in self._buffers.items():
            if isinstance(buffer, LineBuffer):
                buffer.forget(int(self.schedule.kept_NS[index, step]))
        return output

    def _execute(self, index: int, operator: Operator, box: Box) -> None:
        buffer = self._buffers.get(index)
        if isinstance(buffer, RingBuffer):
            for first, last, out in buffer.append(box.height):
                part = Box(first, box.x0, last, box.x1)
                operator.run_into(self._pieces(index, operator, part), part, out)
        elif buffer is not None:
            out = buffer.append(box.height)
            operator.run_into(self._pieces(index, operator, box), box, out)
        else:
            pieces = self._pieces(index, operator, box)
            owned = operator.fresh or all(piece.owned for piece in pieces)
            self._made[index] = _Chunk(
                operator.run(pieces, box), box.y0, owned, len(self._consumers[index])
            )
        for source in self.graph.nodes[index].inputs:
            chunk = self._made.get(source)
            if chunk is not None:
                chunk.readers -= 1
                if not chunk.readers:
                    del self._made[source]

    def _keep(self, index: int, box: Box, tensor: Tensor) -> None:
        """Takes the rows of a source."""
        buffer = self._buffers.get(index)
        if isinstance(buffer, LineBuffer):
            buffer.append(box.height).copy_(tensor)
        else:
            self._made[index] = _Chunk(tensor, box.y0, False, len(self._consumers[index]))

    def _pieces(self, index: int, operator: Operator, box: Box) -> list[Piece]:
        return [
            self._piece(source, operator, number, box)
            for number, source in enumerate(self.graph.nodes[index].inputs)
        ]

    def _piece(self, source: int, operator: Operator, number: int, box: Box) -> Piece:
        plane = self.graph.nodes[source].plane
        rows, columns = operator.reaches[number]
        y0, y1 = rows.clipped(box.y0, box.y1, plane.height)
        x0, x1 = columns.clipped(box.x0, box.x1, plane.width)
        size = Size(plane.height, plane.width)
        buffer = self._buffers.get(source)
        if isinstance(buffer, RingBuffer):
            tensor, numbers = buffer.read()
            return Piece(tensor, Box(y0, x0, y1, x1), size, rows=numbers)
        chunk = self._made.get(source)
        tensor = self._read(source, y0, y1)
        owned = chunk is not None and chunk.owned and chunk.readers == 1 and len(tensor) == len(chunk.tensor)
        return Piece(tensor, Box(y0, x0, y1, x1), size, owned=owned)

    def _read(self, index: int, y0: int, y1: int) -> Tensor:
        buffer = self._buffers.get(index)
        if isinstance(buffer, LineBuffer):
            return buffer.read(y0, y1)
        chunk = self._made[index]
        return chunk.tensor.narrow(self.graph.nodes[index].plane.row_dim, y0 - chunk.first_row, y1 - y0)


def _buffer(
    graph: Graph,
    schedule: Schedule,
    index: int,
    consumers: list[tuple[int, int]],
    dtype: torch.dtype,
    device: torch.device,
) -> LineBuffer | RingBuffer:
    plane = graph.nodes[index].plane
    room = schedule.held_rows(index)
    operators = [graph.nodes[consumer].operator for consumer, _ in consumers]
    if all(
        operator is not None and operator.any_order and number == len(operator.reaches) - 1
        for operator, (_, number) in zip(operators, consumers, strict=True)
    ):
        return RingBuffer(plane, room=room, dtype=dtype, device=device)
    # Enough to move rows rarely; no more than the rows of a few steps, or memory would double.
    at_once = int((schedule.produced_NS[index, 1:] - schedule.produced_NS[index, :-1]).max(initial=1))
    return LineBuffer(plane, room=room, spare=min(room, 2 * at_once), dtype=dtype, device=device)
