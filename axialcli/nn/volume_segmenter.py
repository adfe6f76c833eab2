"""AxialVolumeSegmenter: a network that labels every voxel of a volume, with attention along its three axes.

Shapes: B batch, C channels, D depth (planes), H height, W width, K classes. A suffix 2 or 4 is the stride
in pixels along height and width; along the depth it is 1 at stride 2, and `z_stride` at stride 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.nn.attention import AxialAttention, Axis, Positions
from axialcli.nn.blocks import mlp

AXES: tuple[Axis, ...] = ("width", "height", "depth")
"""The passes of a block, in their order: along the depth last, where voxels are coarsest."""

STRIDE = 4
"""Pixels per token along height and width."""


@dataclass(frozen=True, kw_only=True)
class AxialVolumeSegmenterConfig:
    """Sizes and kinds of an AxialVolumeSegmenter.

    width: channels at strides 2 and 4; tokens have the last. z_stride: planes per token, 1 or 2; planes lie
    farther apart than pixels, so that the depth is reduced less than height and width. depth: blocks.
    span: of all three axes, in tokens; None is the whole axis. positions: None is "bias" with a span and
    "rotary" without.
    """

    in_channels: int = 1
    classes: int = 2
    width: tuple[int, int] = (16, 32)
    z_stride: int = 1
    depth: int = 2
    heads: int = 2
    span: int | None = 33
    mlp_ratio: int = 2
    positions: Positions | None = None


class AxialVolumeSegmenter(nn.Module):
    """Convolutions down to the tokens' strides, axial attention there, convolutions back to every voxel.

    forward: image_BCDHW (normalised float) -> logits_BKDHW, for any D, H and W, one plane included. Norms
    use fixed statistics or channels alone, positions are relative and resampling goes by whole factors, so
    that, with a span, a voxel's answer depends on those within a receptive field and on nothing else, and a
    block whose corner lies on multiples of the strides sees the same tokens as the whole volume.

    Source: attention along the axes of a grid in turn, Ho et al. 2019 (arXiv 1912.12180, section 3), which
    is worded for any number of axes; the span and the bias are those of AxialAttention. The convolutions
    around it are our own choice.
    """

    def __init__(self, config: AxialVolumeSegmenterConfig) -> None:
        super().__init__()
        c2, c4 = config.width
        self.config = config
        self.down2 = _conv_bn_relu(config.in_channels, c2, stride=(1, 2, 2))
        self.down4 = nn.Sequential(
            _conv_bn_relu(c2, c4, stride=(config.z_stride, 2, 2)),
            nn.Conv3d(c4, c4, 3, padding=1, bias=False),
            nn.BatchNorm3d(c4),
        )
        self.blocks = nn.Sequential(*(VolumeBlock(config) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(c4)
        self.up2 = nn.Linear(c4, c2)
        self.fuse2 = _conv_bn_relu(c2, c2)
        self.head = nn.Conv3d(c2, 4 * config.classes, 3, padding=1)

    @property
    def network_stride(self) -> int:
        """Voxels per token along height and width; that of the depth divides it."""
        return STRIDE

    @property
    def receptive_field_px(self) -> int | None:
        """How many voxels to each side an answer may depend on, along the height and the width; along the
        depth it is no more. None where there is no span."""
        if self.config.span is None:
            return None
        # In tokens: what the blocks see, one of the resampling, one of the last convolution down.
        tokens = self.config.depth * (self.config.span // 2) + 2
        # In pixels, with the strides of their grids: head and fuse2, the first two convolutions, and one
        # for a pixel that is not the first of its cell.
        return tokens * STRIDE + 2 * 2 + 2 + 1 + 1

    def forward(self, image_BCDHW: Tensor) -> Tensor:
        depth, height, width = image_BCDHW.shape[2:]
        feature2_BCDHW = self.down2(image_BCDHW)
        tokens_BDHWC = self.down4(feature2_BCDHW).permute(0, 2, 3, 4, 1)
        tokens_BDHWC = self.up2(self.norm(self.blocks(tokens_BDHWC)))
        coarse2_BCDHW = F.interpolate(
            tokens_BDHWC.permute(0, 4, 1, 2, 3),
            scale_factor=(self.config.z_stride, 2, 2),
            mode="trilinear",
            align_corners=False,
        )
        depth2, height2, width2 = feature2_BCDHW.shape[2:]
        fused2_BCDHW = self.fuse2(feature2_BCDHW + coarse2_BCDHW[:, :, :depth2, :height2, :width2])
        logits_BKDHW = _shuffled(self.head(fused2_BCDHW))
        return logits_BKDHW[:, :, :depth, :height, :width]


class VolumeBlock(nn.Module):
    """Pre-norm transformer block: a pass along the width, one along the height, one along the depth, and a
    feed-forward part behind them.

    forward: tokens_BDHWC -> [B, D, H, W, C].
    """

    def __init__(self, config: AxialVolumeSegmenterConfig) -> None:
        super().__init__()
        channels = config.width[-1]
        for axis in AXES:
            self.add_module(f"norm_{axis}", nn.LayerNorm(channels))
            self.add_module(
                axis,
                AxialAttention(
                    channels=channels,
                    heads=config.heads,
                    axis=axis,
                    span=config.span,
                    positions=config.positions or ("rotary" if config.span is None else "bias"),
                ),
            )
        self.norm_mlp = nn.LayerNorm(channels)
        self.mlp = mlp(channels, config.mlp_ratio)

    def forward(self, tokens_BDHWC: Tensor) -> Tensor:
        for axis in AXES:
            normed_BDHWC = self.get_submodule(f"norm_{axis}")(tokens_BDHWC)
            tokens_BDHWC = tokens_BDHWC + self.get_submodule(axis)(normed_BDHWC)
        return tokens_BDHWC + self.mlp(self.norm_mlp(tokens_BDHWC))  # type: ignore[no-any-return]


def _shuffled(packed_BCDHW: Tensor) -> Tensor:
    """[B, 4 K, D, H, W] -> [B, K, D, 2 H, 2 W]: four channels in a row are a square of pixels, row by row.

    torch's own pixel_shuffle does not take volumes in every layout of memory.
    """
    squares = packed_BCDHW.unflatten(1, (-1, 2, 2))  # type: ignore[no-untyped-call] # stubs lack it
    pixels: Tensor = squares.permute(0, 1, 4, 5, 2, 6, 3)
    return pixels.flatten(3, 4).flatten(4, 5)


def _conv_bn_relu(c_in: int, c_out: int, *, stride: tuple[int, int, int] = (1, 1, 1)) -> nn.Sequential:
    """Convolution over 3 x 3 x 3 voxels, batch norm, ReLU; zero padding keeps ceil(size / stride)."""
    return nn.Sequential(
        nn.Conv3d(c_in, c_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm3d(c_out),
        nn.ReLU(inplace=True),
    )
