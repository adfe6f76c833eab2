"""The segmentation network of our own zoo: small, axial, and made to be streamed.

Shapes: B batch, C channels, H height, W width, K classes. A suffix 2, 4 or 8 is the stride in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.nn.blocks import AxialBlock, conv_bn_relu

STRIDE = 8


@dataclass(frozen=True, kw_only=True)
class AxialSegmenterConfig:
    """Sizes of an AxialSegmenter. width: channels at strides 2, 4 and 8. depth: axial blocks."""

    in_channels: int = 3
    classes: int = 2
    width: tuple[int, int, int] = (24, 48, 96)
    depth: int = 3
    heads: int = 3
    span: int = 65
    mlp_ratio: int = 2


class AxialSegmenter(nn.Module):
    """Convolutions down to stride 8, axial blocks there, convolutions back to the full resolution.

    forward: image_BCHW (normalised float) -> logits_BKHW, for any H and W. Norms use fixed
    statistics or channels alone, positions are relative and resampling goes by whole factors, so
    that an output pixel depends on the pixels within `receptive_field_px` and on nothing else. One
    skip connection at stride 4 carries the fine detail; a finer one would dominate the memory of a
    stream, for it has to wait until the column attention is done.
    """

    def __init__(self, config: AxialSegmenterConfig) -> None:
        super().__init__()
        c2, c4, c8 = config.width
        self.config = config
        self.down2 = conv_bn_relu(config.in_channels, c2, stride=2)
        self.down4 = nn.Sequential(conv_bn_relu(c2, c4, stride=2), conv_bn_relu(c4, c4))
        self.down8 = nn.Sequential(nn.Conv2d(c4, c8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(c8))
        self.blocks = nn.Sequential(
            *(
                AxialBlock(channels=c8, heads=config.heads, span=config.span, mlp_ratio=config.mlp_ratio)
                for _ in range(config.depth)
            )
        )
        self.norm = nn.LayerNorm(c8)
        self.up4 = nn.Linear(c8, c4)
        self.fuse4 = nn.Sequential(conv_bn_relu(c4, c4), conv_bn_relu(c4, 4 * 16, kernel=1))
        self.fuse2 = conv_bn_relu(16, 16)
        self.head = nn.Conv2d(16, 4 * config.classes, 3, padding=1)

    @property
    def receptive_field_px(self) -> int:
        """How far to each side, in pixels, an output pixel depends on the input."""
        tokens = self.config.depth * (self.config.span // 2)
        # What the convolutions and the bilinear step add, for the worst of the eight positions that
        # a pixel can have within its token: 8 for the step between tokens at stride 8, 4 + 2 + 2 + 1
        # on the way back, 11 on the way down, 2 for where the token lies under the pixel.
        return STRIDE * tokens + 30

    def forward(self, image_BCHW: Tensor) -> Tensor:
        height, width = image_BCHW.shape[2:]
        feature4_BCHW = self.down4(self.down2(image_BCHW))
        tokens8_BHWC = self.down8(feature4_BCHW).permute(0, 2, 3, 1)
        tokens8_BHWC = self.norm(self.blocks(tokens8_BHWC))
        coarse4_BCHW = F.interpolate(
            self.up4(tokens8_BHWC).permute(0, 3, 1, 2), scale_factor=2, mode="bilinear", align_corners=False
        )
        coarse4_BCHW = coarse4_BCHW[:, :, : feature4_BCHW.shape[2], : feature4_BCHW.shape[3]]
        fused4_BCHW = self.fuse4(feature4_BCHW + coarse4_BCHW)
        fused2_BCHW = self.fuse2(F.pixel_shuffle(fused4_BCHW, 2))
        logits_BKHW = F.pixel_shuffle(self.head(fused2_BCHW), 2)
        return logits_BKHW[:, :, :height, :width]
