"""The network of volumes against its parts written out in loops, in float64."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from axialcli.backends.torch_model import fold
from axialcli.errors import ModelError
from axialcli.nn import build_network
from axialcli.nn.volume_segmenter import AxialVolumeSegmenterConfig, VolumeBlock
from tests.nn.loops import axial_in_loops

CONFIGS: list[dict[str, Any]] = [
    {},
    {"z_stride": 2},
    {"span": None},
    {"span": None, "positions": "none", "z_stride": 2},
    {"span": 5, "positions": "rotary"},
]


def made_of(config: dict[str, Any]) -> Any:
    """That network, small, with weights and statistics that leave nothing at zero."""
    torch.manual_seed(0)
    small = {"width": (2, 4), "depth": 1, "span": 3, "heads": 2, "classes": 3}
    network = build_network("axial_volume_segmenter", **{**small, **config})
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.2, 3.0)
        elif name.endswith(("running_mean", "bias", "bias_AS")):
            tensor.normal_(0, 0.5)
    return network.eval().requires_grad_(False)


def attention_in_loops(module: Any, tokens_BDHWC: Tensor, axis: int) -> Tensor:
    """Multi-head attention along one axis of a volume (0 depth, 1 height, 2 width), one query at a time."""
    weight, bias = module.qkv.weight.double(), module.qkv.bias.double()
    qkv = tokens_BDHWC @ weight.t() + bias
    channels, heads = tokens_BDHWC.shape[-1], module.heads
    size, length = channels // heads, tokens_BDHWC.shape[1 + axis]
    radius = length if module.span is None else module.span // 2
    out = torch.zeros_like(tokens_BDHWC)
    for place in itertools.product(*map(range, tokens_BDHWC.shape[:-1])):
        here = place[1 + axis]
        keys = range(max(0, here - radius), min(length, here + radius + 1))
        at = [(*place[: 1 + axis], key, *place[2 + axis :]) for key in keys]
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            q = qkv[place][:channels][own]
            scores = [float(q @ qkv[there][channels : 2 * channels][own]) / math.sqrt(size) for there in at]
            if module.positions == "bias":
                scores = [
                    score + float(module.bias_AS[head, key - here + radius])
                    for score, key in zip(scores, keys, strict=True)
                ]
            shares = torch.tensor(scores, dtype=torch.float64).softmax(0)
            values = torch.stack([qkv[there][2 * channels :][own] for there in at])
            out[place][own] = shares @ values
    return out @ module.proj.weight.double().t() + module.proj.bias.double()  # type: ignore[no-any-return]


def normed(module: Any, tokens: Tensor) -> Tensor:
    """Layer norm over the channels, written out."""
    mean, spread = tokens.mean(-1, keepdim=True), tokens.var(-1, keepdim=True, unbiased=False)
    return (tokens - mean) / (spread + module.eps).sqrt() * module.weight.double() + module.bias.double()


def block_in_loops(block: Any, tokens: Tensor) -> Tensor:
    """Width, height, depth, feed-forward; each behind its norm and added to what it was given."""
    for axis, name in ((2, "width"), (1, "height"), (0, "depth")):
        attention, given = getattr(block, name), normed(getattr(block, f"norm_{name}"), tokens)
        if attention.positions == "rotary":
            tokens = tokens + axial_in_loops(attention, given)
        else:
            tokens = tokens + attention_in_loops(attention, given, axis)
    hidden = normed(block.norm_mlp, tokens) @ block.mlp[0].weight.double().t() + block.mlp[0].bias.double()
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return tokens + hidden @ block.mlp[2].weight.double().t() + block.mlp[2].bias.double()  # type: ignore[no-any-return]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_block_equals_the_textbook_loops_along_all_three_axes(config: dict[str, Any]) -> None:
    settings = {"width": (2, 4), "heads": 2, "span": 3, **config}
    torch.manual_seed(1)
    block = VolumeBlock(AxialVolumeSegmenterConfig(**settings)).double().requires_grad_(False)
    for parameter in block.parameters():
        parameter.normal_(0, 0.4)
    tokens = torch.randn(2, 4, 5, 3, 4, dtype=torch.float64)

    want = block_in_loops(block, tokens)

    assert (block(tokens) - want).abs().max() < 1e-9
    assert (block.float()(tokens.float()) - want).abs().max() < 1e-5


def convolved_in_loops(module: Any, image: Tensor) -> Tensor:
    """A convolution over 3 x 3 x 3 voxels with zeros around, [C, D, H, W], one output at a time."""
    strides = module.stride
    sizes = [-(-side // stride) for side, stride in zip(image.shape[1:], strides, strict=True)]
    padded = torch.zeros(image.shape[0], *(side + 2 for side in image.shape[1:]), dtype=torch.float64)
    padded[:, 1:-1, 1:-1, 1:-1] = image
    weight = module.weight.double()
    out = torch.zeros(weight.shape[0], *sizes, dtype=torch.float64)
    for place in itertools.product(*map(range, sizes)):
        corner = [at * stride for at, stride in zip(place, strides, strict=True)]
        cube = padded[(slice(None), *(slice(at, at + 3) for at in corner))]
        out[(slice(None), *place)] = (weight * cube).sum((1, 2, 3, 4))
    return out if module.bias is None else out + module.bias.double()[:, None, None, None]


def batch_normed(module: Any, image: Tensor) -> Tensor:
    scale = module.weight.double() / (module.running_var.double() + module.eps).sqrt()
    shift = module.bias.double() - module.running_mean.double() * scale
    return image * scale[:, None, None, None] + shift[:, None, None, None]


def enlarged(image: Tensor, factors: tuple[int, ...]) -> Tensor:
    """Linear interpolation between the centres of voxels, the first and last repeated, axis by axis."""
    for axis, factor in enumerate(factors, 1):
        length = image.shape[axis]
        rows = []
        for at in range(length * factor):
            place = max((at + 0.5) / factor - 0.5, 0.0)
            low = min(int(place), length - 1)
            high, share = min(low + 1, length - 1), place - low
            rows.append(image.select(axis, low) * (1 - share) + image.select(axis, high) * share)
        image = torch.stack(rows, axis)
    return image


def network_in_loops(network: Any, image: Tensor) -> Tensor:
    """The whole network on [C, D, H, W]: logits [K, D, H, W]."""
    z_stride, (depth, height, width) = network.config.z_stride, image.shape[1:]
    fine = batch_normed(network.down2[1], convolved_in_loops(network.down2[0], image)).relu()
    coarse = batch_normed(network.down4[0][1], convolved_in_loops(network.down4[0][0], fine)).relu()
    coarse = batch_normed(network.down4[2], convolved_in_loops(network.down4[1], coarse))
    tokens = coarse.permute(1, 2, 3, 0)[None]
    for block in network.blocks:
        tokens = block_in_loops(block, tokens)
    tokens = normed(network.norm, tokens) @ network.up2.weight.double().t() + network.up2.bias.double()
    back = enlarged(tokens[0].permute(3, 0, 1, 2), (z_stride, 2, 2))
    fused = fine + back[:, : fine.shape[1], : fine.shape[2], : fine.shape[3]]
    fused = batch_normed(network.fuse2[1], convolved_in_loops(network.fuse2[0], fused)).relu()
    packed = convolved_in_loops(network.head, fused)
    logits = torch.zeros(network.config.classes, depth, height, width, dtype=torch.float64)
    for k, z, y, x in itertools.product(*map(range, logits.shape)):
        logits[k, z, y, x] = packed[4 * k + 2 * (y % 2) + x % 2, z, y // 2, x // 2]
    return logits


@pytest.mark.parametrize("config", CONFIGS[:2], ids=str)
def test_the_network_equals_its_definition_in_loops(config: dict[str, Any]) -> None:
    network = made_of(config)
    image = torch.randn(1, 1, 3, 7, 6, dtype=torch.float64)

    want = network_in_loops(network, image[0])

    in_float32 = network(image.float())[0]
    assert (network.double()(image)[0] - want).abs().max() < 1e-9
    assert (in_float32 - want).abs().max() < 1e-5


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 33, 20), (2, 7, 9), (5, 8, 16), (9, 1, 4)])
def test_any_size_gives_finite_logits_of_the_same_size(
    config: dict[str, Any], size: tuple[int, int, int]
) -> None:
    logits = made_of(config)(torch.randn(2, 1, *size))

    assert logits.shape == (2, 3, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("config", [{}, {"z_stride": 2}, {"depth": 2, "span": 5}], ids=str)
def test_no_answer_reaches_beyond_the_receptive_field_and_one_reaches_its_end(config: dict[str, Any]) -> None:
    network = made_of({"width": (6, 8), **config}).double()
    field = network.receptive_field_px
    reached = 0
    for axis, place in itertools.product((0, 1, 2), (48, 49, 50, 51)):
        size = [5, 5, 5]
        size[axis] = 100
        image = torch.randn(1, 1, *size, dtype=torch.float64, requires_grad=True)
        network(image).select(2 + axis, place).abs().sum().backward()
        assert image.grad is not None
        seen = image.grad.abs().sum([i for i in range(5) if i != 2 + axis]).nonzero().flatten()
        reach = max(place - int(seen.min()), int(seen.max()) - place)
        assert reach <= field
        reached = max(reached, reach)
    assert reached == field


def test_without_span_there_is_no_receptive_field() -> None:
    assert made_of({"span": None}).receptive_field_px is None


@pytest.mark.parametrize("config", CONFIGS[:2], ids=str)
def test_folding_the_batch_norms_changes_nothing(config: dict[str, Any]) -> None:
    network = made_of(config)
    image = torch.randn(1, 1, 5, 13, 10)
    want = network(image)

    fold(network)

    assert not any(isinstance(module, nn.BatchNorm3d) for module in network.modules())
    assert (network(image) - want).abs().max() < 1e-5 * want.abs().max()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"z_stride": 3}, "z_stride is 3; it takes a whole number from 1 to 2"),
        ({"z_stride": 0}, "z_stride is 0"),
        ({"width": (4, 8, 16)}, "width is"),
        ({"span": 4}, "the span is 4: it has to be odd"),
        ({"heads": 3}, "do not divide into 3 heads"),
        ({"order": "parallel"}, "has no setting order"),
    ],
)
def test_settings_that_make_no_network_are_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        build_network("axial_volume_segmenter", **config)
