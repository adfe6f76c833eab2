"""When which rows are made: a stream's timetable on a grid of steps that is absolute in the slide."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from axialcli.engine.stream.graph import Graph


@dataclass(frozen=True)
class Schedule:
    """At each step every source takes its next rows, and every node makes what it then can.

    produced_NS: rows that node n has made after step s. kept_NS: the first of them that a later step
    still reads. Both depend on the graph and on rows_px alone, so that a run that starts at a later
    step makes the same rows in the same steps.
    """

    graph: Graph
    rows_px: int
    produced_NS: NDArray[np.int64]
    kept_NS: NDArray[np.int64]

    @property
    def steps(self) -> int:
        return int(self.produced_NS.shape[1])

    def rows(self, node: int, step: int) -> tuple[int, int]:
        """The rows [start, stop) that a node makes in a step."""
        return int(self.produced_NS[node, step - 1]) if step else 0, int(self.produced_NS[node, step])

    def step_of(self, node: int, row: int) -> int:
        """The step in which a node makes a row."""
        return int(np.searchsorted(self.produced_NS[node], row, side="right"))

    def held_rows(self, node: int) -> int:
        """The most rows of a node that exist at once: those kept, and those of one step."""
        before = np.concatenate(([0], self.kept_NS[node, :-1]))
        return int((self.produced_NS[node] - before).max())

    def kept_rows(self, node: int) -> int:
        """The most rows of a node that are kept from one step to the next."""
        return int((self.produced_NS[node] - self.kept_NS[node])[:-1].max(initial=0))

    def waits(self, node: int) -> bool:
        """Whether some rows of a node are read in a later step than the one that makes them."""
        return bool((self.kept_NS[node] < self.produced_NS[node])[:-1].any())

    def first_steps(self, row: int) -> list[int]:
        """Of each node the first step that has to run so that the outputs are right from `row` on."""
        return self._start(row)[0]

    def first_rows(self, row: int) -> dict[int, int]:
        """Of each source the first row that is read where each node runs from its first step on."""
        return self._start(row)[1]

    def _start(self, row: int) -> tuple[list[int], dict[int, int]]:
        graph = self.graph
        first = [self.steps] * len(graph.nodes)
        read: dict[int, int] = {}
        for index in graph.outputs:
            first[index] = self.step_of(index, row)
        for index in range(len(graph.nodes) - 1, -1, -1):
            start = self.rows(index, first[index])[0] if first[index] < self.steps else 0
            node = graph.nodes[index]
            if node.operator is None or first[index] == self.steps:
                continue
            for source, (rows, _) in zip(node.inputs, node.operator.reaches, strict=True):
                low, _ = rows.clipped(start, start + 1, graph.nodes[source].plane.height)
                first[source] = min(first[source], self.step_of(source, low))
                if graph.nodes[source].operator is None:
                    read[source] = min(read.get(source, low), low)
        return first, read


def make_schedule(graph: Graph, rows_px: int) -> Schedule:
    """The timetable for steps of `rows_px` rows of pixels, a multiple of the graph's stride."""
    if rows_px % graph.stride:
        raise ValueError(f"{rows_px} rows of pixels are no multiple of the stride {graph.stride}")
    heights = [node.plane.height for node in graph.nodes]
    # The output lags behind by about the receptive field; where that is not enough, try more.
    tallest = max(math.ceil(height / node.rate) for height, node in zip(heights, graph.nodes, strict=True))
    steps = -(-tallest // rows_px) + 8
    while True:
        produced_NS = _produced(graph, rows_px, steps)
        if all(produced_NS[index, -1] == heights[index] for index in graph.outputs):
            break
        steps *= 2
    last = 1 + max(int(np.searchsorted(produced_NS[index], heights[index])) for index in graph.outputs)
    produced_NS = produced_NS[:, :last]
    return Schedule(graph, rows_px, produced_NS, _kept(graph, produced_NS))


def _produced(graph: Graph, rows_px: int, steps: int) -> NDArray[np.int64]:
    produced_NS = np.zeros((len(graph.nodes), steps), np.int64)
    step_S = np.arange(steps)
    for index, node in enumerate(graph.nodes):
        height = node.plane.height
        # What the node may make in one step, so that no step at the end has to make all that lags.
        at_most = math.ceil(rows_px * node.rate)
        if node.operator is None:
            produced_NS[index] = np.minimum(at_most * (step_S + 1), height)
            continue
        possible_S = np.full(steps, height)
        for source, (rows, _) in zip(node.inputs, node.operator.reaches, strict=True):
            made_S = produced_NS[source]
            if rows.whole:
                ready_S = np.where(made_S == graph.nodes[source].plane.height, height, 0)
            else:
                at_most = max(at_most, rows.block)
                whole_S = made_S // rows.block * rows.block
                ready_S = (whole_S * rows.per - 1 - rows.last) // rows.step + 1
                if rows.block > 1:
                    ready_S = ready_S // rows.block * rows.block
                ready_S = np.where(made_S == graph.nodes[source].plane.height, height, ready_S)
                # A row of padding, above the first, asks for that one.
                ready_S = np.where(made_S == 0, 0, ready_S)
            possible_S = np.minimum(possible_S, ready_S)
        possible_S = np.clip(possible_S, 0, height)
        # No more than at_most a step: the running minimum of min(last + at_most, possible).
        behind_S = np.minimum.accumulate(np.minimum(possible_S - at_most * step_S, at_most))
        produced_NS[index] = behind_S + at_most * step_S
    return produced_NS


def _kept(graph: Graph, produced_NS: NDArray[np.int64]) -> NDArray[np.int64]:
    kept_NS = produced_NS.copy()
    for index, node in enumerate(graph.nodes):
        if node.operator is None:
            continue
        done_S = produced_NS[index]
        for source, (rows, _) in zip(node.inputs, node.operator.reaches, strict=True):
            if rows.whole:
                low_S = np.zeros_like(done_S)
            else:
                low_S = (done_S * rows.step + rows.first) // rows.per // rows.block * rows.block
            # A row of padding asks for rows beyond the end; `clipped` then gives it the last one.
            height = graph.nodes[source].plane.height
            low_S = np.where(done_S == node.plane.height, height, np.minimum(low_S, height - 1))
            kept_NS[source] = np.minimum(kept_NS[source], np.maximum(low_S, 0))
    return kept_NS
