"""Attention within windows whose grid may be shifted: Swin's.

Source: Liu et al. 2021 (arXiv 2103.14030), section 3.2 and equation 4.

Shapes: B batch, H height, W width, C channels, A heads of D channels each, N windows of L tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.nn.attention import MAX_ROWS

HEAD_CHANNELS = 32
"""Of every published size."""


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
        attended_NALD = _attend_all(qkv_3NALD, bias_ALL)
        moved = attended_NALD.reshape(batch, grid[1], grid[3], self.num_heads, y, x, HEAD_CHANNELS)
        return moved.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, height, width, -1)

    def _bias(self, y: int, x: int) -> Tensor:
        """The bias [A, L, L] between the L = y x x tokens of a window."""
        row_L, column_L = torch.arange(y).repeat_interleave(x), torch.arange(x).repeat(y)
        dy_LL, dx_LL = row_L[:, None] - row_L[None], column_L[:, None] - column_L[None]
        index_LL = (2 * self.window - 1) * (dy_LL + self.window - 1) + dx_LL + self.window - 1
        table = self.relative_position_bias_table
        return table[index_LL.to(table.device)].permute(2, 0, 1)


def _attend_all(qkv_3NALD: Tensor, bias_ALL: Tensor) -> Tensor:
    """Attention within each of N windows: [N, A, L, D]."""
    q, k, v = qkv_3NALD.unbind(0)
    if torch.compiler.is_exporting():
        # A graph has no loop whose length depends on the batch.
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias_ALL)
    pieces = zip(*(part.split(MAX_ROWS) for part in (q, k, v)), strict=True)  # type: ignore[no-untyped-call]
    return torch.cat([F.scaled_dot_product_attention(q, k, v, attn_mask=bias_ALL) for q, k, v in pieces])


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
