"""Where in the feature store each value lies that a later stage reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from axialcli.engine.stream.graph import Graph
from axialcli.engine.stream.stages import Stage


@dataclass(frozen=True)
class Slot:
    """Room for one value: `depth` numbers for each position of a grid."""

    height: int
    width: int
    depth: int

    @property
    def numbers(self) -> int:
        return self.height * self.width * self.depth


@dataclass(frozen=True)
class Places:
    """slots: all that the store has to hold. of: the slot of each stored node of the network's graph."""

    slots: tuple[Slot, ...]
    of: dict[int, int]


def assign(graph: Graph, stages: Sequence[Stage], *, in_place: bool) -> Places:
    """Slots for the stored values; one is used again, also by a value of less depth, when it is free.

    in_place: whether a stage may write over a value that it is the last to read. That is safe, for
    a stage of columns reads a strip of every value before it writes that strip; and in a stage of
    rows every node makes at most rows_px * rate rows a step, which is what its sources read, so that
    no row is written before the row of the same number was read. (A step is never lower than a block
    of local windows, which would otherwise be an exception.) The rows that a later row still needs
    lie in line buffers, not in the store.
    """
    last_read = {index: number for number, stage in enumerate(stages) for index in stage.reads.values()}
    slots: list[Slot] = []
    of: dict[int, int] = {}
    free: set[int] = set()
    for number, stage in enumerate(stages):
        dying = {of[index] for index in stage.reads.values() if last_read[index] == number}
        if in_place:
            free |= dying
        for index in sorted(stage.writes.values(), key=lambda index: -graph.nodes[index].plane.depth):
            plane = graph.nodes[index].plane
            fitting = [
                slot
                for slot in free
                if (slots[slot].height, slots[slot].width) == (plane.height, plane.width)
                and slots[slot].depth >= plane.depth
            ]
            if fitting:
                of[index] = min(fitting, key=lambda slot: (slots[slot].depth, slot))
                free.remove(of[index])
            else:
                of[index] = len(slots)
                slots.append(Slot(plane.height, plane.width, plane.depth))
        free |= dying
    return Places(tuple(slots), of)
