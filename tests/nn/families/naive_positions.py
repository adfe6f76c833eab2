"""Position-sensitive attention as its equation stands, number by number, in float64.

Shapes: L tokens of a line, C channels, A heads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

EPS = 1e-5


def normed(value: float, weights: Mapping[str, Tensor], norm: str, channel: int) -> float:
    """Batch normalisation with running statistics, of one number."""
    mean, var, gain, shift = (
        float(weights[f"{norm}.{part}"][channel])
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (value - mean) / math.sqrt(var + EPS) * gain + shift


def line_in_loops(
    tokens_LC: Tensor,
    weights: Mapping[str, Tensor],
    *,
    heads: int,
    sees: int | None = None,
    row: Callable[[int], int] = int,
) -> Tensor:
    """One line [L, C] through the public layout's keys: [L, planes].

    sees: how far a query sees, None for the whole line. row: the distance whose vectors stand for this one.
    """
    length = len(tokens_LC)
    planes = weights["qkv_transform.weight"].shape[0] // 2
    of_head, half = planes // heads, planes // heads // 2
    has_table = "relative" in weights
    middle = weights["relative"].shape[1] // 2 if has_table else 0

    def vector(first: int, count: int, distance: int) -> list[float]:
        return [
            float(number) for number in weights["relative"][first : first + count, middle + row(distance)]
        ]

    def gate(name: str) -> float:
        return float(weights[name]) if name in weights else 1.0

    projected = (tokens_LC.double() @ weights["qkv_transform.weight"][:, :, 0].double().t()).tolist()
    for line in projected:
        line[:] = [normed(number, weights, "bn_qkv", channel) for channel, number in enumerate(line)]
    out = torch.zeros(length, planes, dtype=torch.float64)
    for head, i in itertools.product(range(heads), range(length)):
        at = 2 * of_head * head
        q = projected[i][at : at + half]
        seen = [j for j in range(length) if sees is None or abs(i - j) <= sees]
        scores = []
        for j in seen:
            k = projected[j][at + half : at + of_head]
            score = normed(dot(q, k), weights, "bn_similarity", head)
            if has_table:
                of_q = dot(q, vector(0, half, i - j)) * gate("f_qr")
                of_k = dot(k, vector(half, half, j - i)) * gate("f_kr")
                score += normed(of_q, weights, "bn_similarity", heads + head)
                score += normed(of_k, weights, "bn_similarity", 2 * heads + head)
            scores.append(score)
        powers = [math.exp(score - max(scores)) for score in scores]
        for channel in range(of_head):
            place = of_head * head + channel
            content = position = 0.0
            for j, power in zip(seen, powers, strict=True):
                weight = power / sum(powers)
                content += weight * projected[j][at + of_head + channel]
                if has_table:
                    position += weight * vector(of_head + channel, 1, i - j)[0]
            if has_table:
                out[i, place] = normed(content * gate("f_sv"), weights, "bn_output", 2 * place)
                out[i, place] += normed(position * gate("f_sve"), weights, "bn_output", 2 * place + 1)
            else:
                out[i, place] = normed(content, weights, "bn_output", place)
    return out


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))
