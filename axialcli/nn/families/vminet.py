"""VMINet: separable self-attention, one learned weighted sum over all tokens, between convolutions.

Source: VMINet (arXiv 2501.02040). The paper's full equations could not be had; this is what the public
code yws-wxs/VMINet computes, in both of its versions: the repository's head ("v1" here: weights `dwconv`, a
batch norm behind `g`) and "VMINet2.0" ("v2": weights `conv`, none behind `g`, and a mask on the sum). Per
block, with tokens x_p of channel c, and p in raster order:

    x = BN(depthwise 7x7(x)),   x = relu6(f1 x) * f2 x,   s_c = sum over p of w_p m_pc x_pc,
    y = input + g(relu6(stack_0 s + stack_1 x));   v1: m = 1;   v2: m_pc = 1 where c <= p, else 0.

One sum for all tokens, w being shared by the channels; w is learned per place and so bound to one size.

Shapes: B batch, C channels, H height, W width, P = H W tokens, K classes.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isqrt
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.errors import ModelError
from axialcli.nn.families.found import Found
from axialcli.nn.families.global_sum import GlobalSum
from axialcli.nn.families.key_reading import shape_of

Version = Literal["v1", "v2"]

STEM = 32
"""Channels at stride 2, in all sizes."""

SIZES = {(24, 2): "Ti", (48, 2): "XS", (48, 4): "S", (96, 2): "B"}
"""The published ones, by base_dim and mlp_ratio."""


@dataclass(frozen=True, kw_only=True)
class PyramidConfig:
    """Sizes of a VMINetPyramid.

    base_dim: channels at stride 4, doubled at 8, 16 and 32. stage_blocks: blocks at each. version: which of
    the two public codes. trained_side: of the square pictures that the sums' weights are for, in pixels.
    beyond: None takes that size alone; "interpolate": see GlobalSum.
    """

    in_channels: int = 3
    base_dim: int = 48
    mlp_ratio: int = 2
    stage_blocks: tuple[int, int, int, int] = (2, 2, 18, 2)
    version: Version = "v2"
    trained_side: int = 224
    beyond: Literal["interpolate"] | None = None

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at strides 4, 8, 16 and 32."""
        return tuple(self.base_dim * 2**stage for stage in range(4))


@dataclass(frozen=True, kw_only=True)
class VMINetConfig(PyramidConfig):
    """Sizes of a VMINet: its pyramid's, and answers, how many classes."""

    answers: int = 1000


class Block(nn.Module):
    """One block: features_BCHW -> the same shape. The equations stand on top of this file."""

    def __init__(self, channels: int, *, side: int, config: PyramidConfig) -> None:
        super().__init__()
        hidden, first = config.mlp_ratio * channels, config.version == "v1"
        self.spatial = "dwconv" if first else "conv"
        self.stack = nn.Parameter(torch.ones(2))
        self.add_module(self.spatial, conv_bn(channels, channels, kernel=7, groups=channels))
        self.f1 = _named(conv=nn.Conv2d(channels, hidden, 1))
        self.f2 = _named(conv=nn.Conv2d(channels, hidden, 1))
        self.sum = GlobalSum(side=side, masked=not first, beyond=config.beyond)
        back = nn.Conv2d(hidden, channels, 1)
        self.g = _named(conv=back, bn=nn.BatchNorm2d(channels)) if first else _named(conv=back)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        mixed_BHWC = self.get_submodule(self.spatial)(features_BCHW).permute(0, 2, 3, 1).contiguous()
        hidden_BHWC = F.relu6(_pointwise(self.f1, mixed_BHWC), inplace=True) * _pointwise(self.f2, mixed_BHWC)
        sums_B11C = self.sum(hidden_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        joined_BHWC = torch.addcmul(self.stack[0] * sums_B11C, self.stack[1], hidden_BHWC)
        made_BCHW = _pointwise(self.g, F.relu6(joined_BHWC, inplace=True)).permute(0, 3, 1, 2)
        if "bn" in self.g._modules:
            made_BCHW = self.g.get_submodule("bn")(made_BCHW)
        return features_BCHW + made_BCHW


def _pointwise(parts: nn.Sequential, tokens_BHWC: Tensor) -> Tensor:
    """The 1x1 convolution that `parts` begin with, as one product: quicker than a convolution where
    channels lie together and are few."""
    convolution = parts.get_submodule("conv")
    assert isinstance(convolution, nn.Conv2d)
    return F.linear(tokens_BHWC, convolution.weight.flatten(1), convolution.bias)


class VMINetPyramid(nn.Module):
    """The stem and the four stages. `features`: image_BCHW -> four maps, at strides 4, 8, 16 and 32 (sizes
    rounded up)."""

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Sequential(conv_bn(config.in_channels, STEM, kernel=3, stride=2), nn.ReLU6())
        self.stages = nn.ModuleList()
        side, below = -(-config.trained_side // 2), STEM
        for channels, blocks in zip(config.widths, config.stage_blocks, strict=True):
            side = -(-side // 2)
            stage = nn.Sequential(conv_bn(below, channels, kernel=3, stride=2))
            stage.extend(Block(channels, side=side, config=config) for _ in range(blocks))
            self.stages.append(stage)
            below = channels

    def features(self, image_BCHW: Tensor) -> list[Tensor]:
        maps, features_BCHW = [], self.stem(image_BCHW)
        for stage in self.stages:
            features_BCHW = stage(features_BCHW)
            maps.append(features_BCHW)
        return maps


class VMINet(VMINetPyramid):
    """Classification: image_BCHW (normalised float) -> logits_BK.

    A batch norm, the mean over all tokens and a linear layer end it. Raises ValueError for another size than
    the trained one, unless `beyond` says how.
    """

    norm: nn.Module

    def __init__(self, config: VMINetConfig) -> None:
        super().__init__(config)
        self.norm = nn.BatchNorm2d(config.widths[-1])
        self.head = nn.Linear(config.widths[-1], config.answers)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.head(self.norm(self.features(image_BCHW)[-1]).mean((2, 3)))  # type: ignore[no-any-return]

    @torch.no_grad()
    def fold(self) -> None:
        """Takes the last batch norm into the linear layer: between them is only a mean."""
        norm = self.norm
        if not isinstance(norm, nn.BatchNorm2d):
            return
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale_C = norm.weight / (norm.running_var + norm.eps).sqrt()
        self.head.bias.add_(self.head.weight @ (norm.bias - norm.running_mean * scale_C))
        self.head.weight.mul_(scale_C)
        self.norm = nn.Identity()


def conv_bn(c_in: int, c_out: int, *, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution with a bias, and a batch norm that folds into it; keeps ceil(size / stride)."""
    convolution = nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2, groups=groups)
    return _named(conv=convolution, bn=nn.BatchNorm2d(c_out))


def _named(**parts: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(parts))


def recognise(weights: Mapping[str, Tensor]) -> Found | None:
    """A classifier of either public version, told by the weights of its first block. See Recognise."""
    if not {"stages.0.1.sum.weight", "stages.0.1.stack", "stem.0.conv.weight"} <= weights.keys():
        return None
    config = _read_sizes(weights)
    name = SIZES.get((config.base_dim, config.mlp_ratio), f"of base width {config.base_dim}")
    code = "the repository's head" if config.version == "v1" else "VMINet2.0"
    return Found(
        family=f"VMINet {name}, {code} (yws-wxs/VMINet)",
        architecture="vminet",
        config=asdict(config),
        weights={
            name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")
        },
        task="classification",
        classes=config.answers,
        size=(config.trained_side, config.trained_side),
        network_stride=32,
        beyond=("interpolate",),
        notes=(
            f"takes pictures of {config.trained_side} x {config.trained_side} px, "
            "for its sums have one learned weight a token",
            "'interpolate' for other sizes is axial's own and has not been measured",
        ),
        unless={"range": "mean and std are ImageNet's, which the file does not say"},
    )


def _read_sizes(weights: Mapping[str, Tensor]) -> VMINetConfig:
    """All settings, from the shapes. Raises ModelError where they make no VMINet."""
    _, channels, *_ = shape_of(weights, "stem.0.conv.weight", 4)
    base, *_ = shape_of(weights, "stages.0.0.conv.weight", 4)
    hidden, *_ = shape_of(weights, "stages.0.1.f1.conv.weight", 4)
    answers, _ = shape_of(weights, "head.weight", 2)
    _, tokens = shape_of(weights, "stages.0.1.sum.weight", 2)
    side = isqrt(tokens)
    if channels != 3:
        raise ModelError(f"looks like a VMINet, but takes {channels} channels instead of red, green and blue")
    if hidden % base or side * side != tokens:
        raise ModelError(
            f"looks like a VMINet, but its first block has {hidden} hidden channels for {base} "
            f"and sums over {tokens} tokens: no multiple, or no square"
        )
    first = any(key.startswith(("stages.0.1.dwconv.", "stages.0.1.g.bn.")) for key in weights)
    blocks: list[set[str]] = [set() for _ in range(4)]
    for key in weights:
        if match := re.match(r"stages\.([0-3])\.([1-9]\d*)\.", key):
            blocks[int(match[1])].add(match[2])
    one, two, three, four = map(len, blocks)
    return VMINetConfig(
        in_channels=channels,
        answers=answers,
        base_dim=base,
        mlp_ratio=hidden // base,
        stage_blocks=(one, two, three, four),
        version="v1" if first else "v2",
        trained_side=4 * side,
    )


ARCHITECTURES: dict[str, tuple[type, type[nn.Module]]] = {"vminet": (VMINetConfig, VMINet)}
