"""Attention as a fixed number of whole-tensor operations, for exporters.

Elsewhere lines are attended piece by piece, in loops whose length depends on the grid. A graph that is to
hold for every size cannot contain such a loop, so here the pieces are an axis of their own. The numbers
are the same up to rounding.

Shapes: B batch, C channels, H height, W width; A heads of D channels each. Along an axis the grid is N
lines of L tokens, cut into P pieces of Q queries, each with a window of K keys. S is the span.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_QUERIES = 16
"""Queries of a piece at the least; otherwise there are as many as a span has neighbours."""


def attend_traceable(
    q: Tensor, k: Tensor, v: Tensor, *, after: int, bias_AS: Tensor | None, span: int | None
) -> Tensor:
    """Softmax attention of every line along the grid axis with `after` axes behind it.

    q, k, v: [B, *grid, A, D]. span: how many keys a query sees, or None for the whole line; bias_AS: what
    is added to the scores by distance, or None. Returns [B, *grid, A, D].
    """
    along = q.ndim - 3 - after
    q, k, v = (part.movedim(along, -3) for part in (q, k, v))
    lines, (length, heads, channels) = q.shape[:-3], q.shape[-3:]
    q_NLAD, k_NLAD, v_NLAD = (part.reshape(-1, length, heads, channels) for part in (q, k, v))
    if span is None:
        out_NALD = F.scaled_dot_product_attention(
            *(part.transpose(1, 2) for part in (q_NLAD, k_NLAD, v_NLAD))
        )
        out_NLAD = out_NALD.transpose(1, 2)
    else:
        out_NLAD = _attend_pieces(q_NLAD, k_NLAD, v_NLAD, bias_AS, span)
    return out_NLAD.reshape(*lines, length, heads, channels).movedim(-3, along)


def _attend_pieces(
    q_NLAD: Tensor, k_NLAD: Tensor, v_NLAD: Tensor, bias_AS: Tensor | None, span: int
) -> Tensor:
    length, heads, channels = q_NLAD.shape[1:]
    radius = span // 2
    queries = max(LEAST_QUERIES, 2 * radius)
    pieces = (length + queries - 1) // queries
    device = q_NLAD.device
    # Beyond the ends of a line lie zeros, which no query sees.
    filled = pieces * queries - length
    q_NLAD = F.pad(q_NLAD, (0, 0, 0, 0, 0, filled))
    k_NLAD, v_NLAD = (F.pad(part, (0, 0, 0, 0, radius, filled + radius)) for part in (k_NLAD, v_NLAD))
    first_P = torch.arange(pieces, device=device) * queries
    step_K = torch.arange(queries + 2 * radius, device=device)
    place_PK = first_P[:, None] + step_K[None]
    q_NPAQD = q_NLAD.reshape(-1, pieces, queries, heads, channels).transpose(2, 3)
    windows = place_PK.flatten(), (pieces, queries + 2 * radius)
    k_NPADK = k_NLAD.index_select(1, windows[0]).unflatten(1, windows[1]).permute(0, 1, 3, 4, 2)
    v_NPAKD = v_NLAD.index_select(1, windows[0]).unflatten(1, windows[1]).transpose(2, 3)
    scores_NPAQK = (q_NPAQD * channels**-0.5) @ k_NPADK
    # Which keys a query may see is the same for all pieces; which of them exist is not.
    distance_QK = step_K[None] - torch.arange(queries, device=device)[:, None]
    within_QK = (distance_QK >= 0) & (distance_QK < span)
    exists_PK = (place_PK >= radius) & (place_PK < length + radius)
    # A query behind the end sees itself, or its scores would all be -inf.
    itself_QK = distance_QK == radius
    seen_PQK = (within_QK[None] & exists_PK[:, None]) | itself_QK[None]
    add_PAQK = torch.zeros((), dtype=q_NLAD.dtype, device=device).where(seen_PQK[:, None], float("-inf"))
    if bias_AS is not None:
        add_PAQK = add_PAQK + bias_AS[:, distance_QK.clamp(0, span - 1)][None]
    weight_NPAQK = (scores_NPAQK + add_PAQK).softmax(-1)
    out_NPQAD = (weight_NPAQK @ v_NPAKD).transpose(2, 3)
    return out_NPQAD.reshape(-1, pieces * queries, heads, channels)[:, :length]


def attend_in_windows_traceable(qkv_BHWC: Tensor, bias_ALL: Tensor | None, heads: int, window: int) -> Tensor:
    """Softmax attention within windows of `window` x `window` tokens on a grid from the first token on.

    qkv has 3 C channels; bias_ALL: what is added to the scores of the L tokens of a whole window, or
    None. Windows that the picture cuts hold what there is. Returns [B, H, W, C].
    """
    batch, height, width = qkv_BHWC.shape[:3]
    down, across = (height + window - 1) // window, (width + window - 1) // window
    qkv_BHWC = F.pad(qkv_BHWC, (0, 0, 0, across * window - width, 0, down * window - height))
    grid = (batch, down, window, across, window)
    tokens_BNLC = qkv_BHWC.reshape(*grid, -1).transpose(2, 3).reshape(batch, down * across, window**2, -1)
    q, k, v = tokens_BNLC.unflatten(-1, (3, heads, -1)).unbind(-3)
    device = qkv_BHWC.device
    step = torch.arange(window, device=device)
    rows_DL = (torch.arange(down, device=device)[:, None] * window + step[None] < height)[:, None, :, None]
    columns_AL = (torch.arange(across, device=device)[:, None] * window + step[None] < width)[None, :, None]
    exists_NL = (rows_DL & columns_AL).reshape(down * across, window**2)
    # The first token of a window always exists, so that every query sees one.
    add_N1LL = torch.zeros((), dtype=qkv_BHWC.dtype, device=device).where(
        exists_NL[:, None, None], float("-inf")
    )
    if bias_ALL is not None:
        add_N1LL = add_N1LL + bias_ALL
    q, k, v = (part.transpose(2, 3) for part in (q, k, v))
    scores_BNALL = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + add_N1LL
    out_BNLC = (scores_BNALL.softmax(-1) @ v).transpose(2, 3).flatten(-2)
    out_BHWC = out_BNLC.reshape(batch, down, across, window, window, -1).transpose(2, 3)
    return out_BHWC.reshape(batch, down * window, across * window, -1)[:, :height, :width]
