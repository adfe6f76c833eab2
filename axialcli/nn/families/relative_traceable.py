"""Softmax attention with relative vectors as a fixed number of whole-tensor operations, for exporters.

`attend_relative` goes block by block and line by line; a graph that is to hold for every batch and size has
no such loops, so here the pieces of a line are an axis of their own. The same numbers up to rounding.

Shapes: B batch, A heads, D channels of a query or key, E of a value; lines of L tokens in P pieces of Q
queries and K keys; T distances of a table.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from axialcli.nn.families.relative import Relative
from axialcli.nn.traceable import LEAST_QUERIES


def attend_relative_traceable(
    q: Tensor, k: Tensor, v: Tensor, *, scale_3A: Tensor, place_AE: Tensor, relative: Relative | None
) -> Tensor:
    """What `attend_relative` writes: queries and keys [..., A, L, D] and values [..., A, L, E] of the same
    lines -> [..., A, L, E]."""
    length = q.shape[-2]
    if relative is None or relative.radius is None:
        step_L = torch.arange(length, device=q.device)
        return _attend(q, k, v, scale_3A, place_AE, relative, step_L[:, None] - step_L)
    radius = relative.radius
    queries = max(LEAST_QUERIES, 2 * radius)
    pieces, keys = (length + queries - 1) // queries, queries + 2 * radius
    step_K = torch.arange(keys, device=q.device)
    place_PK = (torch.arange(pieces, device=q.device) * queries - radius)[:, None] + step_K
    # What lies beyond the ends of a line stands for nothing: no query sees it.
    inside_PK = place_PK.clamp(0, length - 1).flatten()
    k, v = (part.index_select(-2, inside_PK).unflatten(-2, (-1, keys)) for part in (k, v))  # type: ignore[no-untyped-call]
    q = F.pad(q, (0, 0, 0, pieces * queries - length)).unflatten(-2, (-1, queries))  # type: ignore[no-untyped-call]
    distance_QK = torch.arange(queries, device=q.device)[:, None] + radius - step_K
    exists_PK = (place_PK >= 0) & (place_PK < length)
    # A query behind the end sees itself, or all its scores would be -inf.
    seen_PQK = ((distance_QK.abs() <= radius) & exists_PK[:, None]) | (distance_QK == 0)
    attended = _attend(q, k, v, scale_3A[..., None], place_AE[:, None], relative, distance_QK, seen_PQK)
    return attended.flatten(-3, -2)[..., :length, :]


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale_3A: Tensor,
    place_AE: Tensor,
    relative: Relative | None,
    distance_QK: Tensor,
    seen_PQK: Tensor | None = None,
) -> Tensor:
    """Scales and places have as many axes of 1 behind the heads as queries have axes between heads and Q."""
    content, of_query, of_key = scale_3A[..., None, None].unbind(0)
    scores = (q * content) @ k.transpose(-1, -2)
    if relative is None:
        return scores.softmax(-1) @ v
    middle = relative.query_DT.shape[1] // 2
    there_QK, back_QK = ((middle + sign * distance_QK).clamp(0, 2 * middle) for sign in (1, -1))
    # [Q, D, K] and [K, D, Q]: one product for each query, and for each key.
    query_QDK = relative.query_DT[:, there_QK].transpose(0, 1)
    key_KDQ = relative.key_DT[:, back_QK].permute(2, 0, 1)
    scores = scores + ((q * of_query)[..., None, :] @ query_QDK)[..., 0, :]
    scores = scores + ((k * of_key)[..., None, :] @ key_KDQ)[..., 0, :].transpose(-1, -2)
    if seen_PQK is not None:
        scores = scores.masked_fill(~seen_PQK, float("-inf"))
    weights = scores.softmax(-1)
    placed = (weights[..., None, :] @ relative.value_TE[there_QK])[..., 0, :]
    return weights @ v + placed * place_AE[:, None]
