"""A network with barriers, cut into stages that alternate between rows and columns of the picture.

An attention over the whole height needs every row before it makes the first one: a barrier. Between two
barriers rows flow as in any stream; at a barrier, strips of columns are worked on at their whole height.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from axialcli.engine.stream.graph import Graph
from axialcli.engine.stream.pointwise import Norm
from axialcli.engine.stream.values import NotStreamable


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a network that runs in one pass.

    graph: the part, a graph of its own. columns: whether it runs on columns of the whole height, or on
    rows. pixels: the source that takes the picture, or None. reads, writes: which nodes of `graph` are
    read from the store before, and written into it; the numbers are nodes of the whole network's graph.
    """

    graph: Graph
    columns: bool
    pixels: int | None
    reads: dict[int, int]
    writes: dict[int, int]


def split(graph: Graph) -> list[Stage]:
    """The stages in the order in which they run; the last is of rows and makes the outputs.

    Values that a later stage reads are stored, but for those finer than the barrier's grid that the
    pixels alone decide (an encoder's skips): a later stage of rows makes these again in a sweep of its
    own. Raises NotStreamable where an operator wants the whole height and its neighbours' columns.
    """
    levels = _levels(graph)
    _sink(graph, levels)
    last = max(levels) + max(levels) % 2
    stored = _stored(graph, levels, last)
    stages = []
    for level in range(last + 1):
        written = [index for index in stored if levels[index] == level]
        wanted = list(graph.outputs) if level == last else written
        if wanted:
            stages.append(_stage(graph, level, levels, stored, wanted, written))
    return stages


def _levels(graph: Graph) -> list[int]:
    """Of each node its stage: even numbers are stages of rows, odd ones of columns."""
    levels: list[int] = []
    for index, node in enumerate(graph.nodes):
        level = max((levels[source] for source in node.inputs), default=0)
        if _is_barrier(graph, index):
            if not _keeps_columns(graph, index):
                raise NotStreamable(f"looks at the whole picture (node {node.name})")
            level += 1 - level % 2
        elif level % 2 and not _keeps_columns(graph, index):
            level += 1
        levels.append(level)
    return levels


def _is_barrier(graph: Graph, index: int) -> bool:
    operator = graph.nodes[index].operator
    return operator is not None and any(rows.whole for rows, _ in operator.reaches)


def _keeps_columns(graph: Graph, index: int) -> bool:
    """Whether a column of a node needs the same column of its inputs alone, on the same grid."""
    node = graph.nodes[index]
    if node.operator is None:
        return False
    return all(columns.local for _, columns in node.operator.reaches) and all(
        _grid(graph, source) == _grid(graph, index) for source in node.inputs
    )


def _grid(graph: Graph, index: int) -> tuple[int, int]:
    plane = graph.nodes[index].plane
    return plane.height, plane.width


def _numbers(graph: Graph, index: int) -> int:
    plane = graph.nodes[index].plane
    return plane.height * plane.width * plane.depth


def _sink(graph: Graph, levels: list[int]) -> None:
    """Moves nodes to the stage of their first reader where that leaves no more to store.

    A norm before an attention is made beside the attention, from the residual stream that is stored
    anyway; keys and values are made in the stage that uses them up. Changes `levels`.
    """
    readers = graph.consumers()
    moved = True
    while moved:
        moved = False
        for index in reversed(range(len(graph.nodes))):
            node = graph.nodes[index]
            if node.operator is None or index in graph.outputs or _is_barrier(graph, index):
                continue
            target = min(levels[reader] for reader, _ in readers[index])
            if target % 2 and not _keeps_columns(graph, index):
                target -= 1
            if target <= levels[index]:
                continue
            newly_stored = sum(
                _numbers(graph, source)
                for source in set(node.inputs)
                if all(levels[reader] < target for reader, _ in readers[source] if reader != index)
            )
            if newly_stored <= _numbers(graph, index):
                levels[index] = target
                moved = True


def _stored(graph: Graph, levels: list[int], last: int) -> list[int]:
    """The nodes whose numbers a later stage reads, but for those that are made again."""
    free = _free_of_barriers(graph)
    later = _later_readers(graph, levels, last)
    stored: list[int] = []
    for index, node in enumerate(graph.nodes):
        if not later[index]:
            continue
        coarsest = min(
            graph.nodes[barrier].rate for barrier in graph.barriers if levels[barrier] <= max(later[index])
        )
        by_sweep = free[index] and (node.operator is None or node.rate > coarsest)
        if by_sweep and not any(level % 2 for level in later[index]):
            continue
        # A norm costs less than its place in the store, where what it is made from lies there as well.
        if isinstance(node.operator, Norm) and node.inputs[0] in stored:
            source = node.inputs[0]
            if max(later[source]) >= max(later[index]) and levels[source] < min(later[index]):
                continue
        stored.append(index)
    return stored


def _later_readers(graph: Graph, levels: list[int], last: int) -> list[set[int]]:
    """Of each node the later stages that read it; the outputs are read by the last stage."""
    later = [
        {levels[reader] for reader, _ in readers if levels[reader] > levels[index]}
        for index, readers in enumerate(graph.consumers())
    ]
    for index in graph.outputs:
        if levels[index] < last:
            later[index].add(last)
    return later


def _free_of_barriers(graph: Graph) -> list[bool]:
    """Of each node whether the pixels decide it with no barrier in between."""
    free: list[bool] = []
    for index, node in enumerate(graph.nodes):
        free.append(not _is_barrier(graph, index) and all(free[source] for source in node.inputs))
    return free


def _stage(
    graph: Graph, level: int, levels: list[int], stored: list[int], wanted: list[int], written: list[int]
) -> Stage:
    """The stage that makes the nodes `wanted`."""
    here = dict(_parts(graph, level, levels, set(stored), wanted))
    part = Graph()
    place: dict[int, int] = {}
    pixels: int | None = None
    for index in sorted(here):
        node = graph.nodes[index]
        if here[index] or node.operator is None:
            place[index] = part.add_source(node.name, node.plane, node.rate)
            pixels = pixels if here[index] else place[index]
        else:
            inputs = [place[source] for source in node.inputs]
            place[index] = part.add(node.name, node.operator, inputs, node.plane)
    part.outputs = tuple(place[index] for index in wanted)
    return Stage(
        graph=part,
        columns=bool(level % 2),
        pixels=pixels,
        reads={place[index]: index for index, read in here.items() if read},
        writes={place[index]: index for index in written},
    )


def _parts(
    graph: Graph, level: int, levels: list[int], stored: set[int], wanted: list[int]
) -> Iterator[tuple[int, bool]]:
    """The nodes of a stage, and whether each is read from the store."""
    left, seen = list(wanted), set(wanted)
    while left:
        index = left.pop()
        read = index in stored and levels[index] < level
        yield index, read
        for source in () if read else graph.nodes[index].inputs:
            if source not in seen:
                seen.add(source)
                left.append(source)


__all__ = ["Stage", "split"]
