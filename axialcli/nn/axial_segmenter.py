"""The segmentation network of our own zoo: small, axial, and made to be streamed.

Shapes: B batch, C channels, H height, W width, K classes. A suffix 2, 4, 8 or 16 is the stride in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.nn.attention import Positions
from axialcli.nn.blocks import (
    AttentionBlock,
    AxialBlock,
    FeedForward,
    FeedForwardBlock,
    Order,
    conv_bn_relu,
)
from axialcli.nn.split_heads import SplitHeadsAttention
from axialcli.nn.whole_grid import GlobalAttention, SeparableAttention
from axialcli.nn.windows import WindowAttention


@dataclass(frozen=True, kw_only=True)
class AxialSegmenterConfig:
    """Sizes and kinds of an AxialSegmenter.

    width: channels at strides 2, 4, 8 and, where there are four, 16; tokens have the last stride.
    depth: blocks, all of one `attention`; in "split_heads" half of the heads go along each axis at the
    same time (order, feed_forward and shared have no effect on it); "separable" has linear cost, "none"
    leaves each token alone: both are there for comparison (the settings of axial attention have no effect
    on them). span: None is the whole axis. positions: None is "bias" with a span and "rotary" without;
    "none" where heads are split, which has local positions anyway. order, feed_forward, shared: see
    AxialBlock. skip: empty, or for each block the axis that it leaves out ("" for none). window: every
    second block attends within windows of that many tokens instead; 0 for none. global_blocks: so many
    blocks of attention over all tokens follow.
    """

    in_channels: int = 3
    classes: int = 2
    width: tuple[int, int, int] | tuple[int, int, int, int] = (24, 48, 96)
    depth: int = 3
    heads: int = 3
    span: int | None = 65
    mlp_ratio: int = 2
    attention: Literal["axial", "split_heads", "separable", "none"] = "axial"
    positions: Positions | None = None
    order: Order = "width_height"
    feed_forward: FeedForward = "both"
    shared: bool = False
    skip: tuple[Literal["", "width", "height"], ...] = ()
    window: int = 0
    global_blocks: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError where settings contradict each other, or one could have no effect."""
        if self.skip and len(self.skip) != self.depth:
            raise ValueError(f"skip names {len(self.skip)} blocks, depth makes {self.depth}")
        if self.window and any(self.skip[1::2]):
            raise ValueError("skip names a block of windows, which has no axis to leave out")
        if self.attention in ("separable", "none") and (self.skip or self.window):
            raise ValueError(f"attention '{self.attention}' has neither axes to skip nor windows")
        if self.attention == "split_heads" and self.skip:
            raise ValueError("split heads go along both axes at once: there is none to skip")

    @property
    def network_stride(self) -> int:
        """Pixels per token."""
        return int(2 ** len(self.width))


class AxialSegmenter(nn.Module):
    """Convolutions down to the tokens' stride, attention there, convolutions back to the full resolution.

    forward: image_BCHW (normalised float) -> logits_BKHW, for any H and W. Norms use fixed
    statistics or channels alone, positions are relative and resampling goes by whole factors, so
    that, with a span, an output pixel depends on the pixels within a receptive field and on nothing
    else. One skip connection at stride 4 carries the fine detail; a finer one would dominate
    the memory of a stream, for it has to wait until the column attention is done.
    """

    def __init__(self, config: AxialSegmenterConfig) -> None:
        super().__init__()
        c2, c4, c8 = config.width[:3]
        channels = config.width[-1]
        self.config = config
        self.down2 = conv_bn_relu(config.in_channels, c2, stride=2)
        self.down4 = nn.Sequential(conv_bn_relu(c2, c4, stride=2), conv_bn_relu(c4, c4))
        self.down8 = nn.Sequential(nn.Conv2d(c4, c8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(c8))
        # Empty, and then the identity, where tokens have stride 8.
        self.down16 = nn.Sequential()
        if len(config.width) == 4:
            convolution = nn.Conv2d(c8, channels, 3, stride=2, padding=1, bias=False)
            self.down16.extend([nn.ReLU(inplace=True), convolution, nn.BatchNorm2d(channels)])
        self.blocks = nn.Sequential(*(_block(config, i) for i in range(config.depth + config.global_blocks)))
        self.norm = nn.LayerNorm(channels)
        self.up4 = nn.Linear(channels, c4)
        self.fuse4 = nn.Sequential(conv_bn_relu(c4, c4), conv_bn_relu(c4, 4 * 16, kernel=1))
        self.fuse2 = conv_bn_relu(16, 16)
        self.head = nn.Conv2d(16, 4 * config.classes, 3, padding=1)

    @property
    def network_stride(self) -> int:
        """Pixels per token: tiles that begin at its multiples see the same tokens as the whole picture."""
        return self.config.network_stride

    def forward(self, image_BCHW: Tensor) -> Tensor:
        height, width = image_BCHW.shape[2:]
        feature4_BCHW = self.down4(self.down2(image_BCHW))
        tokens_BHWC = self.down16(self.down8(feature4_BCHW)).permute(0, 2, 3, 1)
        tokens_BHWC = self.norm(self.blocks(tokens_BHWC))
        coarse4_BCHW = F.interpolate(
            self.up4(tokens_BHWC).permute(0, 3, 1, 2),
            scale_factor=self.network_stride // 4,
            mode="bilinear",
            align_corners=False,
        )
        coarse4_BCHW = coarse4_BCHW[:, :, : feature4_BCHW.shape[2], : feature4_BCHW.shape[3]]
        fused4_BCHW = self.fuse4(feature4_BCHW + coarse4_BCHW)
        fused2_BCHW = self.fuse2(F.pixel_shuffle(fused4_BCHW, 2))
        logits_BKHW = F.pixel_shuffle(self.head(fused2_BCHW), 2)
        return logits_BKHW[:, :, :height, :width]


def _block(config: AxialSegmenterConfig, index: int) -> nn.Module:
    """The block at that place: axial, of windows, separable, global, or without attention."""
    channels, heads, ratio = config.width[-1], config.heads, config.mlp_ratio
    other: nn.Module | None = None
    if index >= config.depth:
        other = GlobalAttention(channels=channels, heads=heads)
    elif config.attention == "separable":
        other = SeparableAttention(channels=channels)
    elif config.attention == "none":
        return FeedForwardBlock(channels=channels, mlp_ratio=ratio)
    elif config.window and index % 2:
        other = WindowAttention(channels=channels, heads=heads, window=config.window)
    elif config.attention == "split_heads":
        other = SplitHeadsAttention(
            channels=channels, heads=heads, span=config.span, positions=config.positions or "none"
        )
    if other is not None:
        return AttentionBlock(other, channels=channels, mlp_ratio=ratio)
    skip = config.skip[index] if config.skip else ""
    return AxialBlock(
        channels=channels,
        heads=heads,
        span=config.span,
        mlp_ratio=ratio,
        positions=config.positions or ("rotary" if config.span is None else "bias"),
        order=config.order,
        axes=[axis for axis in ("width", "height") if axis != skip],
        feed_forward=config.feed_forward,
        shared=config.shared,
    )
