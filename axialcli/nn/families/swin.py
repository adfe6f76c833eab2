"""Swin: attention within windows, every other block's shifted by half of one, in timm's layout of keys.

Source: Liu et al. 2021 (arXiv 2103.14030): sections 3.1 and 3.3 for the sizes, equation 3 for the blocks,
equation 4 for the bias by distance. Facts of the layout are those of timm 1.0.31 and of Microsoft's files.

Shapes: B batch, H height, W width, C channels, A heads of D channels each, N windows of L tokens, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.errors import ModelError
from axialcli.nn.attention import MAX_ROWS
from axialcli.nn.families.found import Found
from axialcli.nn.families.key_reading import check_three_channels, count_of, shape_of
from axialcli.nn.families.vit import Mlp

HEAD_CHANNELS = 32
PATCH = 4
STRIDE = 32
"""Pixels per token of the last stage."""

MOST_WEIGHTS = 400_000_000
"""In all blocks; the largest published has half as many."""

SIZES = {
    (96, (2, 2, 6, 2)): "T",
    (96, (2, 2, 18, 2)): "S",
    (128, (2, 2, 18, 2)): "B",
    (192, (2, 2, 18, 2)): "L",
}


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """Sizes of a Swin.

    answers: how many classes. swin_width: channels of the first stage, a multiple of 32; they double with
    every further one. swin_depths: blocks of the four stages. swin_window: tokens to a side of a window.
    """

    in_channels: int = 3
    answers: int = 1000
    swin_width: int = 96
    swin_depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    swin_window: int = 7

    def __post_init__(self) -> None:
        """Raises ValueError where the channels are not whole heads, or the blocks too many."""
        if self.swin_width % HEAD_CHANNELS:
            raise ValueError(f"{self.swin_width} channels do not divide into heads of {HEAD_CHANNELS}")
        widths = [self.swin_width << stage for stage in range(4)]
        weights = sum(12 * c * c * depth for c, depth in zip(widths, self.swin_depths, strict=True))
        if weights > MOST_WEIGHTS:
            raise ValueError(f"the blocks have {weights:,} weights; {MOST_WEIGHTS:,} at most")


class Swin(nn.Module):
    """Patches, four stages of window attention, each at half the last one's resolution, a mean, one layer.

    forward: image_BCHW (normalised float) -> logits_BK, for sides of any multiple of 32 windows' tokens (224
    pixels with windows of 7), so that every stage is whole windows. Raises ValueError for others.
    """

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.swin_width << stage for stage in range(4)]
        self.patch_embed = PatchEmbedding(config.in_channels, config.swin_width)
        self.layers = nn.Sequential(
            *(
                SwinStage(c, depth, window=config.swin_window, first=stage == 0)
                for stage, (c, depth) in enumerate(zip(widths, config.swin_depths, strict=True))
            )
        )
        self.norm = nn.LayerNorm(widths[-1])
        self.head = nn.Sequential()
        self.head.add_module("fc", nn.Linear(widths[-1], config.answers))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        height, width = image_BCHW.shape[2:]
        whole = STRIDE * self.config.swin_window
        if height % whole or width % whole:
            raise ValueError(f"a picture of {height}x{width} pixels: sides are multiples of {whole}")
        tokens_BHWC = self.norm(self.layers(self.patch_embed(image_BCHW)))
        return self.head(tokens_BHWC.mean((1, 2)))  # type: ignore[no-any-return]


class PatchEmbedding(nn.Module):
    """A linear layer on each patch of 4 x 4 pixels and a norm: image_BCHW -> tokens_BHWC."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(c_in, c_out, PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(c_out)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.norm(self.proj(image_BCHW).permute(0, 2, 3, 1))  # type: ignore[no-any-return]


class SwinStage(nn.Module):
    """Merging of patches, but in the first stage, and blocks: tokens_BHWC -> tokens_BHWC."""

    def __init__(self, channels: int, depth: int, *, window: int, first: bool) -> None:
        super().__init__()
        self.downsample = nn.Identity() if first else PatchMerging(channels // 2)
        shifts = (0, window // 2)
        self.blocks = nn.Sequential(
            *(SwinBlock(channels, window=window, shift=shifts[index % 2]) for index in range(depth))
        )

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        return self.blocks(self.downsample(tokens_BHWC))  # type: ignore[no-any-return]


class PatchMerging(nn.Module):
    """Four neighbours become one token: tokens_BHWC -> [B, H / 2, W / 2, 2 C].

    Their order is (0, 0), (1, 0), (0, 1), (1, 1) as (row, column).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        pairs = tokens_BHWC.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
        # [B, H / 2, row, W / 2, column, C], the column before the row.
        return self.reduction(self.norm(pairs.permute(0, 1, 3, 4, 2, 5).flatten(3)))  # type: ignore[no-any-return]


class SwinBlock(nn.Module):
    """Pre-norm transformer block around window attention: tokens_BHWC -> the same shape. Equation 3."""

    def __init__(self, channels: int, *, window: int, shift: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = ShiftedWindowAttention(channels, window=window, shift=shift)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels)

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        tokens_BHWC = tokens_BHWC + self.attn(self.norm1(tokens_BHWC))
        return tokens_BHWC + self.mlp(self.norm2(tokens_BHWC))  # type: ignore[no-any-return]


class ShiftedWindowAttention(nn.Module):
    """Multi-head attention within windows, with a bias by distance: tokens_BHWC -> the same shape.

    shift: tokens that the windows' grid is moved towards the first token. The public codes turn the picture
    by that much and mask what comes together from opposite edges; the same without either is windows
    that the edges cut. Along an axis that is one window long there is no shift, as in the public codes.
    The table's row of two tokens is (2 window - 1) (dy + window - 1) + dx + window - 1, with dy and dx the
    query's place less the key's.
    """

    def __init__(self, channels: int, *, window: int, shift: int) -> None:
        super().__init__()
        self.num_heads, self.window, self.shift = channels // HEAD_CHANNELS, window, shift
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, self.num_heads))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        qkv_BHWC = self.qkv(tokens_BHWC)
        rows, columns = (_parts(length, self.window, self.shift) for length in tokens_BHWC.shape[1:3])
        # Three by three at most: what the edges cut has windows of other sizes.
        attended_BHWC = torch.cat(
            [torch.cat([self._attend(qkv_BHWC[:, ys, xs], y, x) for xs, x in columns], 2) for ys, y in rows],
            1,
        )
        return self.proj(attended_BHWC)  # type: ignore[no-any-return]

    def _attend(self, qkv_BHWC: Tensor, y: int, x: int) -> Tensor:
        """Attention within whole windows of y x x tokens: [B, H, W, 3 C] -> [B, H, W, C]."""
        batch, height, width = qkv_BHWC.shape[:3]
        grid = (batch, height // y, y, width // x, x)
        heads = qkv_BHWC.reshape(*grid, 3, self.num_heads, HEAD_CHANNELS)
        qkv_3NALD = heads.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, self.num_heads, y * x, HEAD_CHANNELS)
        bias_ALL = self._bias(y, x).to(qkv_BHWC.dtype)
        attended_NALD = torch.cat(
            [
                F.scaled_dot_product_attention(*part_3NALD, attn_mask=bias_ALL)
                for part_3NALD in qkv_3NALD.split(MAX_ROWS, 1)
            ]
        )
        moved = attended_NALD.reshape(batch, grid[1], grid[3], self.num_heads, y, x, HEAD_CHANNELS)
        return moved.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, height, width, -1)

    def _bias(self, y: int, x: int) -> Tensor:
        """The bias [A, L, L] between the L = y x x tokens of a window."""
        row_L, column_L = torch.arange(y).repeat_interleave(x), torch.arange(x).repeat(y)
        dy_LL, dx_LL = row_L[:, None] - row_L[None], column_L[:, None] - column_L[None]
        index_LL = (2 * self.window - 1) * (dy_LL + self.window - 1) + dx_LL + self.window - 1
        table = self.relative_position_bias_table
        return table[index_LL.to(table.device)].permute(2, 0, 1)


def _parts(length: int, window: int, shift: int) -> list[tuple[slice, int]]:
    """Where windows of one size lie on an axis of whole windows, and that size."""
    if shift == 0 or length == window:
        return [(slice(0, length), window)]
    # The picture's grid begins at `shift`; what lies before the first whole window is cut.
    last = length - (window - shift)
    return [
        (slice(0, shift), shift),
        (slice(shift, last), window),
        (slice(last, length), window - shift),
    ]


ARCHITECTURES: dict[str, tuple[type, type[nn.Module]]] = {"swin": (SwinConfig, Swin)}

_DERIVED = re.compile(r"layers\.[0-9]+\.blocks\.[0-9]+\.(attn\.relative_position_index|attn_mask)")
_MERGING = re.compile(r"layers\.([0-9])\.downsample\.")


def recognise(weights: Mapping[str, Tensor]) -> Found | None:
    """A Swin as timm or Microsoft saves it; the latter's mergings belong to the stage before. Raises ModelError."""
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    if "patch_embed.proj.weight" not in weights or table not in weights:
        return None
    check_three_channels(weights, "patch_embed.proj.weight")
    width = shape_of(weights, "patch_embed.proj.weight", 4)[0]
    rows = shape_of(weights, table, 2)[0]
    side = isqrt(rows)
    if side * side != rows or side % 2 == 0:
        raise ModelError(f"{table} has {rows} rows, which are no distances within a square window")
    window = (side + 1) // 2
    if (stages := count_of(weights, "layers.")) != 4:
        raise ModelError(f"a Swin of {stages} stages; it has 4")
    depths = tuple(count_of(weights, f"layers.{stage}.blocks.") for stage in range(4))
    saved_by = "timm"
    weights = {name: tensor for name, tensor in weights.items() if not _DERIVED.fullmatch(name)}
    if "layers.0.downsample.reduction.weight" in weights:
        saved_by, weights = "Microsoft", {_name_of_timm(name): tensor for name, tensor in weights.items()}
    answers = shape_of(weights, "head.fc.weight", 2)[0]
    whole = STRIDE * window
    return Found(
        family=f"Swin-{SIZES.get((width, depths), width)} with windows of {window} tokens ({saved_by})",
        architecture="swin",
        config={"answers": answers, "swin_width": width, "swin_depths": depths, "swin_window": window},
        weights=weights,
        task="classification",
        classes=answers,
        size=(whole, whole),
        multiple=whole,
        network_stride=STRIDE,
        notes=(
            f"its own size is {whole} pixels; the network takes any multiple of it, with the same tables",
        ),
    )


def _name_of_timm(name: str) -> str:
    if merging := _MERGING.match(name):
        return f"layers.{int(merging[1]) + 1}.downsample.{name[merging.end() :]}"
    return f"head.fc.{name.removeprefix('head.')}" if name in ("head.weight", "head.bias") else name
