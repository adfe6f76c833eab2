"""Attention as a fixed number of whole-tensor operations, for exporters.

Elsewhere lines are attended piece by piece, in loops whose length depends on the grid. A graph that is to
hold for every size cannot contain such a loop, so here the pieces are an axis of their own. The numbers
are the same up to rounding.

Shapes: B batch, C channels, H height, W width; A heads of D channels each. Seen along an axis the grid is
lines of L tokens, cut into P pieces of Q queries, each with a window of K keys. S is the span.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_QUERIES = 16
"""Queries of a piece at the least; otherwise there are as many as a span has neighbours."""


def attend_traceable(q: Tensor, k: Tensor, v: Tensor, *, bias_AS: Tensor | None, span: int | None) -> Tensor:
    """Softmax attention of every line to itself.

    q, k, v: [..., A, L, D]. span: how many keys a query sees, or None for the whole line; bias_AS: what
    is added to the scores by distance, or None. Returns [..., A, L, D].
    """
    if span is None:
        shape = q.shape
        q, k, v = (part.reshape(-1, *shape[-3:]) for part in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).reshape(shape)
    length, channels = q.shape[-2:]
    radius = span // 2
    queries = max(LEAST_QUERIES, 2 * radius)
    pieces = (length + queries - 1) // queries
    device = q.device
    step_K = torch.arange(queries + 2 * radius, device=device)
    place_PK = (torch.arange(pieces, device=device) * queries - radius)[:, None] + step_K[None]
    # What lies beyond the ends of a line stands for nothing: no query sees it.
    inside_PK = place_PK.clamp(0, length - 1).flatten()
    windows = (pieces, queries + 2 * radius)
    lines = q.shape[:-2]
    k, v = (part.index_select(-2, inside_PK).reshape(*lines, *windows, channels) for part in (k, v))
    q = F.pad(q, (0, 0, 0, pieces * queries - length)).reshape(*lines, pieces, queries, channels)
    # Which keys a query may see is the same for all pieces; which of them exist is not.
    distance_QK = step_K[None] - torch.arange(queries, device=device)[:, None]
    within_QK = (distance_QK >= 0) & (distance_QK < span)
    exists_PK = (place_PK >= 0) & (place_PK < length)
    # A query behind the end sees itself, or all its scores would be -inf.
    seen_PQK = (within_QK[None] & exists_PK[:, None]) | (distance_QK == radius)[None]
    add_PQK = torch.zeros((), dtype=q.dtype, device=device).where(seen_PQK, float("-inf"))
    add_APQK = add_PQK[None]
    if bias_AS is not None:
        add_APQK = add_APQK + bias_AS[:, distance_QK.clamp(0, span - 1)][:, None]
    weight = ((q * channels**-0.5) @ k.transpose(-1, -2) + add_APQK).softmax(-1)
    attended: Tensor = weight @ v
    return attended.flatten(-3, -2)[..., :length, :]


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
    q, k, v = tokens_BNLC.reshape(*tokens_BNLC.shape[:-1], 3, heads, -1).unbind(-3)
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
    out_BHWC: Tensor = out_BNLC.reshape(batch, down, across, window, window, -1).transpose(2, 3)
    return out_BHWC.reshape(batch, down * window, across * window, -1)[:, :height, :width]
