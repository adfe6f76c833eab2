"""ViT and DeiT: attention of every token to every token, in timm's layout of keys.

Sources: Dosovitskiy et al. 2021 (arXiv 2010.11929, equations 1 to 4, appendix D.4 on other sizes); Touvron
et al. 2021 (arXiv 2012.12877: DeiT, the same network trained on ImageNet alone). Facts of the layout are
those of timm 1.0.31.

Shapes: B batch, H height, W width, L tokens, C channels, A heads of D channels each, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.errors import ModelError
from axialcli.nn.families.found import Found
from axialcli.nn.families.key_reading import check_three_channels, count_of, shape_of

HEAD_CHANNELS = 64
"""Of every published size; no shape tells the number of heads."""

SIZES = {192: "Ti", 384: "S", 768: "B", 1024: "L"}


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Sizes of a ViT.

    answers: how many classes. vit_width: channels, a multiple of 64. vit_depth: blocks. patch: pixels to a
    side of a token. token_grid: tokens to a side that the table of positions has. beyond: None, for
    pictures of token_grid * patch pixels alone, or "interpolate", for sides of any multiple of the patch.
    """

    in_channels: int = 3
    answers: int = 1000
    vit_width: int = 192
    vit_depth: int = 12
    patch: int = 16
    token_grid: int = 14
    beyond: Literal["interpolate"] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError where the channels are not whole heads."""
        if self.vit_width % HEAD_CHANNELS:
            raise ValueError(f"{self.vit_width} channels do not divide into heads of {HEAD_CHANNELS}")


class ViT(nn.Module):
    """Patches, a class token, learned positions, pre-norm blocks, one linear layer on the class token.

    forward: image_BCHW (normalised float) -> logits_BK. Raises ValueError for a size that its positions
    do not have. Interpolated positions are timm's: bicubic with antialiasing, over the grid part alone, so
    that the trained size is left as it is.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        channels, side = config.vit_width, config.token_grid
        self.patch_embed = PatchEmbedding(config.in_channels, channels, patch=config.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, channels))
        self.blocks = nn.Sequential(*(ViTBlock(channels) for _ in range(config.vit_depth)))
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.head = nn.Linear(channels, config.answers)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        tokens_BCHW = self.patch_embed(image_BCHW)
        # Equation 1.
        tokens_BLC = torch.cat(
            (self.cls_token.expand(image_BCHW.shape[0], -1, -1), tokens_BCHW.flatten(2).transpose(1, 2)), 1
        )
        tokens_BLC = tokens_BLC + self._positions(tokens_BCHW.shape[2], tokens_BCHW.shape[3])
        # Equations 2 and 3, then 4.
        *before, last = cast(list[ViTBlock], list(self.blocks))
        for block in before:
            tokens_BLC = block(tokens_BLC)
        # Behind the last attention nobody reads any token but the first.
        seen_B1C = (tokens_BLC + last.attn(last.norm1(tokens_BLC)))[:, :1]
        return self.head(self.norm(seen_B1C + last.mlp(last.norm2(seen_B1C)))[:, 0])  # type: ignore[no-any-return]

    def _positions(self, height: int, width: int) -> Tensor:
        side = self.config.token_grid
        if self.config.beyond is None:
            if (height, width) != (side, side):
                pixels = side * self.config.patch
                raise ValueError(
                    f"a picture of {height * self.config.patch}x{width * self.config.patch} pixels: "
                    f"the table of positions is for {pixels}x{pixels}"
                )
            return self.pos_embed
        first_11C = self.pos_embed[:, :1]
        grid_1CYX = self.pos_embed[:, 1:].transpose(1, 2).reshape(1, -1, side, side)
        grid_1CHW = F.interpolate(grid_1CYX, (height, width), mode="bicubic", antialias=True)
        return torch.cat((first_11C, grid_1CHW.flatten(2).transpose(1, 2)), 1)


class PatchEmbedding(nn.Module):
    """A linear layer on each patch: image_BCHW -> tokens_BCHW. Raises ValueError where a patch is cut."""

    def __init__(self, c_in: int, c_out: int, *, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(c_in, c_out, patch, stride=patch)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        height, width = image_BCHW.shape[2:]
        if height % self.patch or width % self.patch:
            raise ValueError(f"a picture of {height}x{width} pixels has no whole patches of {self.patch}")
        return self.proj(image_BCHW)  # type: ignore[no-any-return]


class ViTBlock(nn.Module):
    """Pre-norm transformer block: tokens_BLC -> the same shape. Equations 2 and 3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = ViTAttention(channels, num_heads=channels // HEAD_CHANNELS)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = Mlp(channels)

    def forward(self, tokens_BLC: Tensor) -> Tensor:
        tokens_BLC = tokens_BLC + self.attn(self.norm1(tokens_BLC))
        return tokens_BLC + self.mlp(self.norm2(tokens_BLC))  # type: ignore[no-any-return]


class ViTAttention(nn.Module):
    """Multi-head attention of all tokens to all: tokens_BLC -> the same shape. Appendix A."""

    def __init__(self, channels: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens_BLC: Tensor) -> Tensor:
        q, k, v = self.qkv(tokens_BLC).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended_BALD = F.scaled_dot_product_attention(q, k, v)
        return self.proj(attended_BALD.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear layers with GELU between them, four times as wide inside: tokens [..., C] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))  # type: ignore[no-any-return]


ARCHITECTURES: dict[str, tuple[type, type[nn.Module]]] = {"vit": (ViTConfig, ViT)}


def recognise(weights: Mapping[str, Tensor]) -> Found | None:
    """A ViT or DeiT with a class token, as timm saves it. Raises ModelError."""
    if "patch_embed.proj.weight" not in weights or "blocks.0.attn.qkv.weight" not in weights:
        return None
    if "dist_token" in weights:
        raise ModelError("a distilled DeiT, with a second token and head: give one without distillation")
    check_three_channels(weights, "patch_embed.proj.weight")
    width, _, patch, _ = shape_of(weights, "patch_embed.proj.weight", 4)
    rows = shape_of(weights, "pos_embed", 3)[1]
    side = isqrt(rows - 1)
    if side * side != rows - 1:
        raise ModelError(f"pos_embed has {rows} rows, which is no class token and a square of tokens")
    answers = shape_of(weights, "head.weight", 2)[0]
    return Found(
        family=f"ViT/DeiT-{SIZES.get(width, width)} with patches of {patch} pixels (timm)",
        architecture="vit",
        config={
            "answers": answers,
            "vit_width": width,
            "vit_depth": count_of(weights, "blocks."),
            "patch": patch,
            "token_grid": side,
        },
        weights=dict(weights),
        task="classification",
        classes=answers,
        size=(side * patch, side * patch),
        multiple=patch,
        network_stride=patch,
        beyond=("interpolate",),
        notes=("heads have 64 channels, as in all published sizes: no shape tells",),
        unless={
            "range": "mean and std are ImageNet's, as DeiT was trained; timm's other ViTs mostly had 0.5 "
            "and 0.5: no key tells, so say it"
        },
    )
