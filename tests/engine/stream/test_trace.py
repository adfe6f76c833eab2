"""Tracing: the shapes, the receptive field, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from axialcli.engine.stream import NotStreamable, trace
from axialcli.geometry import Size
from tests.engine.stream.networks import Mixture, UNet, randomised


@settings(max_examples=25, deadline=None)
@given(height=st.integers(20, 90), width=st.integers(20, 90), stride=st.sampled_from([1, 2, 3]))
def test_shapes_are_those_of_the_network(height: int, width: int, stride: int) -> None:
    network = randomised(Mixture(stride=stride), 0)
    graph = trace(network, 3, Size(height, width))
    made = network(torch.zeros(1, 3, height, width, dtype=torch.float64))
    assert graph.nodes[graph.outputs[0]].plane.shape == made.shape


def felt(network: nn.Module, size: int, out: tuple[int, int]) -> tuple[int, int]:
    """How far above and left of an output pixel the input still moves it, found by gradients."""
    image = torch.randn(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    network(image)[0, :, out[0], out[1]].sum().backward()
    assert image.grad is not None
    moved = image.grad.abs().sum((0, 1)) > 0
    rows, columns = moved.any(1).nonzero()[:, 0], moved.any(0).nonzero()[:, 0]
    down = max(out[0] - int(rows.min()), int(rows.max()) - out[0])
    across = max(out[1] - int(columns.min()), int(columns.max()) - out[1])
    return down, across


@pytest.mark.parametrize(
    "network",
    [
        UNet(depth=1),
        UNet(depth=2, transposed=True),
        Mixture(stride=2),
        nn.Sequential(nn.Conv2d(3, 2, (3, 9), padding=(1, 4), dilation=1)),
    ],
    ids=["unet", "transposed", "mixture", "oblong"],
)
def test_the_receptive_field_is_the_true_one(network: nn.Module) -> None:
    # Linear all the way, and nothing cancels: every pixel within reach moves the output.
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU | nn.LeakyReLU):
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(2))
    network = randomised(network, 0)
    stated = trace(network, 3, Size(128, 128)).receptive_field_px()
    assert stated is not None
    found = [felt(network, 128, (60 + y, 60 + x)) for y in range(8) for x in range(8)]
    assert max(map(max, found)) == stated


class Calls(nn.Module):
    """A network whose forward is the given function."""

    def __init__(self, function: object, **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)  # type: ignore[no-any-return, operator]


def squeeze_excite(net: nn.Module, x: Tensor) -> Tensor:
    return x * x.mean((2, 3), keepdim=True).sigmoid()


REFUSED = {
    "global pooling": (nn.Sequential(nn.AdaptiveAvgPool2d(1)), "AdaptiveAvgPool2d"),
    "group norm": (nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)), "GroupNorm"),
    "instance norm": (nn.Sequential(nn.InstanceNorm2d(3)), "InstanceNorm2d"),
    "batch norm in training": (nn.Sequential(nn.BatchNorm2d(3)).train(), "BatchNorm2d"),
    "squeeze and excite": (Calls(squeeze_excite), "mean"),
    "align_corners": (
        Calls(lambda net, x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)),
        "align_corners",
    ),
    "bicubic": (Calls(lambda net, x: F.interpolate(x, scale_factor=2, mode="bicubic")), "bicubic"),
    "no whole factor": (Calls(lambda net, x: F.interpolate(x, size=(50, 50))), "no whole factor"),
    "reflecting padding": (nn.Sequential(nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect")), "reflect"),
    "flattened": (Calls(lambda net, x: x.flatten(2)), "flatten"),
    "flipped": (Calls(lambda net, x: x.flip(2)), "flip"),
    "layer norm over the picture": (nn.Sequential(nn.LayerNorm([3, 64, 64])), "LayerNorm"),
    "softmax over the width": (nn.Sequential(nn.Softmax(3)), "Softmax"),
    "a table of positions": (Calls(lambda net, x: x + torch.ones(64, 64)), "table"),
    "a branch on the pixels": (Calls(lambda net, x: x if x.sum() > 0 else -x), "followed"),
    "joined rows": (Calls(lambda net, x: torch.cat([x, x], 2)), "cat"),
    "two outputs": (Calls(lambda net, x: (x, x)), "more than one"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_by_name(name: str) -> None:
    network, word = REFUSED[name]
    if "training" not in name:
        network.eval()
    with pytest.raises(NotStreamable, match=word) as refused:
        trace(network, 3, Size(64, 64))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200
