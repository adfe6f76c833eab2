"""The classification network of our own zoo: one answer for a whole tile.

Shapes: B batch, C channels, H height, W width, K classes. A suffix 2, 4 or 8 is the stride in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.nn.attention import Positions
from axialcli.nn.blocks import AttentionBlock, AxialBlock, conv_bn_relu
from axialcli.nn.whole_grid import SeparableAttention


@dataclass(frozen=True, kw_only=True)
class AxialClassifierConfig:
    """Sizes of an AxialClassifier.

    width: channels at strides 2, 4 and 8; tokens have stride 8. depth: attention blocks; "separable"
    attention is there for comparison (heads, span and positions have no effect on it). span, positions:
    as in AxialSegmenterConfig.
    """

    in_channels: int = 3
    classes: int = 10
    width: tuple[int, int, int] = (32, 64, 128)
    depth: int = 3
    heads: int = 4
    span: int | None = None
    mlp_ratio: int = 2
    attention: Literal["axial", "separable"] = "axial"
    positions: Positions | None = None


class AxialClassifier(nn.Module):
    """Convolutions down to stride 8, axial attention there, the mean of all tokens, one linear layer.

    forward: image_BCHW (normalised float) -> logits_BK, for any H and W.
    """

    def __init__(self, config: AxialClassifierConfig) -> None:
        super().__init__()
        c2, c4, c8 = config.width
        self.config = config
        self.stem = nn.Sequential(
            conv_bn_relu(config.in_channels, c2, stride=2),
            conv_bn_relu(c2, c4, stride=2),
            ConvolutionBlock(c4),
            nn.Conv2d(c4, c8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(c8),
        )
        self.blocks = nn.Sequential(*(_block(config) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(c8)
        self.head = nn.Linear(c8, config.classes)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        tokens_BHWC = self.blocks(self.stem(image_BCHW).permute(0, 2, 3, 1))
        return self.head(self.norm(tokens_BHWC).mean((1, 2)))  # type: ignore[no-any-return]


class ConvolutionBlock(nn.Module):
    """Two 3x3 convolutions around which the input is carried: features_BCHW -> the same shape.

    Source: He et al. 2016 (arXiv 1512.03385), the basic block.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn_relu(channels, channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, features_BCHW: Tensor) -> Tensor:
        return F.relu(features_BCHW + self.body(features_BCHW))


def _block(config: AxialClassifierConfig) -> nn.Module:
    channels = config.width[-1]
    if config.attention == "separable":
        return AttentionBlock(
            SeparableAttention(channels=channels), channels=channels, mlp_ratio=config.mlp_ratio
        )
    return AxialBlock(
        channels=channels,
        heads=config.heads,
        span=config.span,
        mlp_ratio=config.mlp_ratio,
        positions=config.positions or ("rotary" if config.span is None else "bias"),
    )
