"""Attention along one axis of a token grid.

Shapes: B batch, H height, W width, C channels; N rows (or columns) of L tokens, A heads of D channels.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Axis = Literal["height", "width"]

QUERY_CHUNK = 64
"""Queries that share one window of keys: large enough to feed the kernel, small enough not to waste keys."""

MAX_ROWS = 65_535
"""Fused attention kernels refuse a batch of 65,536 rows and more."""


def banded_attention(q_NLAD: Tensor, k_NLAD: Tensor, v_NLAD: Tensor, bias_AS: Tensor) -> Tensor:
    """Softmax attention in which query i sees the keys i - S//2 ... i + S//2 that exist.

    q, k, v: [N, L, A, D], any strides with D contiguous. bias_AS: [A, S], S odd; bias_AS[a, s] is
    added to the logit of head a for the key at i + s - S//2. Logits are scaled by D ** -0.5.
    Cost and memory are O(L * S): the keys come in windows, as views. Returns [N, L, A, D].
    """
    length, radius = q_NLAD.shape[1], bias_AS.shape[1] // 2
    band_AQK = _band(bias_AS.to(q_NLAD.dtype))
    out_NLAD = torch.empty_like(q_NLAD, memory_format=torch.contiguous_format)
    for start in range(0, length, QUERY_CHUNK):
        stop = min(start + QUERY_CHUNK, length)
        first, last = max(0, start - radius), min(length, stop + radius)
        offset = first - (start - radius)
        mask_AQK = band_AQK[:, : stop - start, offset : offset + last - first]
        for row in range(0, q_NLAD.shape[0], MAX_ROWS):
            rows = slice(row, row + MAX_ROWS)
            out_NLAD[rows, start:stop] = F.scaled_dot_product_attention(
                q_NLAD[rows, start:stop].transpose(1, 2),
                k_NLAD[rows, first:last].transpose(1, 2),
                v_NLAD[rows, first:last].transpose(1, 2),
                attn_mask=mask_AQK[None],
            ).transpose(1, 2)
    return out_NLAD


def _band(bias_AS: Tensor) -> Tensor:
    """The additive mask [A, Q, Q + S - 1] of one chunk of queries: the bias within the span, else -inf."""
    span = bias_AS.shape[1]
    steps = torch.arange(QUERY_CHUNK + span - 1, device=bias_AS.device)
    offset_QK = steps[None, :] - torch.arange(QUERY_CHUNK, device=bias_AS.device)[:, None]
    inside_QK = (offset_QK >= 0) & (offset_QK < span)
    band_AQK = bias_AS[:, offset_QK.clamp(0, span - 1)]
    return band_AQK.masked_fill(~inside_QK, float("-inf"))


class AxialAttention(nn.Module):
    """Multi-head attention along one axis, within a span, with a relative bias per head.

    forward: tokens_BHWC -> [B, H, W, C]. Every row (axis "width") or column ("height") attends
    alone; the grid may have any size. The bias depends on the distance only, so the layer has no
    length of its own. Axial-DeepLab (Wang et al. 2020, section 3.2) uses the same span of 65.
    """

    def __init__(self, *, channels: int, heads: int, span: int, axis: Axis) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} heads")
        if span % 2 == 0 or span < 1:
            raise ValueError(f"the span is {span}: it has to be odd, so that it has a centre")
        self.heads, self.axis = heads, axis
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.bias_AS = nn.Parameter(torch.zeros(heads, span))

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        qkv_BHWC = self.qkv(tokens_BHWC)
        if self.axis == "height":
            qkv_BHWC = qkv_BHWC.transpose(1, 2)
        shape = qkv_BHWC.shape[:3]
        q, k, v = qkv_BHWC.unflatten(-1, (3, self.heads, -1)).flatten(0, 1).unbind(2)
        out_BHWC = banded_attention(q, k, v, self.bias_AS).reshape(*shape, -1)
        if self.axis == "height":
            out_BHWC = out_BHWC.transpose(1, 2)
        return self.proj(out_BHWC)  # type: ignore[no-any-return]
