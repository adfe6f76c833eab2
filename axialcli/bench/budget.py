"""How the time for all measurements is divided among them."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]


class Budget:
    """So many seconds from now on. clock: what tells the time, in seconds."""

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        self._clock, self._began, self.seconds = clock, clock(), seconds

    @property
    def used_s(self) -> float:
        return self._clock() - self._began

    @property
    def left_s(self) -> float:
        """Never below 0."""
        return max(self.seconds - self.used_s, 0.0)

    def share_s(self, weight: float, weights_left: float) -> float:
        """What a measurement may take: its part of the time that is left, by its weight among those that are
        still to come, itself included. What others did not use up is shared out again that way."""
        return self.left_s * weight / weights_left if weights_left > 0 else 0.0


def repeat_for(
    seconds: float, once: Callable[[], float], *, most: int = 9, clock: Clock = time.monotonic
) -> None:
    """Calls `once` until another call would not fit into the seconds, at least once, at most `most` times.

    once: returns the seconds that the call is expected to take another time.
    """
    end = clock() + seconds
    for _ in range(most):
        expected_s = once()
        if clock() + expected_s > end:
            return
