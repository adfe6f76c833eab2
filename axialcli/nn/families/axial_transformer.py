"""The blocks of the Axial Transformer, as an encoder for dense prediction.

Source: Ho et al. 2019, "Axial attention in multidimensional transformers" (arXiv 1912.12180), its sections on
axial attention and on the layers: pre-norm blocks on [B, H, W, D], each attending along one axis and followed
by its own feed-forward part, rows and columns in turn; learned positions, factorised into one table for rows
and one for columns, added once to the input. The numbers that the text leaves open (the norms' 1e-5, the
nonlinearity x * sigmoid(1.702 x), residual branches that begin at nearly nothing) are those of the authors'
public TensorFlow code.

What it is not: their autoregressive model of images. Its parts (the exterior encoder, the outer and the inner
decoder with their causal and shifted attention, 256 answers a pixel) are not here, and no weights of
theirs are read. The patches below it and the logits above it are ours.

Shapes: B batch, C channels, D width of a token, H height, W width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.nn.attention import AxialAttention, Axis
from axialcli.nn.blocks import AttentionBlock

NEARLY_NOTHING = 1e-10
"""What the weights that end a residual branch are multiplied by when they are made."""


@dataclass(frozen=True, kw_only=True)
class AxialTransformerConfig:
    """Sizes of an AxialTransformer.

    token_width: channels of a token, D. depth: pairs of a row block and a column block. mlp_ratio: what the
    paper's code calls hdim_factor. stride: pixels per token. trained_grid: rows and columns of tokens that
    there are positions for. beyond: None takes that grid alone; the others: see FactorisedPositions.
    """

    in_channels: int = 3
    classes: int = 2
    token_width: int = 128
    depth: int = 4
    heads: int = 4
    mlp_ratio: int = 1
    stride: int = 4
    trained_grid: tuple[int, int] = (64, 64)
    beyond: Literal["clip", "interpolate"] | None = None


class FactorisedPositions(nn.Module):
    """Adds pos_h[row] + pos_w[column] to every token: tokens_BHWD -> the same shape.

    beyond None: raises ValueError for another grid than the tables'. "clip": rows and columns behind the last
    known ones count as those. "interpolate": the tables are stretched, linearly and without align_corners. On
    the tables' own grid neither changes anything; a smaller grid keeps its positions with "clip" alone.
    """

    def __init__(
        self, grid: tuple[int, int], channels: int, *, beyond: Literal["clip", "interpolate"] | None
    ) -> None:
        super().__init__()
        self.beyond = beyond
        self.pos_h = nn.Parameter(0.02 * torch.randn(grid[0], channels))
        self.pos_w = nn.Parameter(0.02 * torch.randn(grid[1], channels))

    def forward(self, tokens_BHWD: Tensor) -> Tensor:
        height, width = tokens_BHWD.shape[1:3]
        rows_HD, columns_WD = self._stretched(self.pos_h, height), self._stretched(self.pos_w, width)
        return tokens_BHWD + rows_HD[:, None] + columns_WD

    def _stretched(self, table_LD: Tensor, length: int) -> Tensor:
        if self.beyond == "clip":
            return table_LD[torch.arange(length, device=table_LD.device).clamp(max=table_LD.shape[0] - 1)]
        if self.beyond == "interpolate":
            resampled_1DL = F.interpolate(table_LD.t()[None], size=length, mode="linear", align_corners=False)
            return resampled_1DL[0].t()
        if length != table_LD.shape[0]:
            raise ValueError(
                f"there are positions for {self.pos_h.shape[0]} x {self.pos_w.shape[0]} tokens, "
                f"and not for {length} along an axis"
            )
        return table_LD


class SigmoidGELU(nn.Module):
    """x * sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class AxialTransformer(nn.Module):
    """Patches, positions, ROW and COLUMN blocks in turn, logits of each token's pixels: image_BCHW
    (normalised float) -> logits_BKHW.

    A row block attends along the width, a column block along the height. Sides that are no multiple of the
    stride are filled with zeros on the right and at the bottom, and the logits cut. Which sizes it takes
    is said by `beyond`; attention itself has no length.

    The weights of the paper's separate projections to queries, keys and values are those of `qkv` one under
    the other, transposed.
    """

    def __init__(self, config: AxialTransformerConfig) -> None:
        super().__init__()
        width, stride = config.token_width, config.stride
        self.config = config
        self.embed = nn.Conv2d(config.in_channels, width, stride, stride=stride)
        self.positions = FactorisedPositions(config.trained_grid, width, beyond=config.beyond)
        axes: tuple[Axis, Axis] = ("width", "height")
        self.blocks = nn.Sequential(*(_block(config, axis) for _ in range(config.depth) for axis in axes))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.classes * stride**2)

    @property
    def network_stride(self) -> int:
        """Pixels per token."""
        return self.config.stride

    def forward(self, image_BCHW: Tensor) -> Tensor:
        stride = self.config.stride
        height, width = image_BCHW.shape[2:]
        padded_BCHW = F.pad(image_BCHW, (0, -width % stride, 0, -height % stride))
        tokens_BHWD = self.positions(self.embed(padded_BCHW).permute(0, 2, 3, 1))
        pixels_BCHW = self.head(self.norm(self.blocks(tokens_BHWD))).permute(0, 3, 1, 2)
        return F.pixel_shuffle(pixels_BCHW, stride)[:, :, :height, :width]


def _block(config: AxialTransformerConfig, axis: Axis) -> AttentionBlock:
    """x += attention(norm(x)), x += mlp(norm(x)), along one axis."""
    width = config.token_width
    attention = AxialAttention(channels=width, heads=config.heads, axis=axis, span=None, positions="none")
    block = AttentionBlock(attention, channels=width, mlp_ratio=config.mlp_ratio)
    into, out = nn.Linear(width, config.mlp_ratio * width), nn.Linear(config.mlp_ratio * width, width)
    block.mlp = nn.Sequential(into, SigmoidGELU(), out)
    with torch.no_grad():
        for last in (attention.proj, out):
            last.weight.mul_(NEARLY_NOTHING)
            last.bias.zero_()
    return block


ARCHITECTURES: dict[str, tuple[type, type[nn.Module]]] = {
    "axial_transformer": (AxialTransformerConfig, AxialTransformer)
}
