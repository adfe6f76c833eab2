"""Attention along one axis of a token grid.

Shapes: B batch, C channels, A heads of D channels each; the grid has any number of axes. Seen along
one of them it is N lines of L tokens. S is the span, Q and K count queries and keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.nn import banded
from axialcli.nn.fused import linear
from axialcli.nn.rotary import rotate_, rotated
from axialcli.nn.traceable import attend_traceable

Axis = Literal["width", "height", "depth"]
Positions = Literal["bias", "rotary", "none"]

FROM_THE_LAST: dict[str | int, int] = {"width": 0, "height": 1, "depth": 2}
"""How many axes come after the named one in a grid."""

QUERY_CHUNK = 32
"""Queries that share one window of keys: what the kernel takes at once, so that no more keys are wasted."""

MAX_ROWS = 65_535
"""Fused attention kernels refuse a batch of 65,536 rows and more."""

MASK_NUMBERS = 2**22
"""Of a mask that differs from line to line, at most so many numbers exist at a time."""


class AxialAttention(nn.Module):
    """Multi-head attention along one axis: every line of tokens along it attends alone.

    forward: tokens [B, *grid, C] -> the same shape, for a grid of any number of axes and any size.
    axis: "width", "height", "depth", or how many axes come after it in the grid (0, 1, 2, ...).
    span: odd, how many keys a query sees, itself in the middle; cost and memory are O(N L S). None:
    the whole line. positions: "bias", a learned number per head and distance within the span (it
    needs one); "rotary", which has no table; "none". All of them know distances only, so the layer
    has no length of its own. inner: channels of queries, keys and values, all heads together; None: as
    many as tokens have.

    mask: bool [B, *grid], False where a token is padding: nobody sees it as a key. A query that sees
    no key at all gets 0 before the output projection, and so its bias.

    `forward` is made of the parts `queries`, `keys_values`, `band` and `project`, which serve an
    engine that has the lines in pieces. Raises ValueError for sizes that do not fit.

    Source: Ho et al. 2019 (arXiv 1912.12180); the span of 65 and the bias per distance are those of
    Axial-DeepLab (Wang et al. 2020, section 3.2), the bias being the scalar part of its positions.
    """

    def __init__(
        self,
        *,
        channels: int,
        heads: int,
        axis: Axis | int,
        span: int | None,
        positions: Positions,
        inner: int | None = None,
    ) -> None:
        super().__init__()
        inner = channels if inner is None else inner
        if inner % heads:
            raise ValueError(f"{inner} channels do not divide into {heads} heads")
        if span is not None and (span % 2 == 0 or span < 1):
            raise ValueError(f"the span is {span}: it has to be odd, so that it has a centre")
        if positions == "bias" and span is None:
            raise ValueError("a relative bias needs a span; without one, positions are 'rotary' or 'none'")
        if positions == "rotary" and inner // heads % 2:
            raise ValueError(f"rotary positions turn pairs: {inner // heads} channels a head are odd")
        if axis not in FROM_THE_LAST and (not isinstance(axis, int) or axis < 0):
            raise ValueError(f"axis {axis!r} is neither {', '.join(map(str, FROM_THE_LAST))} nor a number")
        self.heads, self.axis, self.span, self.positions, self.inner = heads, axis, span, positions, inner
        self.after = axis if isinstance(axis, int) else FROM_THE_LAST[axis]
        self.qkv = nn.Linear(channels, 3 * inner)
        self.proj = nn.Linear(inner, channels)
        if positions == "bias":
            self.bias_AS = nn.Parameter(torch.zeros(heads, span or 0))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        if torch.compiler.is_exporting():
            if mask is not None:
                # Masks are for lines padded in a batch; what is exported takes pictures without padding.
                raise NotImplementedError("a mask cannot be exported")
            return self._forward_traceable(tokens)
        # All three at once, which is quicker than `queries` and `keys_values`, and the same.
        qkv = self.qkv(tokens).view(*tokens.shape[:-1], 3, self.heads, -1)
        q, kv = self._with_positions(qkv.select(-3, 0), 0), qkv.narrow(-3, 1, 2)
        self._with_positions(kv.select(-3, 0), 0)
        if mask is None and self.has_kernel_for(q, kv):
            return self.project(self.attend_band(q, kv))
        band_AQK = None
        if self.span is not None:
            steps_K = torch.arange(QUERY_CHUNK + self.span - 1, device=tokens.device)
            band_AQK = self.band(steps_K[:QUERY_CHUNK] + self.span // 2, steps_K)
        return self.project(attend(q, kv, mask, after=self.after, band_AQK=band_AQK))

    def _forward_traceable(self, tokens: Tensor) -> Tensor:
        """`forward` without loops whose length depends on the grid, and without writing in place."""
        along = tokens.ndim - 2 - self.after
        heads = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))
        # [3, ..., A, L, D]: moved once, for all that follows.
        q, k, v = heads.movedim((-3, along), (0, -2)).unbind(0)
        if self.positions == "rotary":
            q, k = (rotated(part, along=part.ndim - 2, start=0) for part in (q, k))
        attended = attend_traceable(q, k, v, bias_AS=self._bias(), span=self.span)
        return self.project(attended.movedim(-2, along))

    def queries(self, tokens: Tensor, start: int = 0) -> Tensor:
        """The queries [B, *grid, A, D] of tokens [B, *grid, C] that begin at position `start` of the axis.

        Positions are relative: moving `start` for queries and keys alike changes nothing but rounding.
        """
        q = linear(tokens, self.qkv.weight[: self.inner], self.qkv.bias[: self.inner])
        return self._with_positions(q.view(*q.shape[:-1], self.heads, -1), start)

    def keys_values(self, tokens: Tensor, start: int = 0) -> Tensor:
        """The keys, and then the values, of tokens that begin at `start`: [B, *grid, 2, A, D]."""
        weight, bias = self.qkv.weight[self.inner :], self.qkv.bias[self.inner :]
        kv = linear(tokens, weight, bias).view(*tokens.shape[:-1], 2, self.heads, -1)
        self._with_positions(kv.select(-3, 0), start)
        return kv

    def band(self, queries_Q: Tensor, keys_K: Tensor) -> Tensor | None:
        """What is added to the scores [A, Q, K] of queries and keys at these positions; None without a span.

        queries_Q, keys_K: whole numbers in any order, a key given twice counting twice. Within the
        span it is the relative bias (0 where there is none), beyond it -inf; in the weights' dtype.
        """
        if self.span is None:
            return None
        # Named by its place in the bias, so that 0 ... S - 1 is within the span.
        place_QK = keys_K[None, :] - queries_Q[:, None] + self.span // 2
        inside_QK = (place_QK >= 0) & (place_QK < self.span)
        if self.positions == "bias":
            band_AQK = self.bias_AS[:, place_QK.clamp(0, self.span - 1)]
        else:
            band_AQK = self.proj.weight.new_zeros(()).expand(self.heads, *place_QK.shape)
        return band_AQK.masked_fill(~inside_QK, float("-inf"))

    def has_kernel_for(self, q: Tensor, kv: Tensor) -> bool:
        """Whether `attend_band` takes these queries and keys."""
        return self.span is not None and banded.runs(q, kv, self._bias())

    def attend_band(self, q: Tensor, kv: Tensor, *, ahead: int = 0, slots_K: Tensor | None = None) -> Tensor:
        """What the queries [B, *grid, A, D] see of the keys and values [B, *grid, 2, A, D] within the span.

        ahead: query i stands where key i + ahead stands. slots_K: where each key of a line lies in `kv`;
        None: in their order. Only for what `has_kernel_for` says. Returns [B, *grid, A, D], contiguous.
        """
        assert self.span is not None
        along = q.ndim - 3 - self.after
        return banded.attend_banded(
            q, kv, along=along, span=self.span, bias_AS=self._bias(), ahead=ahead, slots_K=slots_K
        )

    def project(self, attended: Tensor) -> Tensor:
        """The output projection of [B, *grid, A, D]: [B, *grid, C]."""
        return self.proj(attended.flatten(-2))  # type: ignore[no-any-return]

    def _bias(self) -> Tensor | None:
        return self.bias_AS if self.positions == "bias" else None

    def _with_positions(self, heads: Tensor, start: int) -> Tensor:
        if self.positions != "rotary":
            return heads
        return rotate_(heads, along=heads.ndim - 3 - self.after, start=start)


def attend(q: Tensor, kv: Tensor, mask: Tensor | None, *, after: int, band_AQK: Tensor | None) -> Tensor:
    """Softmax attention of every line along the axis with `after` axes behind it.

    q: [B, *grid, A, D]; kv: [B, *grid, 2, A, D]; mask: bool [B, *grid], False = padding, or None.
    band_AQK: None, or what is added to the scores of Q neighbouring queries and the keys from S // 2
    before the first to S // 2 behind the last of them. Returns [B, *grid, A, D], contiguous.

    A function and no method, for the number of its steps depends on the grid's sizes, and `forward`
    is to have no branch on them. Lines are views: only the kernel reads them.
    """
    along = q.ndim - 3 - after
    if along < 1:
        raise ValueError(f"a grid of {q.ndim - 3} axes has none with {after} behind it")
    k, v = kv.unbind(-3)
    # In the grid's own layout, so that no transposition stands before the projection.
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    masks = repeat(None) if mask is None else _lines(mask, along, after)
    lines = (_lines(part, along, after) for part in (out, q, k, v))
    for out_NLAD, q_NLAD, k_NLAD, v_NLAD, mask_NL in zip(*lines, masks, strict=False):
        if band_AQK is None:
            _attend_whole(out_NLAD, q_NLAD, k_NLAD, v_NLAD, mask_NL)
        else:
            _attend_band(out_NLAD, q_NLAD, k_NLAD, v_NLAD, mask_NL, band_AQK.to(q.dtype))
    return out


def _lines(grid: Tensor, along: int, after: int) -> Iterator[Tensor]:
    """The lines [N, L, ...] along axis `along` of [B, *grid, ...], as views, in groups of one stride each."""
    outer = grid.flatten(0, along - 1)
    if after == 0:
        yield outer
        return
    groups = outer.flatten(2, 1 + after)
    # By index: autograd does not let the views of one iteration be written to.
    for index in range(groups.shape[0]):
        yield groups[index].transpose(0, 1)


def _attend_whole(
    out_NLAD: Tensor, q_NLAD: Tensor, k_NLAD: Tensor, v_NLAD: Tensor, mask_NL: Tensor | None
) -> None:
    """Writes into `out` the attention of all queries of a line to all its keys."""
    for first in range(0, q_NLAD.shape[0], MAX_ROWS):
        rows = slice(first, first + MAX_ROWS)
        mask_N11L = dead_N111 = None
        if mask_NL is not None:
            dead_N111 = ~mask_NL[rows].any(1)[:, None, None, None]
            # Kernels disagree about lines without any key: let those see all, and then erase them.
            # Contiguous, or the kernel makes a copy of it for each query.
            mask_N11L = (mask_NL[rows, None, None] | dead_N111).contiguous()
        _write(out_NLAD[rows], q_NLAD[rows], k_NLAD[rows], v_NLAD[rows], mask_N11L, dead_N111)


def _attend_band(
    out_NLAD: Tensor,
    q_NLAD: Tensor,
    k_NLAD: Tensor,
    v_NLAD: Tensor,
    mask_NL: Tensor | None,
    band_AQK: Tensor,
) -> None:
    """Writes into `out` the attention of each query to the keys of its line that lie in the band."""
    lines, length = q_NLAD.shape[:2]
    chunk, radius = band_AQK.shape[1], (band_AQK.shape[2] - band_AQK.shape[1]) // 2
    # Where lines have masks of their own, the additive mask differs from line to line.
    at_once = MAX_ROWS if mask_NL is None else max(1, min(MAX_ROWS, MASK_NUMBERS // band_AQK.numel()))
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        first, last = max(0, start - radius), min(length, stop + radius)
        offset = first - (start - radius)
        band_1AQK = band_AQK[None, :, : stop - start, offset : offset + last - first]
        for row in range(0, lines, at_once):
            rows = slice(row, row + at_once)
            add_NAQK, dead_NQ11 = band_1AQK, None
            if mask_NL is not None:
                seen_NQK = mask_NL[rows, None, first:last] & band_1AQK[:, 0].isfinite()
                dead_NQ11 = ~seen_NQK.any(2)[:, :, None, None]
                seen_NQK = seen_NQK | dead_NQ11[..., 0]
                add_NAQK = band_1AQK.nan_to_num(neginf=0).masked_fill(~seen_NQK[:, None], float("-inf"))
            _write(
                out_NLAD[rows, start:stop],
                q_NLAD[rows, start:stop],
                k_NLAD[rows, first:last],
                v_NLAD[rows, first:last],
                add_NAQK,
                dead_NQ11,
            )


def _write(
    out_NQAD: Tensor, q_NQAD: Tensor, k_NKAD: Tensor, v_NKAD: Tensor, mask: Tensor | None, dead: Tensor | None
) -> None:
    attended_NQAD = F.scaled_dot_product_attention(
        q_NQAD.transpose(1, 2), k_NKAD.transpose(1, 2), v_NKAD.transpose(1, 2), attn_mask=mask
    ).transpose(1, 2)
    # Zero by selection, not by multiplication: what is erased may be anything.
    out_NQAD.copy_(attended_NQAD if dead is None else attended_NQAD.masked_fill(dead, 0))
