"""Median, spread, exponent, budget and verdicts against numbers worked out by other means."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from axialcli.bench.budget import Budget, repeat_for
from axialcli.bench.compare import verdict
from axialcli.bench.figures import Measurement, best_rate, exponent, quartiles, rate, spread


class FakeClock:
    """A clock that stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("values", [[3.0, 1.0], [5.0, 1.0, 2.0], [2.0, 8.0, 4.0, 1.0], [1.0, 9, 2, 7, 3, 3]])
def test_median_and_quartiles_are_numpys(values: list[float]) -> None:
    lower, median, upper = np.percentile(values, [25, 50, 75])
    measured = Measurement(name="a", kind="engine", seconds=tuple(values))

    assert measured.median_s == pytest.approx(median)
    assert quartiles(values) == pytest.approx((lower, upper))
    assert spread(values) == pytest.approx((upper - lower) / median)


def test_one_repeat_has_no_spread() -> None:
    assert quartiles([2.0]) == (2.0, 2.0)
    assert spread([2.0]) == 0


def test_rates_are_of_the_median_and_ceilings_of_the_quickest() -> None:
    measured = Measurement(name="a", kind="ceiling", seconds=(4.0, 1.0, 2.0))
    assert (rate(8, measured), best_rate(8, measured)) == (4, 8)


def test_the_exponent_of_a_power_law_is_found() -> None:
    tokens = [32**2, 64**2, 128**2, 512**2]
    assert exponent(tokens, [3e-7 * n**1.5 for n in tokens]) == pytest.approx(1.5)


def test_the_exponent_of_noisy_figures_is_that_of_least_squares() -> None:
    sizes, seconds = [1.0, 2, 4, 8, 16], [1.0, 2.5, 3.0, 9.0, 14.0]
    slope, _ = np.polyfit(np.log(sizes), np.log(seconds), 1)
    assert exponent(sizes, seconds) == pytest.approx(slope)


def test_one_size_has_no_exponent() -> None:
    assert exponent([64, 64], [1.0, 2.0]) is None


def test_shares_follow_the_weights_and_pass_on_what_was_not_used() -> None:
    clock = FakeClock()
    budget = Budget(120, clock)

    assert budget.share_s(1, 4) == 30
    clock.now += 10
    assert budget.used_s == 10
    assert budget.share_s(1, 3) == pytest.approx(110 / 3)
    clock.now += 200
    assert (budget.left_s, budget.share_s(1, 1)) == (0, 0)


@pytest.mark.parametrize(("seconds", "each", "calls"), [(10, 3, 3), (10, 20, 1), (0, 1, 1), (100, 1, 9)])
def test_repeats_fit_into_their_time_but_there_is_one_at_least(
    seconds: float, each: float, calls: int
) -> None:
    clock, done = FakeClock(), []

    def once() -> float:
        clock.now += each
        done.append(clock.now)
        return each

    repeat_for(seconds, once, most=9, clock=clock)
    assert len(done) == calls


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ([5.0, 5.1, 5.2, 5.3], [4.0, 4.1, 4.2, 4.3], "faster"),
        ([5.0, 5.1, 5.2, 5.3], [6.0, 6.1, 6.2, 6.3], "slower"),
        ([5.0, 5.1, 5.2, 5.3], [4.0, 4.1, 4.2, 5.0], "same"),
        ([5.0, 5.1, 5.2], [1.0, 1.1, 1.2], "too few repeats"),
        ([5.0, 5.1, 5.2], [1.0, 1.1, 1.2, 1.3, 1.4], "faster"),
    ],
)
def test_a_change_counts_where_the_ranges_lie_apart(
    before: list[float], after: list[float], says: str
) -> None:
    assert verdict(before, after) == says


def test_ranges_lie_apart_by_chance_as_often_as_is_said() -> None:
    """Counted over all orders in which four and four repeats of the same thing can come."""
    orders = list(permutations(range(8)))
    apart = sum(max(o[:4]) < min(o[4:]) or max(o[4:]) < min(o[:4]) for o in orders)
    assert apart / len(orders) == pytest.approx(2 / math.comb(8, 4))
