"""Whether a picture can be cut into column strips: whether each strip computes what the whole would there.

A strip has a halo of the receptive field, so that what it writes depends on its own pixels alone. That is not
enough where a network crops or pads by the picture's width: then its nodes end elsewhere in a strip.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeGuard

from torch import nn

from axialcli.engine.stream.cropping import Shift
from axialcli.engine.stream.graph import Graph
from axialcli.engine.stream.operators import Operator
from axialcli.engine.stream.trace import NotStreamable, trace
from axialcli.geometry import Size

Columns = tuple[int, int]
"""Columns [x0, x1)."""


def strip_graphs(
    network: nn.Module, channels: int, whole: Graph, strips: Iterable[tuple[Columns, Columns]]
) -> list[Graph]:
    """The graphs of column strips, one for each width.

    strips: of each the pixels that it writes, and those that it reads, from a multiple of the period on.
    Raises NotStreamable where one would not read there what the whole reads. A network that computes with the
    width as a number, and not only with pixels, is not found out.
    """
    found: dict[int, Graph] = {}
    steps = _steps(whole)
    for (x0, x1), (left, right) in strips:
        part = found.get(right - left)
        if part is None:
            part = found[right - left] = trace(network, channels, Size(whole.height, right - left))
        if _steps(part) != steps or _read(part, x0, x1, left) != _read(whole, x0, x1, 0):
            raise NotStreamable("for what it does depends on the width")
    return list(found.values())


def _only_cuts(operator: Operator | None) -> TypeGuard[Shift]:
    """Whether an operator keeps everything where it is, and crops or pads below and on the right."""
    return isinstance(operator, Shift) and all(reach.local for reach in operator.reaches[0])


def _places(graph: Graph) -> list[int]:
    """Of each node its number among those that do not only cut; of one that does, that of its input."""
    places: list[int] = []
    number = 0
    for node in graph.nodes:
        if _only_cuts(node.operator):
            places.append(places[node.inputs[0]])
        else:
            places.append(number)
            number += 1
    return places


def _steps(graph: Graph) -> list[object]:
    """What a graph does, without nodes that only cut: a width that needs no cut has none."""
    places = _places(graph)
    return [
        (node.name, [places[source] for source in node.inputs], node.operator and node.operator.reaches)
        for node in graph.nodes
        if not _only_cuts(node.operator)
    ]


def _read(graph: Graph, x0: int, x1: int, left: int) -> dict[object, object]:
    """The columns of each node that decide the pixels [x0, x1) of the picture.

    left: where in the picture the graph's columns begin; the answer counts from the picture's edge. Of a node
    that only cuts it says how many of these columns are padded, and with what.
    """
    places = _places(graph)
    needed: dict[int, Columns] = {}
    for index in graph.outputs:
        rate = graph.nodes[index].column_rate
        needed[index] = math.floor((x0 - left) * rate), math.ceil((x1 - left) * rate)
    found: dict[object, object] = {}
    for index in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[index]
        start, stop = needed.get(index, (0, 0))
        start, stop = max(start, 0), min(stop, node.plane.width)
        if start >= stop:
            continue
        if not _only_cuts(node.operator):
            first = int(left * node.column_rate)
            found[places[index]] = start + first, stop + first
        elif (padded := stop - graph.nodes[node.inputs[0]].plane.width) > 0:
            found[node.name, places[index]] = padded, node.operator.fill
        for source, (_, columns) in node.reads:
            low, high = columns.needs(start, stop)
            before = needed.get(source, (low, high))
            needed[source] = min(low, before[0]), max(high, before[1])
    return found
