from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from axialcli.output.counting import count_labels


@pytest.mark.parametrize(("classes", "dtype"), [(1, "u1"), (2, "u1"), (16, "u1"), (17, "u1"), (1000, "u2")])
def test_counts_are_those_of_a_loop(classes: int, dtype: str) -> None:
    labels = np.random.default_rng(classes).integers(0, classes, (3, 41, 57)).astype(dtype)
    labels[labels == classes // 2] = 0
    looped = Counter(int(label) for label in labels.ravel())
    counted = count_labels(labels, classes)
    assert counted.dtype == np.int64
    assert counted.tolist() == [looped[label] for label in range(classes)]
