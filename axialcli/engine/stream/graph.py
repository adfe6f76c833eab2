"""The graph of a network's operators, on the grid of one picture.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from axialcli.engine.stream.operators import Axes, Operator


@dataclass(frozen=True)
class Plane:
    """A tensor of the whole picture: its shape, and which dimensions are the height and the width.

    The first dimension is the batch, of size 1.
    """

    shape: tuple[int, ...]
    row_dim: int
    column_dim: int

    @property
    def height(self) -> int:
        return self.shape[self.row_dim]

    @property
    def width(self) -> int:
        return self.shape[self.column_dim]

    @property
    def depth(self) -> int:
        """Numbers per position."""
        return math.prod(self.shape) // (self.height * self.width)

    def with_size(self, height: int, width: int, channels: int | None = None) -> Plane:
        """The same layout with another size; channels: of dimension 1, for layout [B, C, H, W]."""
        shape = list(self.shape)
        shape[self.row_dim], shape[self.column_dim] = height, width
        if channels is not None:
            shape[1] = channels
        return Plane(tuple(shape), self.row_dim, self.column_dim)


@dataclass(frozen=True)
class Node:
    """One operator at its place in the graph. inputs: indices of nodes. operator: None for a source."""

    name: str
    operator: Operator | None
    inputs: tuple[int, ...]
    plane: Plane
    rate: Fraction
    column_rate: Fraction
    """Rows per row of pixels, columns per column of pixels."""

    @property
    def reads(self) -> list[tuple[int, Axes]]:
        """The nodes that it reads, and what it needs of each; a source reads none."""
        return list(zip(self.inputs, self.operator.reaches if self.operator else (), strict=True))


@dataclass
class Graph:
    """Nodes in an order in which each comes after its inputs. outputs: the nodes that are handed out."""

    nodes: list[Node] = field(default_factory=list)
    outputs: tuple[int, ...] = ()

    @property
    def height(self) -> int:
        """Of the picture, in pixels."""
        return self.nodes[0].plane.height

    @property
    def width(self) -> int:
        """Of the picture, in pixels."""
        return self.nodes[0].plane.width

    def add(self, name: str, operator: Operator, inputs: Sequence[int], plane: Plane) -> int:
        """Appends a node; returns its index."""
        rows, columns = operator.reaches[0]
        source = self.nodes[inputs[0]]
        rate = source.rate * Fraction(rows.per, rows.step)
        column_rate = source.column_rate * Fraction(columns.per, columns.step)
        self.nodes.append(Node(name, operator, tuple(inputs), plane, rate, column_rate))
        return len(self.nodes) - 1

    def add_source(
        self, name: str, plane: Plane, rate: Fraction = Fraction(1), column_rate: Fraction | None = None
    ) -> int:
        """Appends a node that is fed from outside; returns its index. column_rate: as `rate` where None."""
        self.nodes.append(Node(name, None, (), plane, rate, rate if column_rate is None else column_rate))
        return len(self.nodes) - 1

    def consumers(self) -> list[list[tuple[int, int]]]:
        """Of each node the (node, input number) pairs that read it."""
        found: list[list[tuple[int, int]]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            for number, source in enumerate(node.inputs):
                found[source].append((index, number))
        return found

    def without_unused(self) -> Graph:
        """The same graph without nodes that the outputs do not need."""
        used = set(self.outputs)
        for index in range(len(self.nodes) - 1, -1, -1):
            if index in used:
                used.update(self.nodes[index].inputs)
        order = sorted(used)
        place = {old: new for new, old in enumerate(order)}
        kept = Graph(outputs=tuple(place[old] for old in self.outputs))
        for old in order:
            node = self.nodes[old]
            if node.operator is None:
                kept.add_source(node.name, node.plane, node.rate, node.column_rate)
            else:
                kept.add(node.name, node.operator, [place[source] for source in node.inputs], node.plane)
        return kept

    @property
    def stride(self) -> int:
        """Pixels after which the network's grids repeat: the least common multiple of all strides."""
        rates = [rate for node in self.nodes for rate in (node.rate, node.column_rate)]
        return math.lcm(*((1 / rate).numerator for rate in rates))

    @property
    def period(self) -> int:
        """Pixels after which all that the network does repeats: strides, and windows of its own grid."""
        blocks = [
            reach.block / rate
            for node in self.nodes
            for source, reaches in node.reads
            for reach, rate in zip(
                reaches, (self.nodes[source].rate, self.nodes[source].column_rate), strict=True
            )
        ]
        # Of a block that is no whole number of pixels only some multiples are.
        return math.lcm(self.stride, *(Fraction(block).numerator for block in blocks))

    @property
    def barriers(self) -> list[int]:
        """Nodes of which every row needs every row of an input."""
        return [
            index
            for index, node in enumerate(self.nodes)
            if node.operator is not None and any(rows.whole for rows, _ in node.operator.reaches)
        ]

    @property
    def looks_everywhere(self) -> bool:
        """Some output needs a whole row or a whole column of its input."""
        return any(
            reach.whole
            for node in self.nodes
            if node.operator
            for reaches in node.operator.reaches
            for reach in reaches
        )

    def receptive_field_px(self) -> int | None:
        """How far to each side, in pixels, an output pixel depends on the input; None: without a bound."""
        if self.looks_everywhere:
            return None
        # Phases of strides and windows repeat; far from 0 nothing is negative.
        places = range(64 * self.period, 65 * self.period)
        return max(self._spread(axis, at) for axis in (0, 1) for at in places)

    def _spread(self, axis: int, at: int) -> int:
        """How far output `at` looks, in pixels."""
        needed = dict.fromkeys(self.outputs, (at, at + 1))
        widest = 0
        for index in range(len(self.nodes) - 1, -1, -1):
            if index not in needed:
                continue
            start, stop = needed[index]
            node = self.nodes[index]
            if node.operator is None:
                widest = max(widest, at - start, stop - 1 - at)
                continue
            for source, reaches in node.reads:
                low, high = reaches[axis].needs(start, stop)
                old = needed.get(source, (low, high))
                needed[source] = (min(low, old[0]), max(high, old[1]))
        return widest
