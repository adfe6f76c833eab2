"""Figures from repeats: median, spread, rates, and the exponent of a power law."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One thing that was measured several times.

    name: unique in a report, such as "tiles torch 2048". kind: what sort of thing. seconds: of each repeat,
    in order. facts: what belongs to it, in JSON's types.
    """

    name: str
    kind: str
    seconds: tuple[float, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": list(self.seconds)}


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The lower and the upper quartile, linear between neighbours; of one value, twice the value."""
    if len(values) == 1:
        return values[0], values[0]
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, upper


def spread(values: Sequence[float]) -> float:
    """The interquartile range as a share of the median."""
    lower, upper = quartiles(values)
    return (upper - lower) / statistics.median(values)


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float | None:
    """The b of seconds = a * sizes ** b, by least squares of the logarithms; None below two sizes."""
    if len(set(sizes)) < 2:
        return None
    x, y = [math.log(size) for size in sizes], [math.log(s) for s in seconds]
    return statistics.linear_regression(x, y).slope


def rate(amount: float, measured: Measurement) -> float:
    """Of an amount that each repeat did, how much a second, at the median."""
    return amount / measured.median_s


def best_rate(amount: float, measured: Measurement) -> float:
    """The same at the quickest repeat: a ceiling is what can be reached."""
    return amount / min(measured.seconds)
