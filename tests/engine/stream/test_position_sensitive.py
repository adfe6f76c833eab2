"""Networks of position-sensitive attention through the stream, against the network on the whole picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from axialcli.backends.torch_model import fold
from axialcli.engine.stream import NotStreamable, trace
from axialcli.geometry import Size
from axialcli.nn import build_network
from axialcli.nn.families.axial_bottleneck import AxialBottleneck
from axialcli.nn.families.found import Beyond
from tests.engine.stream import test_flow, test_sparse
from tests.engine.stream.barriers import barrier_flow, last_sweep, prepared
from tests.engine.stream.models import NetworkModel
from tests.engine.stream.networks import randomised
from tests.engine.stream.test_engine import collect, cut, make, noise, whole

SMALL = {
    "classes": 2,
    "stem_width": 4,
    "stage_planes": (4, 8, 8, 12),
    "stage_depths": (1, 2, 1, 1),
    "heads": 2,
    "span": 5,
}


def deeplab(seed: int = 0, dtype: torch.dtype = torch.float64, **config: Any) -> nn.Module:
    network = randomised(build_network("axial_deeplab", **{**SMALL, **config}), seed, dtype)
    fold(network)
    return network


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 50),
    rows=st.sampled_from([1, 2, 5]),
    span=st.sampled_from([1, 3, 5]),
)
def test_axial_deeplab_streams_at_any_size(height: int, width: int, rows: int, span: int) -> None:
    network = deeplab(span=span)
    image_BCHW = test_flow.picture(height, width)
    torch.testing.assert_close(
        test_flow.streamed(network, image_BCHW, rows),
        test_flow.whole(network, image_BCHW),
        rtol=0,
        atol=1e-9,
    )


def test_the_logits_are_those_of_the_whole_picture() -> None:
    """In float32, on a picture larger than a span's reach and of odd sides; in pieces of every kind."""
    network = deeplab(dtype=torch.float32)
    image_BCHW = test_flow.picture(587, 413, torch.float32)
    expected = test_flow.whole(network, image_BCHW)
    found = test_flow.streamed(network, image_BCHW, 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_the_engine_answers_in_strips() -> None:
    model = NetworkModel(deeplab(dtype=torch.float32))
    image_HWC = noise(119, 1101)
    _, probs_KHW = collect(make(image_HWC, model, probs=True, repeat=cut(2, 1101)))
    np.testing.assert_allclose(probs_KHW, whole(image_HWC, model), rtol=0, atol=1e-5)


class Blocks(nn.Module):
    """A convolution of stride 4, a block that halves the grid rounded up, and back."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 4, stride=4)
        self.block = AxialBottleneck(8, 8, stride=2, lengths=(6, 5), heads=2, **settings)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        finer = F.interpolate(self.block(x), scale_factor=2, mode="bilinear", align_corners=False)
        return F.pixel_shuffle(finer[:, :, : x.shape[2], : x.shape[3]], 4)


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(8, 200),
    width=st.integers(8, 900),
    rows=st.sampled_from([1, 3]),
    where=test_sparse.spots,
)
def test_background_is_skipped_exactly(
    height: int, width: int, rows: int, where: list[tuple[float, float]]
) -> None:
    """At its sides a blank picture is not alike: a token there sees other distances."""
    network = randomised(Blocks(span=5), 0)
    image_BCHW, blank_HW = test_sparse.spotted(height, width, where)
    found, _ = test_sparse.streamed(network, image_BCHW, blank_HW, rows)
    torch.testing.assert_close(found, test_flow.whole(network, image_BCHW), rtol=0, atol=1e-9)


def test_much_is_skipped_of_a_blank_picture() -> None:
    image_BCHW, blank_HW = test_sparse.spotted(100, 2000, [(0.3, 0.5)])
    _, flow = test_sparse.streamed(randomised(Blocks(span=5), 0), image_BCHW, blank_HW, 3)
    assert flow.skipped > 0.8 * flow.total


@pytest.mark.parametrize("beyond", ["clip", "interpolate"])
def test_tables_without_an_end_are_a_barrier(beyond: Beyond) -> None:
    """Every row is seen by every other: in passes over a store, and not in one flow of rows."""
    network = randomised(Blocks(beyond=beyond), 0)
    image_BCHW = test_flow.picture(60, 84)
    flow = barrier_flow(network, image_BCHW, plan={"steps": [8, 3, 8]})
    assert prepared(flow, image_BCHW)
    found = last_sweep(flow, image_BCHW)
    torch.testing.assert_close(found, test_flow.whole(network, image_BCHW), rtol=0, atol=1e-9)


def test_a_fixed_table_is_refused_by_name() -> None:
    with pytest.raises(
        NotStreamable, match=r"hight_block.* learned positions for 6 tokens, and there are 10"
    ):
        trace(Blocks().eval(), 3, Size(40, 20))
