"""Swin: attention within windows, every other block's shifted by half of one, in timm's layout of keys.

Source: Liu et al. 2021 (arXiv 2103.14030): sections 3.1 and 3.3 for the sizes, equation 3 for the blocks,
equation 4 for the bias by distance. Facts of the layout are those of timm 1.0.31 and of Microsoft's files.

Shapes: B batch, H height, W width, C channels, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

from torch import Tensor, nn

from axialcli.errors import ModelError
from axialcli.nn.families.found import Found
from axialcli.nn.families.key_reading import check_three_channels, count_of, shape_of
from axialcli.nn.families.shifted_windows import HEAD_CHANNELS, ShiftedWindowAttention
from axialcli.nn.families.vit import Mlp

PATCH = 4
STRIDE = 32
"""Pixels per token of the last stage."""

MOST_WEIGHTS = 400_000_000
"""In all blocks; the largest published has half as many."""

SIZES: dict[tuple[int, tuple[int, ...]], str] = {
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
        batch, height, width, channels = tokens_BHWC.shape
        pairs = tokens_BHWC.reshape(batch, height // 2, 2, width // 2, 2, channels)
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


ARCHITECTURES: dict[str, tuple[type, type[nn.Module]]] = {"swin": (SwinConfig, Swin)}

_DERIVED = re.compile(r"layers\.[0-9]+\.blocks\.[0-9]+\.(attn\.relative_position_index|attn_mask)")
_MERGING = re.compile(r"layers\.([0-9])\.downsample\.")


def recognise(weights: Mapping[str, Tensor]) -> Found | None:
    """A Swin as timm or Microsoft saves it. Raises ModelError."""
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
    """Microsoft's mergings end a stage, timm's begin the next."""
    if merging := _MERGING.match(name):
        return f"layers.{int(merging[1]) + 1}.downsample.{name[merging.end() :]}"
    return f"head.fc.{name.removeprefix('head.')}" if name in ("head.weight", "head.bias") else name
