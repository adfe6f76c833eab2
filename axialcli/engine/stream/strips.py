"""Whether a picture can be cut into column strips: whether each strip computes what the whole would there.

A strip has a halo of the receptive field, so that what it writes depends on its own pixels alone. That is not
enough where a network crops or pads by the picture's width: then its nodes end elsewhere in a strip.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn

from axialcli.engine.stream.cropping import Shift
from axialcli.engine.stream.graph import Graph, Node
from axialcli.engine.stream.trace import NotStreamable, trace
from axialcli.geometry import Size

Columns = tuple[int, int]
"""Columns [x0, x1)."""


def strip_graphs(
    network: nn.Module, channels: int, whole: Graph, strips: Iterable[tuple[Columns, Columns]]
) -> list[Graph]:
    """The graphs of column strips, one for each width.

    strips: of each the pixels that it writes, and those that it reads, from a multiple of the period on.
    Raises NotStreamable where one would not compute what the whole computes there.
    """
    found: dict[int, Graph] = {}
    steps = _steps(whole)
    for (x0, x1), (left, right) in strips:
        part = found.get(right - left)
        if part is None:
            part = found[right - left] = trace(network, channels, Size(whole.height, right - left))
            if _steps(part) != steps:
                raise NotStreamable("for what it does depends on the width")
        if _read(part, x0, x1, left) != _read(whole, x0, x1, 0):
            raise NotStreamable("for what it does depends on the width")
    return list(found.values())


def _only_cuts(node: Node) -> bool:
    """Whether a node keeps everything where it is, and crops or pads below and on the right."""
    return isinstance(node.operator, Shift) and all(reach.local for reach in node.operator.reaches[0])


def _steps(graph: Graph) -> list[object]:
    """What a graph does, without nodes that only cut: a width that needs no cut has none."""
    place: dict[int, int] = {}
    steps: list[object] = []
    for index, node in enumerate(graph.nodes):
        inputs = tuple(place[source] for source in node.inputs)
        if _only_cuts(node):
            place[index] = inputs[0]
        else:
            place[index] = len(steps)
            steps.append((node.name, inputs, node.operator and node.operator.reaches))
    return steps


def _read(graph: Graph, x0: int, x1: int, left: int) -> dict[str, Columns]:
    """The columns of each node, those that only cut left out, that decide the pixels [x0, x1) of the picture.

    left: where in the picture the graph's columns begin. The answer counts from the picture's edge.
    """
    needed: dict[int, Columns] = {}
    for index in graph.outputs:
        rate = graph.nodes[index].column_rate
        needed[index] = math.floor((x0 - left) * rate), math.ceil((x1 - left) * rate)
    found: dict[str, Columns] = {}
    for index in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[index]
        start, stop = needed.get(index, (0, 0))
        start, stop = max(start, 0), min(stop, node.plane.width)
        if start >= stop:
            continue
        if not _only_cuts(node):
            first = int(left * node.column_rate)
            found[node.name] = start + first, stop + first
        for source, (_, columns) in node.reads:
            low, high = columns.needs(start, stop)
            before = needed.get(source, (low, high))
            needed[source] = min(low, before[0]), max(high, before[1])
    return found
