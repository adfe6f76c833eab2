"""A small residual network for whole tiles: what attention is measured against, at equal cost.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from axialcli.nn.axial_classifier import ConvolutionBlock
from axialcli.nn.blocks import conv_bn_relu


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Sizes of a ResNet. width: channels at strides 2, 4, 8 and 16, or the first of them; depth: blocks
    at each from 4 on."""

    in_channels: int = 3
    classes: int = 10
    width: tuple[int, ...] = (32, 64, 128)
    depth: int = 2

    def __post_init__(self) -> None:
        """Raises ValueError where there is no level for blocks, or more than a tile has."""
        if not 2 <= len(self.width) <= 4:
            raise ValueError(f"width names {len(self.width)} levels; a ResNet has 2 to 4")


class ResNet(nn.Module):
    """Convolutions with residual blocks at every stride, the mean of what is left, one linear layer.

    forward: image_BCHW (normalised float) -> logits_BK, for any H and W.

    Source: He et al. 2016 (arXiv 1512.03385), with a stride of 2 in plain convolutions between the blocks.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.body = nn.Sequential(conv_bn_relu(config.in_channels, config.width[0], stride=2))
        for c_in, c_out in zip(config.width, config.width[1:], strict=False):
            self.body.append(conv_bn_relu(c_in, c_out, stride=2))
            self.body.extend(ConvolutionBlock(c_out) for _ in range(config.depth))
        self.head = nn.Linear(config.width[-1], config.classes)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.head(self.body(image_BCHW).mean((2, 3)))  # type: ignore[no-any-return]
