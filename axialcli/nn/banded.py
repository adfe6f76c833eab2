"""Banded attention in one pass over queries and keys, on a processor, compiled from banded.cpp.

torch has no kernel for a band: it computes windows of scores that are masked for the greater part. Here
every query meets the keys of its span alone. Installing builds the kernel where there is a compiler;
where there is none, attention.py does without.

Shapes: B batch, A heads of D channels, S span, Q queries and K keys of a line, N lines.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import math
from collections.abc import Iterator
from types import ModuleType

import torch
from torch import Tensor

from axialcli.nn.eager import eager

SMALL = 32_768
"""Numbers of an output that one thread makes sooner than it would wake another."""

MOST_LANES = 16
"""Lines that the kernel works on at once, at most."""

WASTE = 0.1
"""Share of the lanes that may stay empty before lines are cut up to fill them."""

PIECE = 64
"""Queries of a piece of a line; the kernel's own measure."""

Lines = tuple[Tensor, Tensor, Tensor, Tensor]
"""Answers, queries, keys and values as [N, L, M, A, D]: lines of length L, and M of them side by side."""

DTYPES = (torch.float32, torch.bfloat16)
"""What the kernel reads and writes; it computes in float32."""


@functools.cache
def _compiled() -> ModuleType | None:
    try:
        return importlib.import_module("axialcli.nn._banded")
    except ModuleNotFoundError:
        return None


@functools.cache
def kernel() -> str:
    """What runs here: the name of the widest instructions that the kernel was built for, or "torch"."""
    compiled = _compiled()
    return "torch" if compiled is None else str(compiled.kernels()[0])


def runs(q: Tensor, kv: Tensor, bias_AS: Tensor | None = None) -> bool:
    """Whether the kernel takes these: its dtypes, on a processor, channels together, no gradient wanted."""
    return (
        eager(q, kv, bias_AS)
        and kernel() != "torch"
        and q.dtype == kv.dtype
        and q.dtype in DTYPES
        and q.device.type == "cpu"
        and q.stride(-1) == kv.stride(-1) == 1
    )


def attend_banded(
    q: Tensor,
    kv: Tensor,
    *,
    along: int,
    span: int,
    bias_AS: Tensor | None,
    ahead: int = 0,
    slots_K: Tensor | None = None,
    using: str | None = None,
) -> Tensor:
    """Softmax attention of each query to the keys within span // 2 of it on its line.

    q: [B, *grid, A, D]; kv: [B, *grid, 2, A, D], keys first; as `runs` takes them. along: which dimension
    of both the lines go along. bias_AS: added to the scores, by distance; or None. ahead: query i stands
    where key i + ahead stands. slots_K: where each key of a line lies in `kv`, int64, K of them, where they
    lie in another order; by default in their own. using: one of the kernels that run here, None for the
    best. Every query has to see a key. Returns [B, *grid, A, D], contiguous.

    Where all keys and values are finite, a query's answer depends on those that it sees and not on what else
    is in the call, to the last bit.
    """
    compiled = _compiled()
    if compiled is None:
        raise RuntimeError("the kernel was not built: no compiler was found when axial was installed")
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    if not out.numel():
        return out
    queries, keys = q.shape[along], kv.shape[along] if slots_K is None else len(slots_K)
    radius = span // 2
    if not keys or ahead + radius < 0 or queries - 1 + ahead - radius >= keys:
        raise ValueError(f"{queries} queries from {ahead} on do not all see one of {keys} keys")
    k, v = kv.unbind(-3)
    lines = _flat(out, along), _flat(q, along), _flat(k, along), _flat(v, along)
    bias = None if bias_AS is None else bias_AS.detach().to(torch.float32).contiguous()
    slots = None if slots_K is None else slots_K.to("cpu", torch.int64).contiguous()
    # The kernel gets addresses: `lines`, `bias` and `slots` live as long as they are in use.
    for part, ahead_of_part in _filling(lines, ahead, radius) if slots is None else [(lines, ahead)]:
        out_NLMAD, q_NLMAD, k_NLMAD, _ = part
        compiled.attend(
            using or kernel(),
            q.dtype == torch.bfloat16,
            (_team(), torch.get_num_threads() if out_NLMAD.numel() >= SMALL else 1),
            *(0 if tensor is None else tensor.data_ptr() for tensor in (*part, bias, slots)),
            q_NLMAD.shape[0] * q_NLMAD.shape[2],
            q_NLMAD.shape[2],
            q_NLMAD.shape[1],
            k_NLMAD.shape[1] if slots is None else len(slots),
            ahead_of_part,
            *q.shape[-2:],
            span,
            *(tensor.stride()[:4] for tensor in (out_NLMAD, q_NLMAD, k_NLMAD)),
        )
    return out


def _filling(lines: Lines, ahead: int, radius: int) -> Iterator[tuple[Lines, int]]:
    """The same lines, as they are or cut up so that there are enough of them, and how far each part is ahead.

    A vector holds a number each of MOST_LANES lines. A few long lines, with no others beside them, are cut
    into pieces whose queries all see as many keys; what is left at their ends comes as it is.
    """
    out_NLMAD, q_NLMAD, k_NLMAD, v_NLMAD = lines
    number, queries, keys = len(q_NLMAD), q_NLMAD.shape[1], k_NLMAD.shape[1]
    first = max(0, radius - ahead)
    pieces = (min(queries, keys - radius - ahead) - first) // PIECE
    wasted = -number % MOST_LANES / (number + -number % MOST_LANES)
    if q_NLMAD.shape[2] > 1 or wasted <= WASTE or pieces < 2:
        yield lines, ahead
        return

    def cut(line_NLMAD: Tensor, start: int, length: int) -> Tensor:
        """[N, length, pieces, A, D]: what each piece has from `start` on."""
        of_pieces = line_NLMAD[:, start : start + (pieces - 1) * PIECE + length, 0].unfold(1, length, PIECE)
        return of_pieces.permute(0, 4, 1, 2, 3)

    seen = first + ahead - radius, PIECE + 2 * radius
    yield (
        (
            cut(out_NLMAD, first, PIECE),
            cut(q_NLMAD, first, PIECE),
            cut(k_NLMAD, *seen),
            cut(v_NLMAD, *seen),
        ),
        radius,
    )
    last = first + pieces * PIECE
    for start, stop in ((0, first), (last, queries)):
        if start < stop:
            yield (out_NLMAD[:, start:stop], q_NLMAD[:, start:stop], k_NLMAD, v_NLMAD), ahead + start


def _flat(grid: Tensor, along: int) -> Tensor:
    """[N, L, M, A, D] of [B, *grid, A, D]: the axes before the line and those behind it as one each."""
    return grid.reshape(-1, grid.shape[along], math.prod(grid.shape[along + 1 : -2]), *grid.shape[-2:])


@functools.cache
def _team() -> int:
    """The address of the function that runs work in torch's own threads, or 0 where torch has none.

    Threads of ours would wait for those of torch, which stay awake for a moment after each of its steps.
    """
    try:
        return ctypes.cast(ctypes.CDLL(torch._C.__file__).GOMP_parallel, ctypes.c_void_p).value or 0
    except (AttributeError, OSError):
        return 0
