"""Attention over the whole grid: of every token to every other, and separable at linear cost.

Shapes: B batch, L tokens, C channels; A heads of D channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class GlobalAttention(nn.Module):
    """Multi-head attention of every token to every token, without positions.

    forward: tokens [B, *grid, C] -> the same shape. Cost is quadratic in the number of tokens, memory
    linear. Raises ValueError for sizes that do not fit.
    """

    def __init__(self, *, channels: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        qkv = self.qkv(tokens).flatten(1, -2).unflatten(-1, (3, self.heads, -1))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        attended_BLAD = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.proj(attended_BLAD.reshape(tokens.shape))  # type: ignore[no-any-return]


class SeparableAttention(nn.Module):
    """Separable self-attention: every token meets one summary of all, so that the cost is linear.

    forward: tokens [B, *grid, C] -> the same shape. With tokens x_p:

        s = softmax over p of (w x_p),   c = sum over p of s_p K x_p,   y_p = O (c * relu(V x_p))

    Source: MobileViTv2 (Mehta & Rastegari 2022, arXiv 2206.02680, section 3.1). VMINet (arXiv
    2501.02040) has the same one summary for all tokens, but its weights s are learned per place and
    so bound to one size of picture; computed ones fit any.
    """

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.qkv = nn.Linear(channels, 1 + 2 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        score, keys, values = self.qkv(tokens).split((1, self.channels, self.channels), -1)
        weight_B1L = score.flatten(1).softmax(1)[:, None]
        context_B1C = weight_B1L @ keys.flatten(1, -2)
        return self.proj((values.relu().flatten(1, -2) * context_B1C).view(tokens.shape))  # type: ignore[no-any-return]
