"""Softmax attention with relative vectors for queries, keys and values, block by block.

A table has one vector per distance. What distance alone decides meets each query in a window of the table
that moves on by one from query to query: a view, so that nothing is gathered, and batched products read the
table where it lies.

Shapes: N lines, A heads, Q queries and K keys of a block, D channels of a query or key, E of a value, T
distances of a table, M = A * N lines of all heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SCORES = 2**18
"""Scores that exist at a time, so that they stay near the core between one step and the next."""

LEAST_QUERIES = 32
"""Queries of a block: at the least where a line is very long, and where they see no farther than a span."""


@dataclass(frozen=True, kw_only=True)
class Relative:
    """Vectors of the distances -(T // 2) to T // 2, shared by all heads.

    query_DT and value_TE go by query minus key, key_DT by key minus query. radius: nobody sees farther;
    None where everybody sees the whole line, and then the table reaches over it.
    """

    query_DT: Tensor
    key_DT: Tensor
    value_TE: Tensor
    radius: int | None


def attend_relative(
    out_NQAE: Tensor,
    q_NQAD: Tensor,
    k_NKAD: Tensor,
    v_NKAE: Tensor,
    *,
    scale_3A: Tensor,
    place_AE: Tensor,
    relative: Relative | None,
    ahead: int = 0,
) -> None:
    """Writes into `out` what each query sees on its line.

    The score of query i and key j is s0 q_i k_j + s1 q_i r^q_(i-j) + s2 k_j r^k_(j-i), and the answer is the
    sum over j of the softmax of that with v_j + place * r^v_(i-j): Wang et al. 2020 (arXiv 2003.07853),
    equation 4, times what norms make of its parts. scale_3A: s0, s1, s2 of each head. relative: None for
    no positions. ahead: query i stands where key i + ahead stands. Inputs and `out` may be views of any
    strides. At most SCORES scores exist at a time, or those of one line and LEAST_QUERIES queries.
    """
    lines, queries, heads = q_NQAD.shape[:3]
    keys = k_NKAD.shape[1]
    radius = None if relative is None else relative.radius
    if radius is not None and keys > 2 * radius + 1:
        block = LEAST_QUERIES
    else:
        block = max(LEAST_QUERIES, SCORES // (heads * keys))
    block = min(block, queries)
    tables = None if relative is None else _tables(relative, block)
    for start in range(0, queries, block):
        stop = min(start + block, queries)
        first, last = 0, keys
        if radius is not None:
            first, last = max(0, start + ahead - radius), min(keys, stop + ahead + radius)
        at_once = max(1, SCORES // (heads * (stop - start) * (last - first)))
        for line in range(0, lines, at_once):
            rows = slice(line, line + at_once)
            out_NQAE[rows, start:stop] = _attend_block(
                q_NQAD[rows, start:stop],
                k_NKAD[rows, first:last],
                v_NKAE[rows, first:last],
                scale_3A,
                place_AE,
                tables,
                start + ahead - first,
            )


@dataclass(frozen=True)
class _Tables:
    """All in one order: by query minus key from the largest, distance 0 at `middle`.

    Where there is a radius, query_DT has a row more, of what is added to a score: 0, or beyond the radius
    so low a number that nothing of the score remains.
    """

    query_DT: Tensor
    key_DT: Tensor
    value_TE: Tensor
    middle: int


def _tables(relative: Relative, block: int) -> _Tables:
    query_DT, key_DT, value_TE = relative.query_DT.flip(1), relative.key_DT, relative.value_TE.flip(0)
    middle, radius = query_DT.shape[1] // 2, relative.radius
    if radius is None:
        return _Tables(query_DT, key_DT.clone(), value_TE, middle)
    seen = slice(middle - radius, middle + radius + 1)
    # A block's windows reach beyond the radius by as many as it has queries.
    query_DT, key_DT = (F.pad(part[:, seen], (block, block)) for part in (query_DT, key_DT))
    low_T = query_DT.new_full((query_DT.shape[1],), torch.finfo(query_DT.dtype).min / 4)
    low_T[block : block + 2 * radius + 1] = 0
    value_TE = F.pad(value_TE[seen], (0, 0, block, block))
    return _Tables(torch.cat((query_DT, low_T[None])), key_DT, value_TE, radius + block)


def _attend_block(
    q_NQAD: Tensor,
    k_NKAD: Tensor,
    v_NKAE: Tensor,
    scale_3A: Tensor,
    place_AE: Tensor,
    tables: _Tables | None,
    ahead: int,
) -> Tensor:
    """The answer [N, Q, A, E] to queries of which the first stands where key `ahead` stands."""
    (lines, queries, heads), keys = q_NQAD.shape[:3], k_NKAD.shape[1]
    content_A, query_A, key_A = scale_3A[:, :, None, None, None].unbind(0)
    # Last query first: so the windows of the tables move on from each to the next, as strides have to.
    q_ANQD = q_NQAD.flip(1).permute(2, 0, 1, 3)
    k_ANKD = k_NKAD.permute(2, 0, 1, 3)
    v_MKE = v_NKAE.permute(2, 0, 1, 3).reshape(heads * lines, keys, -1)
    scores_MQK = torch.bmm((q_ANQD * content_A).flatten(0, 1), k_ANKD.flatten(0, 1).transpose(1, 2))
    if tables is not None:
        first = tables.middle - (queries - 1) - ahead
        q_MQD = (q_ANQD * query_A).flatten(0, 1)
        if tables.query_DT.shape[0] > q_MQD.shape[-1]:
            q_MQD = F.pad(q_MQD, (0, 1), value=1.0)
        table_QDK = _windows(tables.query_DT, queries, keys, first)
        scores_MQK += torch.bmm(q_MQD.transpose(0, 1), table_QDK).transpose(0, 1)
        k_KMD = (k_ANKD * key_A).flatten(0, 1).transpose(0, 1)
        table_KDQ = _windows(tables.key_DT, keys, queries, first)
        scores_MQK += torch.bmm(k_KMD, table_KDQ).permute(1, 2, 0)
    weights_MQK = scores_MQK.softmax(-1)
    out_ANQE = torch.bmm(weights_MQK, v_MKE).view(heads, lines, queries, -1)
    if tables is not None:
        table_QKE = _windows(tables.value_TE.t(), queries, keys, first).transpose(1, 2)
        place_QME = torch.bmm(weights_MQK.transpose(0, 1), table_QKE)
        place_ANQE = place_QME.view(queries, heads, lines, -1).permute(1, 2, 0, 3)
        out_ANQE += place_ANQE * place_AE[:, None, None]
    return out_ANQE.permute(1, 2, 0, 3).flip(1)


def _windows(table_DT: Tensor, count: int, width: int, first: int) -> Tensor:
    """[count, D, width]: of number i the columns from `first` + i on; a view."""
    along = table_DT.stride(1)
    return table_DT.as_strided(
        (count, table_DT.shape[0], width),
        (along, table_DT.stride(0), along),
        table_DT.storage_offset() + first * along,
    )
