"""How many pixels have which value in the truth and which in the prediction, whatever values there are.

Shapes: N pairs of values that occur.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

VALUES = 65_536
"""Values are numbers below this one."""

TABLE_CELLS = 1 << 22
"""Up to so many pairs are counted in a table of all that there could be, else those that occur are sorted."""

Values = NDArray[np.int64]


@dataclass(frozen=True)
class PairCounts:
    """Pixels by their pair of values.

    pairs_N: truth * VALUES + prediction, sorted, each once. pixels_N: how many have it, 1 at least.
    """

    pairs_N: Values
    pixels_N: Values

    @staticmethod
    def of(truth: NDArray[Any], pred: NDArray[Any]) -> PairCounts:
        """Counts two pictures of one shape, of whole numbers from 0 to VALUES - 1."""
        width, height = (int(labels.max(initial=0)) + 1 for labels in (pred, truth))
        if width * height > TABLE_CELLS:
            codes = truth.astype(np.uint32) * np.uint32(VALUES) + pred.astype(np.uint32)
            pairs_N, pixels_N = np.unique(codes, return_counts=True)
            return PairCounts(pairs_N.astype(np.int64), pixels_N.astype(np.int64))
        codes = truth.astype(np.uint32) * np.uint32(width) + pred.astype(np.uint32)
        table = np.bincount(codes.ravel())
        cells = np.flatnonzero(table)
        return PairCounts(cells // width * VALUES + cells % width, table[cells].astype(np.int64))

    @staticmethod
    def total(parts: Iterable[PairCounts]) -> PairCounts:
        """The pixels of all parts together."""
        known = list(parts)
        pairs_N, place = np.unique(np.concatenate([one.pairs_N for one in known]), return_inverse=True)
        pixels_N = np.zeros(len(pairs_N), np.int64)
        np.add.at(pixels_N, place, np.concatenate([one.pixels_N for one in known]))
        return PairCounts(pairs_N, pixels_N)

    @property
    def pixels(self) -> int:
        """All pixels."""
        return int(self.pixels_N.sum())

    def truth_pixels(self) -> dict[int, int]:
        """Pixels of each value that the truth has, in order."""
        return _summed(self.pairs_N // VALUES, self.pixels_N)

    def pred_pixels(self) -> dict[int, int]:
        """Pixels of each value that the prediction has, in order."""
        return _summed(self.pairs_N % VALUES, self.pixels_N)

    def both(self, truth: int, pred: int) -> int:
        """Pixels of that value in the truth and that in the prediction."""
        pair = truth * VALUES + pred
        at = int(np.searchsorted(self.pairs_N, pair))
        found = at < len(self.pairs_N) and int(self.pairs_N[at]) == pair
        return int(self.pixels_N[at]) if found else 0

    def without(self, truth: Collection[int]) -> PairCounts:
        """The pixels that have none of these values in the truth."""
        kept_N = ~np.isin(self.pairs_N // VALUES, sorted(truth))
        return PairCounts(self.pairs_N[kept_N], self.pixels_N[kept_N])


def _summed(values_N: Values, pixels_N: Values) -> dict[int, int]:
    values, place = np.unique(values_N, return_inverse=True)
    pixels = np.zeros(len(values), np.int64)
    np.add.at(pixels, place, pixels_N)
    return dict(zip(values.tolist(), pixels.tolist(), strict=True))
