"""Tiles along one axis: they cover, they overlap as said, their weights sum to one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from axialcli.config import Blend
from axialcli.engine.grid import tile_spans
from axialcli.errors import UsageError

BLENDS: list[Blend] = ["gaussian", "linear", "mean", "crop"]


@given(
    length=st.integers(1, 2000),
    tile=st.integers(1, 300),
    overlap=st.integers(0, 149),
    stride=st.sampled_from([1, 2, 8]),
    blend=st.sampled_from(BLENDS),
)
def test_weights_sum_to_one_at_every_pixel(
    length: int, tile: int, overlap: int, stride: int, blend: Blend
) -> None:
    if (tile - 2 * overlap) // stride * stride <= 0:
        with pytest.raises(UsageError, match="no step forward"):
            tile_spans(length, tile=tile, overlap=overlap, blend=blend, stride_of=stride)
        return
    total = np.zeros(length)
    spans = tile_spans(length, tile=tile, overlap=overlap, blend=blend, stride_of=stride)
    for span in spans:
        assert 0 <= span.start < span.stop <= length
        assert span.start % stride == 0
        assert span.stop - span.start <= tile
        assert span.weight.min() >= 0
        total[span.start : span.stop] += span.weight
    assert np.abs(total - 1).max() < 1e-6
    assert len(spans) == 1 or all(
        before.stop - after.start >= 2 * overlap for before, after in pairwise(spans)
    )


@pytest.mark.parametrize("length", [384, 385, 511, 512, 513, 767, 768, 769, 895, 896, 897])
def test_tiles_end_at_the_edge_of_the_slide(length: int) -> None:
    spans = tile_spans(length, tile=512, overlap=64, blend="gaussian")

    assert spans[0].start == 0
    assert spans[-1].stop == length
    assert [span.start for span in spans] == [384 * index for index in range(len(spans))]


def test_crop_keeps_the_half_of_the_overlap_that_is_nearer() -> None:
    first, second = tile_spans(896, tile=512, overlap=64, blend="crop")

    assert np.array_equal(np.flatnonzero(first.weight), np.arange(0, 448))
    assert np.array_equal(second.start + np.flatnonzero(second.weight), np.arange(448, 896))


@pytest.mark.parametrize("blend", ["gaussian", "linear", "mean"])
def test_no_weight_is_zero_at_a_tile_edge(blend: Blend) -> None:
    for span in tile_spans(2000, tile=512, overlap=64, blend=blend):
        assert span.weight.min() > 0
