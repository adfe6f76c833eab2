"""Pairs of neighbourhoods as one operator, against the network itself."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from axialcli.engine.stream import trace as traced
from axialcli.engine.stream.chains import Chain
from axialcli.engine.stream.flow import Flow
from axialcli.engine.stream.graph import Graph
from axialcli.engine.stream.operators import Piece, clipped
from axialcli.engine.stream.plan import stream_bytes
from axialcli.engine.stream.schedule import make_schedule
from axialcli.geometry import Box, Size
from tests.engine.stream.networks import UNet, randomised
from tests.engine.stream.test_flow import picture, streamed

Layer = tuple[int, int, int, int]
"""Kernel, stride, padding, dilation."""

layers = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2))


class Pair(nn.Module):
    """Two convolutions, or a pooling and a convolution, and activations between."""

    def __init__(self, first: Layer, second: Layer, relus: int, pools: bool) -> None:
        super().__init__()
        kernel, stride, padding, dilation = first
        padding = min(padding, kernel // 2)
        self.first: nn.Module = nn.Conv2d(3, 3, kernel, stride, padding, dilation)
        if pools:
            self.first = nn.MaxPool2d(kernel, stride, padding, dilation)
        self.second = nn.Conv2d(3, 9, *second)
        self.relus = relus

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(self.relus):
            x = F.relu(x)
        return self.second(x)  # type: ignore[no-any-return]


def chains(graph: Graph) -> list[Chain]:
    return [node.operator for node in graph.nodes if isinstance(node.operator, Chain)]


@settings(max_examples=80, deadline=None)
@given(
    first=layers,
    second=layers,
    relus=st.integers(0, 2),
    pools=st.booleans(),
    size=st.tuples(st.integers(33, 46), st.integers(33, 46)),
    steps=st.integers(1, 4),
    data=st.data(),
)
def test_every_box_and_every_stream_is_that_of_the_network(
    first: Layer,
    second: Layer,
    relus: int,
    pools: bool,
    size: tuple[int, int],
    steps: int,
    data: st.DataObject,
) -> None:
    network = randomised(Pair(first, second, relus, pools), 1)
    image_BCHW = picture(*size)
    with torch.inference_mode():
        whole = network(image_BCHW)
        graph = traced(network, 3, Size(*size))
        torch.testing.assert_close(streamed(network, image_BCHW, steps), whole, rtol=0, atol=1e-10)
        for chain in chains(graph):
            height, width = whole.shape[2:]
            y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
            box = Box(y0, x0, data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width)))
            read = clipped(chain.reaches[0], box, Size(*size))
            tensor = image_BCHW[:, :, read.y0 : read.y1, read.x0 : read.x1]
            piece = Piece(tensor, read, Size(*size))
            inside = whole[:, :, box.y0 : box.y1, box.x0 : box.x1]
            torch.testing.assert_close(chain.run([piece], box), inside, rtol=0, atol=1e-10)


@pytest.mark.parametrize("second", [(2, 1, 2, 1), (3, 1, 3, 1), (1, 1, 1, 1), (3, 2, 2, 1), (3, 1, 4, 2)])
def test_outputs_that_lie_in_the_padding_alone(second: Layer) -> None:
    """Of what is in between they ask for nothing: such pairs stay apart where there are any."""
    network = randomised(Pair((3, 1, 1, 1), second, 1, False), 1)
    image_BCHW = picture(20, 20)
    graph = traced(network, 3, Size(20, 20))
    kernel, _, padding, dilation = second
    assert len(chains(graph)) == (padding <= dilation * (kernel - 1))
    with torch.inference_mode():
        for rows_px in (1, 2, 8):
            found = streamed(network, image_BCHW, rows_px)
            torch.testing.assert_close(found, network(image_BCHW), rtol=0, atol=1e-10)


def test_the_memory_of_what_is_in_between_is_planned() -> None:
    """256 channels that no node hands out."""
    network = nn.Sequential(nn.Conv2d(3, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 2, 3, padding=1))
    graph = traced(randomised(network, 0), 3, Size(640, 512))
    assert len(chains(graph)) == 1
    assert stream_bytes(graph, 64, 4) > 64 * 512 * 256 * 4


SAME = (3, 1, 1, 1)
HALF = (3, 2, 1, 1)


@pytest.mark.parametrize(
    ("network", "number"),
    [
        (Pair(SAME, SAME, 1, False), 1),
        (Pair(HALF, SAME, 2, True), 1),
        (Pair(HALF, HALF, 0, False), 1),
        (Pair(SAME, (1, 1, 0, 1), 1, False), 0),
        (Pair(SAME, (2, 2, 0, 1), 1, False), 0),
        (Pair((3, 3, 1, 1), SAME, 1, False), 0),
        (nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))), 2),
        (nn.Sequential(nn.Conv2d(3, 3, 3), nn.Sigmoid(), nn.Conv2d(3, 3, 3)), 0),
        (UNet(depth=1), 1),
    ],
    ids=["same", "pooled", "halved", "point", "cells", "high edge", "four", "sigmoid", "unet"],
)
def test_which_are_made_in_one(network: nn.Module, number: int) -> None:
    """Those with an edge of at most four rows of pixels, and with nobody else who reads what lies between."""
    assert len(chains(traced(randomised(network, 0), 3, Size(32, 32)))) == number


def test_the_network_in_between_is_as_far_seeing_and_keeps_less(monkeypatch: pytest.MonkeyPatch) -> None:
    network = randomised(Pair(HALF, HALF, 1, False), 0)

    def facts() -> tuple[int | None, int, int]:
        graph = traced(network, 3, Size(160, 40))
        flow = Flow(graph, make_schedule(graph, 48), dtype=torch.float64, device=torch.device("cpu"))
        return graph.receptive_field_px(), graph.stride, flow.state_bytes

    field, stride, with_chains = facts()
    monkeypatch.setattr(import_module("axialcli.engine.stream.trace"), "chained", lambda graph: graph)
    field_of_each, stride_of_each, without = facts()
    assert (field, stride) == (field_of_each, stride_of_each)
    # Of the 25 rows of 20 columns and 3 channels none is kept; of the picture two rows more.
    assert without - with_chains == (25 * 20 * 3 - 2 * 40 * 3) * 8
