"""Pairs of neighbourhoods as one operator, where the edge between two steps is cheap to make again.

A convolution behind another needs, of what that one makes, a row or two of the step before. A line buffer for
them costs memory for a whole step of rows, and a copy of all. One operator with the reach of both makes the
edge anew in every step, and needs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from axialcli.engine.stream.convolution import Neighbourhood
from axialcli.engine.stream.graph import Graph, Node
from axialcli.engine.stream.operators import Axes, Operator, Piece, clipped
from axialcli.engine.stream.pointwise import Relu
from axialcli.engine.stream.reach import Reach
from axialcli.geometry import Box

EDGE_PX = 4
"""Rows of pixels that a chain may make anew in every step, which is seldom lower than four times as many."""


class Chain(Operator):
    """Operators one after the other, of which each reads the one before and nothing else.

    nodes: those that it stands for; the last has its plane.
    """

    fresh = True
    border = True

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(nodes)
        self.links = tuple(node.operator for node in nodes if node.operator)
        super().__init__(_through([link.reaches[0] for link in self.links]))

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        (piece,) = pieces
        sizes = [piece.size]
        for link in self.links:
            sizes.append(link.made(sizes[-1]) if isinstance(link, Neighbourhood) else sizes[-1])
        boxes = [box]
        for link, size in zip(reversed(self.links), reversed(sizes[:-1]), strict=True):
            boxes.append(clipped(link.reaches[0], boxes[-1], size))
        boxes.reverse()
        piece = replace(piece, tensor=_part(piece, boxes[0]), box=boxes[0])
        for link, made, size in zip(self.links, boxes[1:], sizes[1:], strict=True):
            piece = Piece(link.run([piece], made), made, size, owned=link.fresh)
        return piece.tensor


def _part(piece: Piece, box: Box) -> Tensor:
    y, x = box.y0 - piece.box.y0, box.x0 - piece.box.x0
    return piece.tensor[:, :, y : y + box.height, x : x + box.width]


def _through(reaches: Sequence[Axes]) -> Axes:
    """What the last of a chain needs of what the first one reads."""
    rows, columns = reaches[-1]
    for before in reversed(reaches[:-1]):
        rows, columns = (
            Reach(
                step=after.step * first.step,
                first=after.first * first.step + first.first,
                last=after.last * first.step + first.last,
            )
            for first, after in zip(before, (rows, columns), strict=True)
        )
    return rows, columns


def chained(graph: Graph) -> Graph:
    """The graph with pairs of neighbourhoods as one operator where their edge is at most EDGE_PX high."""
    nodes = list(graph.nodes)
    readers = graph.consumers()
    ends: set[int] = set()
    for index in range(len(graph.nodes)):
        links = _links(graph, readers, index)
        # One neighbourhood is part of one chain: edges of edges would grow.
        if links and links[0] not in ends:
            parts = [graph.nodes[link] for link in links]
            nodes[index] = replace(nodes[index], operator=Chain(parts), inputs=parts[0].inputs)
            ends.add(index)
    return Graph(nodes, graph.outputs).without_unused()


def _links(graph: Graph, readers: list[list[tuple[int, int]]], index: int) -> list[int]:
    """The nodes of a chain that ends with a node: a neighbourhood, what it is activated by, another one."""
    last = graph.nodes[index].operator
    if not isinstance(last, Neighbourhood):
        return []
    links = [index]
    while True:
        (source,) = graph.nodes[links[0]].inputs
        node = graph.nodes[source]
        if len(readers[source]) != 1 or source in graph.outputs:
            return []
        links.insert(0, source)
        if isinstance(node.operator, Neighbourhood):
            rows, columns = last.reaches[0]
            edge = rows.last - rows.first + 1 - rows.step
            # An output that lies in the padding alone asks for nothing of what is in between.
            reads = min(rows.last, columns.last) >= 0
            return links if reads and 0 < edge <= EDGE_PX * node.rate else []
        if not isinstance(node.operator, Relu):
            return []
