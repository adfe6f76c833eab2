"""What a comparison has to give, in plain loops over whole pictures."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[Any]


def dice_and_iou(pred: Labels, truth: Labels, value: int) -> tuple[Fraction, Fraction]:
    both = either = total = 0
    for ours, theirs in zip(pred.ravel().tolist(), truth.ravel().tolist(), strict=True):
        both += ours == value and theirs == value
        either += ours == value or theirs == value
        total += (ours == value) + (theirs == value)
    return Fraction(2 * both, total), Fraction(both, either)


def objects_of(labels: Labels) -> list[frozenset[tuple[int, int]]]:
    """The pixels of each number above 0."""
    found: dict[int, set[tuple[int, int]]] = {}
    for (y, x), value in np.ndenumerate(labels):
        if value > 0:
            found.setdefault(int(value), set()).add((y, x))
    return [frozenset(pixels) for _, pixels in sorted(found.items())]


def most_matches(pred: Labels, truth: Labels, threshold: Fraction) -> int:
    """The largest number of pairs, one to one, whose IoU reaches the threshold: all ways are tried."""
    ours, theirs = objects_of(pred), objects_of(truth)
    if len(ours) > len(theirs):
        ours, theirs = theirs, ours
    best = 0
    for chosen in itertools.permutations(range(len(theirs)), len(ours)):
        fits = 0
        for one, at in zip(ours, chosen, strict=True):
            fits += Fraction(len(one & theirs[at]), len(one | theirs[at])) >= threshold
        best = max(best, fits)
    return best


def nearest(labels: Labels, shape: tuple[int, int], step: tuple[float, float]) -> Labels:
    """Each pixel from the one under its centre."""
    out = np.zeros(shape, labels.dtype)
    for y in range(shape[0]):
        for x in range(shape[1]):
            row = min(int((y + 0.5) * step[0]), labels.shape[0] - 1)
            out[y, x] = labels[row, min(int((x + 0.5) * step[1]), labels.shape[1] - 1)]
    return out
