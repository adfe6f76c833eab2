"""How far the nodes of a graph see, in pixels, and where on the picture there is anything to see.

Rows of a node depend on the pixels of a rectangle around them. Which columns of a node feel other pixels than
background follows from that rectangle and the pixels alone, whatever was computed in between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialcli.engine.stream.graph import Graph
from axialcli.engine.stream.intervals import Interval, runs_of
from axialcli.engine.stream.schedule import Schedule

GROUP_PX = 16
"""Rows of pixels that are looked at together, at most: finer ones are more to look through."""

FAR = 720_720
"""Periods from the picture's edge: farther than any network reaches."""


@dataclass(frozen=True)
class RowSight:
    """Rows [a, b) of a node depend on the rows of pixels from a * px / per - above to b * px / per + below.

    At most; above and below are whole.
    """

    px: int
    per: int
    above: int
    below: int

    def pixels(self, start: int, stop: int) -> Interval:
        """The rows of pixels that rows [start, stop) depend on; they may lie outside the picture."""
        return start * self.px // self.per - self.above, -(-stop * self.px // self.per) + self.below


def row_sights(graph: Graph) -> list[RowSight]:
    """How far each node sees upwards and downwards."""
    found: list[tuple[Fraction, Fraction]] = []
    for node in graph.nodes:
        above = below = Fraction(0)
        for source, (rows, _) in node.reads:
            rate = graph.nodes[source].rate
            begins_before = Fraction(rows.per - 1 - rows.first, rows.per) + rows.block - 1
            ends_behind = Fraction(rows.last - rows.step + rows.per, rows.per) + rows.block - 1
            above = max(above, found[source][0] + begins_before / rate)
            below = max(below, found[source][1] + ends_behind / rate)
        found.append((above, below))
    return [
        RowSight(node.rate.denominator, node.rate.numerator, math.ceil(above), math.ceil(below))
        for node, (above, below) in zip(graph.nodes, found, strict=True)
    ]


@dataclass(frozen=True)
class ColumnSight:
    """Of pixels in the columns [a, b), multiples of the graph's period, a node feels something in the columns
    from a * per / px + left to b * per / px + right."""

    px: int
    per: int
    left: int
    right: int

    def feel(self, start: int, stop: int) -> Interval:
        """The columns that feel the columns of pixels [start, stop); they may lie outside the picture."""
        return start * self.per // self.px + self.left, stop * self.per // self.px + self.right


def column_sights(graph: Graph) -> list[ColumnSight]:
    """Where each node feels columns of pixels."""
    start, stop = FAR * graph.period, (FAR + 1) * graph.period
    felt: list[Interval] = []
    for node in graph.nodes:
        parts = [columns.felt(*felt[source]) for source, (_, columns) in node.reads] or [(start, stop)]
        felt.append((min(part[0] for part in parts), max(part[1] for part in parts)))
    return [
        ColumnSight(rate.denominator, rate.numerator, low - int(start * rate), high - int(stop * rate))
        for rate, (low, high) in zip((node.column_rate for node in graph.nodes), felt, strict=True)
    ]


def read_from(graph: Graph, schedule: Schedule) -> NDArray[np.int64]:
    """The first row of pixels that is read by a run which starts with a node's step, [N, S].

    No row above it is needed; a sight may name some, through rounding.
    """
    starts_NS = np.pad(schedule.produced_NS, ((0, 0), (1, 0)))[:, :-1]
    read_NS = starts_NS.copy()
    for index, node in enumerate(graph.nodes):
        for number, (source, (along, _)) in enumerate(node.reads):
            # A Reach counts in whole numbers; arrays of them do as well.
            rows: Any = along
            low_S = rows.needs(starts_NS[index], starts_NS[index] + 1)[0]
            low_S = low_S.clip(0, graph.nodes[source].plane.height - 1)
            if graph.nodes[source].operator is not None:
                step_S = np.searchsorted(schedule.produced_NS[source], low_S, side="right")
                low_S = read_NS[source, step_S.clip(max=schedule.steps - 1)]
            read_NS[index] = np.minimum(read_NS[index], low_S) if number else low_S
    return read_NS


def rows_together(rows_px: int) -> int:
    """How many rows of pixels are looked at together where steps have `rows_px`: whole groups make a step."""
    return math.gcd(rows_px, GROUP_PX)


class Activity:
    """Where in the rows of pixels that were fed there are others than background.

    cell_px: columns are looked at in cells of that width. rows_px: rows come in steps of so many.
    """

    def __init__(self, cell_px: int, width: int, rows_px: int) -> None:
        self._cell_px, self._group_px = cell_px, rows_together(rows_px)
        self._starts = np.arange(0, width, cell_px)
        self.clear()

    def clear(self) -> None:
        """Forgets all rows."""
        self._first: int | None = None
        self._other_GN = np.zeros((0, len(self._starts)), np.bool_)
        self._known: dict[Interval, list[Interval]] = {}

    def add(self, first: int, blank_HW: NDArray[np.bool_]) -> None:
        """The next rows of pixels, from `first` on."""
        groups = np.arange(0, len(blank_HW), self._group_px)
        other_GW = ~np.logical_and.reduceat(blank_HW, groups, axis=0)
        if self._first is None:
            self._first = first // self._group_px
        self._other_GN = np.concatenate(
            (self._other_GN, np.logical_or.reduceat(other_GW, self._starts, axis=1))
        )
        self._known = {}

    def forget(self, row: int) -> None:
        """Nobody asks for rows above `row` any more."""
        if self._first is None:
            return
        gone = min(row // self._group_px - self._first, len(self._other_GN))
        if gone > 0:
            self._first += gone
            self._other_GN = self._other_GN[gone:]
            self._known = {}

    def within(self, start: int, stop: int) -> list[Interval]:
        """The columns of pixels that are not blank in some of the rows [start, stop), clipped to the picture.

        Rows are widened to whole groups, columns to whole cells; the last cell may end beyond the picture.
        The first of the rows has to be known still.
        """
        if self._first is None:
            return []
        first = max(start, 0) // self._group_px - self._first
        assert first >= 0, "rows that were not fed, or are forgotten, are asked for"
        groups = first, max(-(-stop // self._group_px) - self._first, first)
        if groups not in self._known:
            other_N = np.logical_or.reduce(self._other_GN[slice(*groups)], axis=0)
            self._known[groups] = [
                (first * self._cell_px, last * self._cell_px) for first, last in runs_of(other_N)
            ]
        return self._known[groups]
