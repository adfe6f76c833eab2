"""Sets of columns as sorted lists of half-open intervals that do not overlap."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Interval = tuple[int, int]


def union(parts: Iterable[Interval], gap: int = 0) -> list[Interval]:
    """All columns of the parts, which may overlap; gaps of up to `gap` columns are closed."""
    joined: list[Interval] = []
    for start, stop in sorted(part for part in parts if part[0] < part[1]):
        if joined and start <= joined[-1][1] + gap:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined


def without(whole: Interval, parts: list[Interval]) -> list[Interval]:
    """The columns of `whole` that no part has."""
    left: list[Interval] = []
    at = whole[0]
    for start, stop in parts:
        if start >= whole[1]:
            break
        if start > at:
            left.append((at, start))
        at = max(at, stop)
    return [*left, (at, whole[1])] if at < whole[1] else left


def clip(parts: Iterable[Interval], length: int) -> list[Interval]:
    """What of the parts lies in [0, length)."""
    clipped = ((max(start, 0), min(stop, length)) for start, stop in parts)
    return [(start, stop) for start, stop in clipped if start < stop]


def cut(parts: Iterable[Interval], places: Iterable[int]) -> list[Interval]:
    """The same columns, in intervals that end at these places."""
    at = sorted(set(places))
    found: list[Interval] = []
    for start, stop in parts:
        inside = [place for place in at if start < place < stop]
        found += pairwise([start, *inside, stop])
    return found


def runs_of(active_N: NDArray[np.bool_]) -> list[Interval]:
    """Where the numbers that are true lie next to each other."""
    change = np.flatnonzero(np.diff(active_N.astype(np.int8), prepend=0, append=0))
    return [(int(start), int(stop)) for start, stop in change.reshape(-1, 2)]
