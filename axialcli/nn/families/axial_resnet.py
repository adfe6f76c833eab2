"""Axial-ResNet: a residual network whose 3x3 convolutions are position-sensitive attention along both axes.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from axialcli.errors import ModelError
from axialcli.nn.families.axial_bottleneck import EXPANSION, AxialBottleneck
from axialcli.nn.families.found import Beyond, Found
from axialcli.nn.families.key_reading import count_of, shape_of

Stages = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class AxialResNetConfig:
    """Sizes of an AxialResNet; those of 26-S by default.

    answers: classes. stem_width: channels of the stem. stage_planes: channels within the blocks of each
    stage, half of those between blocks. stage_depths: blocks of each. heads: of each attention.
    trained_size: height and width in pixels, multiples of 32, that the tables are made for. table: None, or
    so many distances in every table, odd, whatever the size. beyond: None takes pictures of the trained size
    alone; the others take any, and are wanted with `table`.
    """

    in_channels: int = 3
    answers: int = 1000
    stem_width: int = 32
    stage_planes: Stages = (64, 128, 256, 512)
    stage_depths: Stages = (1, 2, 4, 1)
    heads: int = 8
    trained_size: tuple[int, int] = (224, 224)
    table: int | None = None
    beyond: Beyond | None = None

    def __post_init__(self) -> None:
        """Raises ValueError where the tables have no length."""
        if any(side % 32 for side in self.trained_size):
            raise ValueError(f"trained_size is {self.trained_size}: the stages halve it to a 32nd")
        if self.table is not None and (self.table % 2 == 0 or self.beyond is None):
            raise ValueError("table is an odd number, and wants a `beyond`: its lines are of any length")

    def lengths(self, stage: int, block: int) -> tuple[int, int]:
        """The tokens along height and width that this block's tables are made for."""
        if self.table is not None:
            return self.table // 2 + 1, self.table // 2 + 1
        # The first block of a stage attends before it makes the grid coarser.
        stride = 4 * 2 ** max(0, stage - (block == 0))
        return self.trained_size[0] // stride, self.trained_size[1] // stride


DEEP = (3, 4, 6, 3)
SIZES = {
    "26-S": AxialResNetConfig(),
    "50-S": AxialResNetConfig(stage_depths=DEEP),
    "50-M": AxialResNetConfig(stage_depths=DEEP, stem_width=48, stage_planes=(96, 192, 384, 768)),
    "50-L": AxialResNetConfig(stage_depths=DEEP, stem_width=64, stage_planes=(128, 256, 512, 1024)),
}
"""The published sizes: channels of S, M and L are 0.5, 0.75 and 1 times those of L."""

SHAPE = ("stem_width", "stage_planes", "stage_depths", "heads")


class AxialBody(nn.Module):
    """The stem and the stages: image_BCHW -> the features of strides 4, 8, 16 and 32.

    coarsest: the largest stride; stages that would go beyond it keep their resolution. Every size of picture
    is taken, as far as the attention takes it.
    """

    def __init__(self, config: AxialResNetConfig, *, coarsest: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(config.in_channels, config.stem_width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.stem_width)
        channels = config.stem_width
        for stage, (planes, depth) in enumerate(zip(config.stage_planes, config.stage_depths, strict=True)):
            blocks = nn.Sequential()
            for block in range(depth):
                halves = block == 0 < stage and 4 * 2**stage <= coarsest
                blocks.append(
                    AxialBottleneck(
                        channels,
                        planes,
                        stride=2 if halves else 1,
                        lengths=config.lengths(stage, block),
                        heads=config.heads,
                        beyond=config.beyond,
                    )
                )
                channels = EXPANSION * planes
            self.add_module(f"layer{stage + 1}", blocks)

    def features(self, image_BCHW: Tensor) -> list[Tensor]:
        """What each stage makes, in their order."""
        made_BCHW = F.relu(self.bn1(self.conv1(image_BCHW)))
        made_BCHW = F.max_pool2d(made_BCHW, 3, stride=2, padding=1)
        found = []
        for stage in range(1, 5):
            made_BCHW = self.get_submodule(f"layer{stage}")(made_BCHW)
            found.append(made_BCHW)
        return found

    def fold(self) -> None:
        """Multiplies the stem's norm into its convolution; for evaluation alone."""
        if isinstance(self.bn1, nn.BatchNorm2d):
            self.conv1, self.bn1 = fuse_conv_bn_eval(self.conv1, self.bn1), nn.Identity()  # type: ignore[assignment] # once


class AxialResNet(AxialBody):
    """A classifier: the mean of the last stage's features, one linear layer.

    forward: image_BCHW (normalised by ImageNet's statistics) -> logits_BK. The size is the trained one, or
    with `beyond` any (multiples of 32 halve evenly).

    Source: Wang et al. 2020 (arXiv 2003.07853), section 3.3, "Conv-Stem + Axial-Attention", as in
    github.com/csrhddlam/axial-deeplab (axial26s, axial50s, axial50m, axial50l), whose keys these are. That
    code attends at the full resolution and takes the mean of 2x2 tokens behind the second pass.
    """

    def __init__(self, config: AxialResNetConfig) -> None:
        super().__init__(config)
        self.config = config
        self.fc = nn.Linear(EXPANSION * config.stage_planes[-1], config.answers)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.fc(self.features(image_BCHW)[-1].mean((2, 3)))  # type: ignore[no-any-return]


ARCHITECTURES: dict[str, tuple[type, type[nn.Module]]] = {"axial_resnet": (AxialResNetConfig, AxialResNet)}

DERIVED = ".flatten_index"
"""The public code saves the places in its tables with the weights; they follow from the lengths."""


def recognise(weights: Mapping[str, Tensor]) -> Found | None:
    """An Axial-ResNet of the public code, or of ours."""
    signs = ("conv1.weight", "fc.weight", "layer1.0.conv_down.weight", "layer1.0.hight_block.relative")
    if any(sign not in weights for sign in signs):
        return None
    config = {**read_sizes(weights), "answers": shape_of(weights, "fc.weight", 2)[0]}
    name = next((name for name, size in SIZES.items() if shape_in(vars(size)) == shape_in(config)), "")
    anywhere = "table" in config
    return Found(
        family=f"Axial-ResNet {name or 'of its own size'} (csrhddlam/axial-deeplab)",
        architecture="axial_resnet",
        config=config,
        weights={key: tensor for key, tensor in weights.items() if not key.endswith(DERIVED)},
        task="classification",
        classes=config["answers"],
        size=None if anywhere else config["trained_size"],
        multiple=32,
        network_stride=32,
        beyond=("local", "clip", "interpolate"),
    )


def read_sizes(weights: Mapping[str, Tensor], prefix: str = "") -> dict[str, Any]:
    """The settings of the AxialBody whose keys begin with `prefix`. Raises ModelError."""
    stem_width, in_channels = shape_of(weights, f"{prefix}conv1.weight", 4)[:2]
    stages = [f"{prefix}layer{stage}." for stage in range(1, 5)]
    sizes = {
        "in_channels": in_channels,
        "stem_width": stem_width,
        "stage_planes": tuple(shape_of(weights, f"{stage}0.conv_down.weight", 4)[0] for stage in stages),
        "stage_depths": tuple(count_of(weights, stage) for stage in stages),
        "heads": shape_of(weights, f"{stages[0]}0.hight_block.bn_similarity.weight", 1)[0] // 3,
    }
    tables = [
        shape_of(weights, f"{stages[stage]}0.{axis}_block.relative", 2)[1]
        for stage in (0, 3)
        for axis in ("hight", "width")
    ]
    if any(table % 2 == 0 for table in tables):
        raise ModelError(f"tables of {tables} distances have no middle")
    if len(set(tables)) == 1:
        return {**sizes, "table": tables[0], "beyond": "clip"}
    return {**sizes, "trained_size": tuple(4 * (table // 2 + 1) for table in tables[:2])}


def shape_in(sizes: Mapping[str, Any]) -> tuple[Any, ...]:
    """Of settings those that make one published size differ from another."""
    return tuple(sizes[name] for name in SHAPE)
