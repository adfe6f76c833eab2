"""Pyramids: labels by mode, never averaged; probabilities by mean; odd sides rounded up."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from axialcli.geometry import Size, level_sizes
from axialcli.output.reduce import mean_2x2, mode_2x2
from tests.output.runs import naive_mode


def test_every_combination_of_five_labels_has_the_mode_of_a_count() -> None:
    labels = np.array(list(itertools.product([0, 1, 2, 7, 255], repeat=4)), np.uint8)
    picture = labels.reshape(-1, 2, 2).transpose(1, 0, 2).reshape(2, -1)
    np.testing.assert_array_equal(mode_2x2(picture), naive_mode(picture))


@pytest.mark.parametrize(
    ("quad", "mode"),
    [
        ([0, 0, 0, 5], 0),
        ([0, 0, 5, 5], 5),
        ([3, 3, 5, 5], 3),
        ([0, 5, 3, 9], 3),
        ([0, 0, 3, 9], 0),
        ([9, 9, 0, 3], 9),
        ([1, 0, 0, 1], 1),
    ],
)
def test_ties_go_to_the_lowest_label_that_is_not_background(quad: list[int], mode: int) -> None:
    assert mode_2x2(np.array(quad, np.uint8).reshape(2, 2)).tolist() == [[mode]]


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 3), (1, 9), (9, 1), (5, 4), (64, 63)])
@pytest.mark.parametrize("classes", [2, 4])
def test_odd_sides_are_decided_by_the_pixels_that_exist(size: tuple[int, int], classes: int) -> None:
    labels = np.random.default_rng(1).integers(0, classes, size).astype(np.uint8)
    np.testing.assert_array_equal(mode_2x2(labels), naive_mode(labels))


def test_the_mean_is_of_the_pixels_that_exist_rounded_half_to_even() -> None:
    picture = np.array([[1, 2, 10], [1, 2, 11], [255, 255, 7]], np.uint8)
    assert mean_2x2(picture).tolist() == [[2, 10], [255, 7]]
    assert mean_2x2(picture.astype(np.float16)).tolist() == [[1.5, 10.5], [255, 7]]
    assert mean_2x2(picture.astype(np.float16)).dtype == np.float16


def test_levels_go_down_to_one_tile() -> None:
    assert level_sizes(Size(1, 1), 512) == (Size(1, 1),)
    assert level_sizes(Size(512, 512), 512) == (Size(512, 512),)
    assert level_sizes(Size(513, 1), 512) == (Size(513, 1), Size(257, 1))
    assert level_sizes(Size(2049, 700), 512)[-1] == Size(257, 88)
