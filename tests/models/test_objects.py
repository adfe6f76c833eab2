"""Objects as background, interior and border, and back; their F1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_nuclei import BORDER, INTERIOR, UNCLEAR, classes_of, merged_objects, read_nuclei
from objects import intersections_over_unions, object_f1, objects_of
from pictures import IGNORE

RNG = np.random.default_rng(0)


def test_borders_are_those_of_the_definition() -> None:
    objects_HW = RNG.integers(0, 3, (9, 12)).repeat(4, 0).repeat(4, 1).astype(np.uint16)
    objects_HW[10:13, 20:30] = UNCLEAR
    height, width = objects_HW.shape
    want_HW = np.zeros((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            if own := objects_HW[y, x]:
                near = objects_HW[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
                far = objects_HW[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
                others = set(far.ravel().tolist()) - {0, UNCLEAR}
                want_HW[y, x] = IGNORE if own == UNCLEAR else INTERIOR
                if (near == 0).any() or (own != UNCLEAR and len(others) > 1):
                    want_HW[y, x] = BORDER

    assert np.array_equal(classes_of(objects_HW), want_HW)


def test_touching_objects_come_apart_and_back(data: Path) -> None:
    (picture, _) = read_nuclei(data, "train", objects=True)
    truth_HW = picture.label_HW.astype(np.int32)

    found_HW = objects_of(classes_of(picture.label_HW))

    assert found_HW.max() == 3
    assert np.array_equal(found_HW > 0, truth_HW > 0)
    assert object_f1(found_HW, truth_HW).min() == 1


def test_the_neck_between_merged_objects_is_unclear() -> None:
    ys, xs = np.mgrid[:40, :60]
    mask_HW = ((ys - 20) ** 2 + (xs - 18) ** 2 < 144) | ((ys - 20) ** 2 + (xs - 40) ** 2 < 144)

    objects_HW = merged_objects(mask_HW)

    assert objects_HW[20, 29] == UNCLEAR
    assert objects_HW[20, 18] == objects_HW[20, 40] == 1
    assert classes_of(objects_HW)[20, 29] == IGNORE
    assert np.array_equal(objects_HW > 0, mask_HW)


def test_overlaps_are_those_of_the_naive_loops() -> None:
    found_HW, truth_HW = (RNG.integers(0, 5, (30, 30)).astype(np.int32) for _ in range(2))

    iou_FT = intersections_over_unions(found_HW, truth_HW)

    for f in range(1, 5):
        for t in range(1, 5):
            both = np.sum((found_HW == f) & (truth_HW == t))
            either = np.sum((found_HW == f) | (truth_HW == t))
            assert iou_FT[f - 1, t - 1] == pytest.approx(both / either)


def test_f1_counts_each_object_once() -> None:
    truth_HW = np.zeros((10, 40), np.int32)
    truth_HW[:, :10], truth_HW[:, 20:30] = 1, 2
    found_HW = np.zeros_like(truth_HW)
    # One of 8 of 10 columns, one half of the second, one of nothing.
    found_HW[:, :8], found_HW[:, 20:25], found_HW[:, 35:] = 1, 2, 3

    f1 = object_f1(found_HW, truth_HW)

    assert f1[0] == pytest.approx(2 * 2 / 5)
    assert f1[1:6] == pytest.approx([2 * 1 / 5] * 5)
    assert f1[-1] == 0
    assert object_f1(np.zeros_like(truth_HW), np.zeros_like(truth_HW)).tolist() == [1] * 10
