"""Rotary positions: relative, of any length, without a table."""

from __future__ import annotations

import torch
from torch import Tensor

BASE = 100.0
"""Ratio of the fastest to the slowest turn: pictures have shorter axes than texts (which take 10,000)."""


def rotate_(heads: Tensor, *, along: int, start: int) -> Tensor:
    """As `rotated`, in place; returns them."""
    half = heads.shape[-1] // 2
    first, second = _turned(heads, along=along, start=start)
    heads[..., :half].copy_(first)
    heads[..., half:].copy_(second)
    return heads


def rotated(heads: Tensor, *, along: int, start: int) -> Tensor:
    """Queries or keys, turned by angles that grow with their position.

    heads: [B, *grid, A, D], D even. Along grid axis `along` the positions are start, start + 1, ...
    Channels i and i + D / 2 are a pair, turned by position * BASE ** (-2 i / D). The product of a query
    and a key then depends on the distance between them, and on no position.

    Source: Su et al. 2021 (arXiv 2104.09864, equation 34); the base for pictures is that of Heo et al.
    2024 (arXiv 2403.13298).
    """
    return torch.cat(_turned(heads, along=along, start=start), -1)


def _turned(heads: Tensor, *, along: int, start: int) -> tuple[Tensor, Tensor]:
    """The two halves of the channels, turned."""
    half = heads.shape[-1] // 2
    # In float64 until the sine is taken: a position of 100,000 leaves float32 two digits of its angle.
    # On the processor, for not every device has float64.
    steps = torch.arange(half, dtype=torch.float64)
    places = torch.arange(start, start + heads.shape[along], dtype=torch.float64)
    angles = places[:, None] * BASE ** (-steps / half)
    angles = angles.view(-1, *[1] * (heads.ndim - 2 - along), half)
    cos, sin = angles.cos().to(heads), angles.sin().to(heads)
    first, second = heads[..., :half], heads[..., half:]
    return first * cos - second * sin, second * cos + first * sin
