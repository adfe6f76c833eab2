"""A network whose attention sees the whole height, for the tests of barriers.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.nn.attention import AxialAttention
from axialcli.nn.blocks import conv_bn_relu

CHANNELS = 8


class WholeBlock(nn.Module):
    """Attention along both axes without a span, in one of three orders, then an MLP."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order
        self.norms = nn.ModuleList(nn.LayerNorm(CHANNELS) for _ in range(3))
        self.width, self.height = (
            AxialAttention(channels=CHANNELS, heads=2, axis=axis, span=None, positions="rotary")
            for axis in ("width", "height")
        )
        self.mlp = nn.Sequential(
            nn.Linear(CHANNELS, 2 * CHANNELS), nn.GELU(), nn.Linear(2 * CHANNELS, CHANNELS)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.order == "parallel":
            normed = self.norms[0](x)
            x = x + self.width(normed) + self.height(normed)
        else:
            for norm, axis in zip(self.norms, self.order.split("_"), strict=False):
                x = x + (self.width if axis == "width" else self.height)(norm(x))
        return x + self.mlp(self.norms[2](x))  # type: ignore[no-any-return]


class WholeNet(nn.Module):
    """Convolutions down to stride 8, blocks, and back up with a skip of stride 4."""

    def __init__(self, *, order: str = "width_height", depth: int = 1) -> None:
        super().__init__()
        self.down4 = nn.Sequential(conv_bn_relu(3, 4, stride=2), conv_bn_relu(4, 6, stride=2))
        self.down8 = nn.Conv2d(6, CHANNELS, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(WholeBlock(order) for _ in range(depth)))
        self.norm, self.up4 = nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, 6)
        self.head = nn.Conv2d(6, 2 * 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        skip = self.down4(x)
        tokens = self.blocks(self.down8(skip).permute(0, 2, 3, 1))
        coarse = self.up4(self.norm(tokens)).permute(0, 3, 1, 2)
        coarse = F.interpolate(coarse, scale_factor=2, mode="bilinear")
        fused = skip + coarse[:, :, : skip.shape[2], : skip.shape[3]]
        return F.pixel_shuffle(self.head(fused), 4)[:, :, :height, :width]


class DeepNet(nn.Module):
    """Attention at strides 8 and 4 with a convolution between tokens, and a skip from before both."""

    def __init__(self, *, order: str = "width_height") -> None:
        super().__init__()
        self.down2 = conv_bn_relu(3, 4, stride=2)
        self.down4 = conv_bn_relu(4, CHANNELS, stride=2)
        self.down8 = nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1)
        self.low, self.high = WholeBlock(order), WholeBlock(order)
        self.mix = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.out = nn.Conv2d(CHANNELS, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip2 = self.down2(x)
        skip4 = self.down4(skip2)
        low = self.low(self.down8(skip4).permute(0, 2, 3, 1))
        low = self.low(low + self.mix(low.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        high = F.interpolate(low, scale_factor=2)[:, :, : skip4.shape[2], : skip4.shape[3]] + skip4
        high = self.high(high.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        fine = F.interpolate(high, scale_factor=2)[:, :, : skip2.shape[2], : skip2.shape[3]]
        fine = F.interpolate(self.out(fine) + skip2, scale_factor=2, mode="bilinear")
        return fine[:, :, : x.shape[2], : x.shape[3]]
