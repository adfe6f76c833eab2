"""Attention within local windows.

Shapes: B batch, H height, W width, C channels; A heads of D channels; N windows of L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.nn.attention import MAX_ROWS, Positions
from axialcli.nn.traceable import attend_in_windows_traceable


class WindowAttention(nn.Module):
    """Multi-head attention within windows of `window` x `window` tokens that do not overlap.

    forward: tokens_BHWC -> [B, H, W, C]. The windows lie on a grid that begins at the first token; at
    the right and the bottom edge they hold what there is, which is what padding and masking would
    give. positions: "bias", a learned number per head and offset (Swin's table), or "none".
    Raises ValueError for sizes that do not fit. Source: Liu et al. 2021 (arXiv 2103.14030), without
    its shift.
    """

    def __init__(self, *, channels: int, heads: int, window: int, positions: Positions = "bias") -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} heads")
        if window < 1:
            raise ValueError(f"the window is {window} tokens wide: it has to have one at least")
        if positions == "rotary":
            raise ValueError("windows have a relative bias or no positions, not rotary ones")
        self.heads, self.window, self.positions = heads, window, positions
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        if positions == "bias":
            self.bias_AYX = nn.Parameter(torch.zeros(heads, 2 * window - 1, 2 * window - 1))

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        bias_AYX = self.bias_AYX if self.positions == "bias" else None
        qkv_BHWC = self.qkv(tokens_BHWC)
        if torch.compiler.is_exporting():
            bias_ALL = None if bias_AYX is None else _bias(bias_AYX, self.window, self.window)
            out_BHWC = attend_in_windows_traceable(qkv_BHWC, bias_ALL, self.heads, self.window)
            return self.proj(out_BHWC)  # type: ignore[no-any-return]
        return self.proj(attend_in_windows(qkv_BHWC, bias_AYX, self.heads, self.window))  # type: ignore[no-any-return]


def attend_in_windows(qkv_BHWC: Tensor, bias_AYX: Tensor | None, heads: int, window: int) -> Tensor:
    """Softmax attention within each window; qkv has 3 C channels. Returns [B, H, W, C].

    A function and no method, for which windows there are depends on H and W. Tokens of a window have
    no common stride, so that this is the one kind of attention here that has to copy them.
    """
    batch, height, width, channels = (*qkv_BHWC.shape[:3], qkv_BHWC.shape[3] // 3)
    out_BHWC = qkv_BHWC.new_empty(batch, height, width, channels)
    for ys, xs, y, x in _regions(height, width, window):
        grid = (batch, (ys.stop - ys.start) // y, y, (xs.stop - xs.start) // x, x)
        qkv_NLAD = (
            qkv_BHWC[:, ys, xs]
            .view(*grid, -1)
            .transpose(2, 3)
            .reshape(-1, y * x, 3, heads, channels // heads)
        )
        add_ALL = None if bias_AYX is None else _bias(bias_AYX, y, x).to(qkv_BHWC.dtype)
        parts = []
        for first in range(0, qkv_NLAD.shape[0], MAX_ROWS):
            q, k, v = qkv_NLAD[first : first + MAX_ROWS].permute(2, 0, 3, 1, 4)
            parts.append(F.scaled_dot_product_attention(q, k, v, attn_mask=add_ALL).transpose(1, 2))
        attended = torch.cat(parts).view(batch, grid[1], grid[3], y, x, channels)
        out_BHWC[:, ys, xs].view(*grid, channels).copy_(attended.transpose(2, 3))
    return out_BHWC


def _regions(height: int, width: int, window: int) -> Iterator[tuple[slice, slice, int, int]]:
    """Where windows of one size lie: the whole ones, and those cut by the right and the bottom edge."""
    for ys, y in _parts(height, window):
        for xs, x in _parts(width, window):
            yield ys, xs, y, x


def _parts(length: int, window: int) -> Iterator[tuple[slice, int]]:
    whole = length - length % window
    if whole:
        yield slice(0, whole), window
    if length % window:
        yield slice(whole, length), length % window


def _bias(bias_AYX: Tensor, y: int, x: int) -> Tensor:
    """The bias [A, L, L] between the L = y x tokens of a window, by their offset."""
    centre = bias_AYX.shape[-1] // 2
    rows, columns = (torch.arange(size, device=bias_AYX.device) for size in (y, x))
    row_L, column_L = rows.repeat_interleave(x), columns.repeat(y)
    row_LL, column_LL = row_L[None] - row_L[:, None], column_L[None] - column_L[:, None]
    return bias_AYX[:, row_LL + centre, column_LL + centre]
