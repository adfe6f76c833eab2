"""The residual block of Axial-ResNet and the gated axial U-Net: narrow, along both axes, wide again.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from axialcli.nn.families.position_sensitive import PositionSensitiveAttention

EXPANSION = 2
"""Channels of a block's output for each of its own."""


class AxialBottleneck(nn.Module):
    """A 1x1 convolution, attention along the height, then along the width, a 1x1 convolution; a shortcut.

    forward: features_BCHW -> [B, 2 * planes, ceil(H / stride), ceil(W / stride)]. lengths: the lines, in
    tokens along the height and the width, that the tables are made for; None without positions. settings:
    those of PositionSensitiveAttention but its axis and length.

    Both passes run at the resolution that comes in; a stride of 2 is a mean of 2x2 tokens behind them
    (of what there is, where H or W is odd). The keys are those of the public code, with its spelling.

    Source: Wang et al. 2020 (arXiv 2003.07853), figure 2, in the order of github.com/csrhddlam/axial-deeplab:
    a ReLU stands before the last convolution and behind the sum, none between the passes.
    """

    def __init__(
        self,
        in_channels: int,
        planes: int,
        *,
        stride: int,
        lengths: tuple[int, int] | tuple[None, None],
        **settings: Any,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.conv_down = nn.Conv2d(in_channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.hight_block = PositionSensitiveAttention(
            planes, planes, axis="height", length=lengths[0], **settings
        )
        self.width_block = PositionSensitiveAttention(
            planes, planes, axis="width", length=lengths[1], **settings
        )
        self.conv_up = nn.Conv2d(planes, EXPANSION * planes, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(EXPANSION * planes)
        # Empty, and then the identity, where the shape stays.
        self.downsample = nn.Sequential()
        if stride > 1 or in_channels != EXPANSION * planes:
            self.downsample.extend(
                [
                    nn.Conv2d(in_channels, EXPANSION * planes, 1, stride=stride, bias=False),
                    nn.BatchNorm2d(EXPANSION * planes),
                ]
            )

    def forward(self, features_BCHW: Tensor) -> Tensor:
        narrow_BCHW = F.relu(self.bn1(self.conv_down(features_BCHW)))
        tokens_BHWC = self.width_block(self.hight_block(narrow_BCHW.permute(0, 2, 3, 1)))
        made_BCHW = tokens_BHWC.permute(0, 3, 1, 2)
        if self.stride > 1:
            made_BCHW = F.avg_pool2d(made_BCHW, self.stride, ceil_mode=True)
        made_BCHW = self.bn2(self.conv_up(F.relu(made_BCHW)))
        return F.relu(made_BCHW + self.downsample(features_BCHW))

    def fold(self) -> None:
        """Multiplies the norms into the convolutions before them; for evaluation alone."""
        if isinstance(self.bn1, nn.BatchNorm2d):
            self.conv_down, self.bn1 = fuse_conv_bn_eval(self.conv_down, self.bn1), nn.Identity()  # type: ignore[assignment] # once
            self.conv_up, self.bn2 = fuse_conv_bn_eval(self.conv_up, self.bn2), nn.Identity()  # type: ignore[assignment] # once
