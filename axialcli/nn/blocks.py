"""Blocks that networks are made of: convolutions with frozen statistics, and attention blocks.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from axialcli.nn.attention import AxialAttention, Axis, Positions

Order = Literal["width_height", "height_width", "parallel"]
FeedForward = Literal["both", "each"]


def conv_bn_relu(c_in: int, c_out: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU; zero padding keeps ceil(size / stride).

    At inference the batch norm is a fixed scale and shift, so that a pixel's value depends on its
    neighbourhood alone, and folds into the convolution.
    """
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    )


def mlp(channels: int, ratio: int) -> nn.Sequential:
    """The feed-forward part of a transformer block, token by token."""
    return nn.Sequential(
        nn.Linear(channels, ratio * channels), nn.GELU(), nn.Linear(ratio * channels, channels)
    )


class AxialBlock(nn.Module):
    """Pre-norm transformer block of a pass along the width and one along the height.

    forward: tokens_BHWC -> [B, H, W, C]; mask as AxialAttention takes it.
    order: which pass comes first; in "parallel" both see the same input and their outputs are summed.
    axes: the passes that this block has; one alone where the other axis is skipped. feed_forward:
    one after "both" passes, or after "each" (Ho et al. 2019; "both" is the common shorter form).
    shared: the passes have one projection to queries, keys and values and one output projection; their
    norms and biases stay their own. span, positions: see AxialAttention.

    Raises ValueError for what makes no block: no pass, or an `order`, `feed_forward` or `shared` that
    has nothing to act on.
    """

    def __init__(
        self,
        *,
        channels: int,
        heads: int,
        span: int | None,
        mlp_ratio: int,
        positions: Positions = "bias",
        order: Order = "width_height",
        axes: Sequence[Axis] = ("width", "height"),
        feed_forward: FeedForward = "both",
        shared: bool = False,
    ) -> None:
        super().__init__()
        if not axes or len(set(axes)) != len(axes) or not set(axes) <= {"width", "height"}:
            raise ValueError(f"axes are {tuple(axes)}: a block goes along the width, the height or both")
        if order == "parallel" and feed_forward == "each":
            raise ValueError("parallel passes end together: there is one feed-forward, after both")
        self.parallel = order == "parallel"
        wanted: tuple[Axis, Axis] = ("height", "width") if order == "height_width" else ("width", "height")
        self.axes = tuple(axis for axis in wanted if axis in axes)
        for axis in self.axes:
            attention = AxialAttention(
                channels=channels, heads=heads, axis=axis, span=span, positions=positions
            )
            self.add_module(f"norm_{axis}", nn.LayerNorm(channels))
            self.add_module(axis, attention)
            if feed_forward == "each" and axis != self.axes[-1]:
                self.add_module(f"norm_mlp_{axis}", nn.LayerNorm(channels))
                self.add_module(f"mlp_{axis}", mlp(channels, mlp_ratio))
        if shared and len(self.axes) == 2:
            first, second = (self.get_submodule(axis) for axis in self.axes)
            second.qkv, second.proj = first.qkv, first.proj
        self.between = feed_forward == "each" and len(self.axes) == 2
        self.norm_mlp = nn.LayerNorm(channels)
        self.mlp = mlp(channels, mlp_ratio)

    def forward(self, tokens_BHWC: Tensor, mask: Tensor | None = None) -> Tensor:
        given_BHWC = tokens_BHWC
        for axis in self.axes:
            seen_BHWC = given_BHWC if self.parallel else tokens_BHWC
            tokens_BHWC = tokens_BHWC + self._pass(axis, seen_BHWC, mask)
            if self.between and axis != self.axes[-1]:
                fed_BHWC = self.get_submodule(f"norm_mlp_{axis}")(tokens_BHWC)
                tokens_BHWC = tokens_BHWC + self.get_submodule(f"mlp_{axis}")(fed_BHWC)
        return tokens_BHWC + self.mlp(self.norm_mlp(tokens_BHWC))  # type: ignore[no-any-return]

    def _pass(self, axis: str, tokens_BHWC: Tensor, mask: Tensor | None) -> Tensor:
        normed_BHWC = self.get_submodule(f"norm_{axis}")(tokens_BHWC)
        attention = self.get_submodule(axis)
        # Tracers list what a call is given, and an engine takes one picture.
        return attention(normed_BHWC) if mask is None else attention(normed_BHWC, mask)  # type: ignore[no-any-return]


class AttentionBlock(nn.Module):
    """Pre-norm transformer block around attention of another kind: tokens [B, *grid, C] -> the same shape."""

    def __init__(self, attention: nn.Module, *, channels: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = attention
        self.norm_mlp = nn.LayerNorm(channels)
        self.mlp = mlp(channels, mlp_ratio)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm(tokens))
        return tokens + self.mlp(self.norm_mlp(tokens))  # type: ignore[no-any-return]


class FeedForwardBlock(nn.Module):
    """The feed-forward half of a pre-norm transformer block alone: tokens [B, *grid, C] -> the same shape."""

    def __init__(self, *, channels: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm_mlp = nn.LayerNorm(channels)
        self.mlp = mlp(channels, mlp_ratio)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.mlp(self.norm_mlp(tokens))  # type: ignore[no-any-return]
