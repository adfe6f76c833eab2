"""Attention as the textbook writes it: loops over lines, heads, queries and keys, in float64.

Shapes: B batch, C channels, A heads, S span, L tokens of a line, D channels of a head.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from axialcli.nn.attention import AxialAttention

Sees = Callable[[tuple[int, ...], tuple[int, ...]], bool]
Bias = Callable[[int, tuple[int, ...], tuple[int, ...]], float]


def places_of(grid: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All places of a grid, last axis fastest."""
    return list(itertools.product(*map(range, grid)))


def rotated(vector_D: Tensor, position: float) -> Tensor:
    """Each pair of channels (i, i + D / 2) as a complex number, turned by position * 100 ** (-2 i / D)."""
    half = len(vector_D) // 2
    angles = torch.tensor(
        [position * 100 ** (-2 * i / len(vector_D)) for i in range(half)], dtype=torch.float64
    )
    turned = torch.complex(vector_D[:half], vector_D[half:]) * torch.polar(torch.ones(half).double(), angles)
    return torch.cat([turned.real, turned.imag])


def attended(
    q: dict[tuple[int, ...], Tensor],
    k: dict[tuple[int, ...], Tensor],
    v: dict[tuple[int, ...], Tensor],
    sees: Sees,
    bias: Callable[[tuple[int, ...], tuple[int, ...]], float],
) -> dict[tuple[int, ...], Tensor]:
    """One head: every query over the keys that it sees, number by number; 0 where it sees none."""
    out = {}
    for here, query_D in q.items():
        keys = [there for there in k if sees(here, there)]
        scores = [float(query_D @ k[there]) / math.sqrt(len(query_D)) + bias(here, there) for there in keys]
        weights = [math.exp(score - max(scores)) for score in scores]
        out[here] = sum(
            (w / sum(weights) * v[there] for w, there in zip(weights, keys, strict=True)),
            torch.zeros_like(query_D),
        )
    return out


def projected_heads(qkv: torch.nn.Module, tokens: Tensor, heads: int) -> Tensor:
    """[B, *grid, 3, A, D] in float64, from the module's own weights."""
    weight, bias = qkv.weight.detach().double(), qkv.bias.detach().double()  # type: ignore[operator]
    made = tokens.double() @ weight.t() + bias
    return made.reshape(*tokens.shape[:-1], 3, heads, -1)


def in_loops(
    module: torch.nn.Module, tokens: Tensor, sees: Sees, bias: Bias, along: int | None = None
) -> Tensor:
    """Attention over tokens [B, *grid, C] with the module's weights; places tell who sees whom.

    along: the grid axis whose positions turn queries and keys; None for no rotary positions.
    """
    heads: int = module.heads  # type: ignore[assignment]
    parts = projected_heads(module.qkv, tokens, heads)  # type: ignore[arg-type]
    out = torch.zeros(*tokens.shape[:-1], heads, parts.shape[-1], dtype=torch.float64)
    for batch, head in itertools.product(range(len(tokens)), range(heads)):
        q, k, v = (
            {place: parts[(batch, *place, i, head)] for place in places_of(tuple(tokens.shape[1:-1]))}
            for i in range(3)
        )
        if along is not None:
            q = {place: rotated(vector, place[along]) for place, vector in q.items()}
            k = {place: rotated(vector, place[along]) for place, vector in k.items()}
        one = attended(
            q,
            k,
            v,
            lambda here, there, batch=batch: sees((batch, *here), (batch, *there)),  # type: ignore[misc]
            lambda here, there, head=head: bias(head, here, there),  # type: ignore[misc]
        )
        for place, vector in one.items():
            out[(batch, *place, head)] = vector
    proj = module.proj
    return out.flatten(-2) @ proj.weight.detach().double().t() + proj.bias.detach().double()  # type: ignore[no-any-return]


def axial_in_loops(module: AxialAttention, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """What an AxialAttention is to give, in float64."""
    along = tokens.ndim - 3 - module.after
    radius = math.inf if module.span is None else module.span // 2

    def sees(here: tuple[int, ...], there: tuple[int, ...]) -> bool:
        line = [i for i in range(1, len(here)) if i != along + 1]
        return (
            all(here[i] == there[i] for i in line)
            and abs(here[along + 1] - there[along + 1]) <= radius
            and (mask is None or bool(mask[there]))
        )

    def bias(head: int, here: tuple[int, ...], there: tuple[int, ...]) -> float:
        if module.positions != "bias":
            return 0.0
        return float(module.bias_AS.detach()[head, there[along] - here[along] + module.bias_AS.shape[1] // 2])

    return in_loops(module, tokens, sees, bias, along if module.positions == "rotary" else None)
