"""How many pixels, or voxels, each class has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_FEW = 16
"""Up to so many classes it is quicker to look for each than to sort every pixel into its place."""


def count_labels(labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Of labels 0 ... classes - 1 in any shape, unsigned integers, how often each occurs: [K]."""
    if classes > _FEW:
        return np.bincount(labels.ravel(), minlength=classes)
    return np.array([np.count_nonzero(labels == label) for label in range(classes)], np.int64)
