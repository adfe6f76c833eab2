"""Convolutions that make their channels as the shuffle behind them wants them, against the network itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.engine.stream.convolution import Convolution
from axialcli.engine.stream.graph import Graph
from axialcli.engine.stream.resampling import Shuffle
from axialcli.engine.stream.trace import trace
from axialcli.geometry import Size
from tests.engine.stream.networks import randomised
from tests.engine.stream.test_flow import streamed


class Shuffled(nn.Module):
    """A convolution, perhaps what stands between, a shuffle, and a convolution that looks across squares."""

    def __init__(self, side: int, *, bias: bool = True, groups: int = 1, between: str = "relu") -> None:
        super().__init__()
        self.side, self.between = side, between
        self.make = nn.Conv2d(4, 4 * side**2, 3, padding=1, bias=bias, groups=groups)
        self.last = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        made = self.make(x)
        if self.between == "relu":
            made = F.relu(F.relu(made))
        elif self.between == "sum":
            made = F.relu(made) + made
        return self.last(F.pixel_shuffle(made, self.side))  # type: ignore[no-any-return]


def kinds(graph: Graph) -> list[bool]:
    return [node.operator.together for node in graph.nodes if isinstance(node.operator, Shuffle)]


@pytest.mark.parametrize("side", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("between", ["relu", "nothing"])
@pytest.mark.parametrize("rows_px", [1, 5, 19])
def test_the_stream_gives_the_networks_own_numbers(side: int, bias: bool, between: str, rows_px: int) -> None:
    network = randomised(Shuffled(side, bias=bias, between=between), side)
    image_BCHW = torch.randn(1, 4, 19, 23, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    graph = trace(network, 4, Size(19, 23))
    assert kinds(graph) == [True]
    with torch.inference_mode():
        torch.testing.assert_close(
            streamed(network, image_BCHW, rows_px), network(image_BCHW), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("network", [Shuffled(2, groups=2), Shuffled(2, between="sum"), nn.PixelShuffle(2)])
def test_others_stay_as_they_are(network: nn.Module) -> None:
    """Groups, a convolution that somebody else reads as well, and a shuffle of the picture itself."""
    graph = trace(randomised(network, 0), 4, Size(16, 16))
    assert kinds(graph) == [False]


def test_the_networks_own_weights_stay() -> None:
    network = randomised(Shuffled(2), 0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    graph = trace(network, 4, Size(16, 16))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    made = next(node.operator for node in graph.nodes if isinstance(node.operator, Convolution))
    order = [channel * 4 + pixel for pixel in range(4) for channel in range(4)]
    assert torch.equal(made.weight_OCHW, before["make.weight"][order])
    assert torch.equal(made.bias_O, before["make.bias"][order])
