"""What becomes of a plan where memory ran out: less at once from there on, and what was finished stays."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from typing import Any, Literal

from axialcli.config import MASK_TILE
from axialcli.geometry import Box

Halved = Literal["batch", "steps", "strips"]
"""Tiles at once; rows of a step; columns of a strip."""


class Halvings:
    """How often a plan was halved, and the blocks that had been finished in wider strips.

    earlier: the plan's notes of the run before, or None. Strips are only ever cut into parts of themselves,
    so a block of the plan lies in a kept one, or touches none.
    """

    def __init__(self, earlier: Mapping[str, Any] | None = None) -> None:
        earlier = earlier or {}
        self._counts: dict[str, int] = dict(earlier.get("halved", {}))
        self._kept = [Box(*box) for box in earlier.get("kept", ())]

    def add(self, what: Halved, done: Collection[Box] = ()) -> None:
        """Counts a halving. done: the blocks that were finished before it, where it cuts the strips."""
        self._counts[what] = self._counts.get(what, 0) + 1
        if done:
            self._kept = sorted(done)

    def notes(self) -> dict[str, Any]:
        """What a continued run has to know, in JSON's types; nothing where nothing was halved."""
        kept = {"kept": [list(box) for box in self._kept]} if self._kept else {}
        return {"halved": self._counts.copy(), **kept} if self._counts else {}

    def describe(self) -> dict[str, int]:
        """For the report: what was halved, and how often."""
        return self._counts.copy()

    def boxes(self, planned: Iterable[Box]) -> list[Box]:
        """The kept blocks, and of those that are planned the others."""
        return [*self._kept, *_outside(self._kept, planned)]

    def missing(self, planned: Iterable[Box], done: Collection[Box]) -> list[Box]:
        """The planned blocks that are still to be made. Kept ones that are not `done` are kept no more."""
        finished = set(done)
        self._kept = [box for box in self._kept if box in finished]
        return [box for box in _outside(self._kept, planned) if box not in finished]


def _outside(kept: list[Box], planned: Iterable[Box]) -> list[Box]:
    """The boxes that lie in none of the kept ones."""
    beside: dict[int, list[Box]] = {}
    for box in kept:
        beside.setdefault(box.y0, []).append(box)
    return [box for box in planned if not any(one.contains(box) for one in beside.get(box.y0, ()))]


def halved_strips(edges: Iterable[int], width: int) -> list[int]:
    """Left edges of strips of half the width, of whole mask tiles each; the same where none is wider."""
    halves = []
    for x0, x1 in pairwise([*edges, width]):
        middle = x0 + -(-(x1 - x0) // MASK_TILE) // 2 * MASK_TILE
        halves += [x0, middle] if middle > x0 else [x0]
    return halves
