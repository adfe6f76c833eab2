"""A stage of columns: strips of columns at their whole height.

Shapes: R rows, H height, W width, C numbers per position.
"""

from __future__ import annotations

from torch import Tensor

from axialcli.engine.stream.graph import Graph, Plane
from axialcli.engine.stream.operators import Piece
from axialcli.geometry import Box, Size


def positions_first(tensor: Tensor, plane: Plane) -> Tensor:
    """A part of a value in the store's order: [R, W, C]."""
    rows_RW = tensor.permute(0, plane.row_dim, plane.column_dim, *_others(plane))[0]
    return rows_RW.reshape(*rows_RW.shape[:2], -1)


def as_planned(rows_RWC: Tensor, plane: Plane) -> Tensor:
    """The same part in the layout of its node; a view."""
    others = _others(plane)
    order = [0, plane.row_dim, plane.column_dim, *others]
    parts = rows_RWC.reshape(1, *rows_RWC.shape[:2], *(plane.shape[dim] for dim in others))
    return parts.permute([order.index(dim) for dim in range(len(order))])


def _others(plane: Plane) -> list[int]:
    return [dim for dim in range(1, len(plane.shape)) if dim not in (plane.row_dim, plane.column_dim)]


def run_columns(graph: Graph, fed: dict[int, Tensor], x0: int, x1: int) -> dict[int, Tensor]:
    """Executes a graph on the columns [x0, x1) at their whole height.

    fed: of each source these columns, in the node's layout. Returns the outputs.
    """
    readers = [len(found) + (index in graph.outputs) for index, found in enumerate(graph.consumers())]
    made = dict(fed)
    # What came from outside may be overwritten as well: the store hands out copies.
    owned = set(fed)
    for index, node in enumerate(graph.nodes):
        if node.operator is None:
            continue
        pieces = []
        for source in node.inputs:
            plane = graph.nodes[source].plane
            box = Box(0, x0, plane.height, x1)
            mine = source in owned and readers[source] == 1
            pieces.append(Piece(made[source], box, Size(plane.height, plane.width), owned=mine))
        made[index] = node.operator.run(pieces, Box(0, x0, node.plane.height, x1))
        if node.operator.fresh or all(piece.owned for piece in pieces):
            owned.add(index)
        del pieces
        for source in node.inputs:
            if not node.operator.fresh:
                # What was made may be a view of it.
                owned.discard(source)
            readers[source] -= 1
            if not readers[source]:
                del made[source]
    return {index: made[index] for index in graph.outputs}


def column_bytes(graph: Graph, bytes_per_number: int) -> int:
    """The most memory that `run_columns` takes for one column."""
    size = [node.plane.height * node.plane.depth * bytes_per_number for node in graph.nodes]
    readers = [len(found) + (index in graph.outputs) for index, found in enumerate(graph.consumers())]
    alive = sum(size[index] for index, node in enumerate(graph.nodes) if node.operator is None)
    most = alive
    for index, node in enumerate(graph.nodes):
        if node.operator is None:
            continue
        alive += size[index]
        # What an operator needs in between: queries, turned keys, the result before its projection.
        most = max(most, alive + max(size[source] for source in node.inputs) + 2 * size[index])
        for source in node.inputs:
            readers[source] -= 1
            alive -= 0 if readers[source] else size[source]
    return most
