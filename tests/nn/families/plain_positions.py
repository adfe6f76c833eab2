"""Position-sensitive attention and its residual networks as they are plainly written down: the tables
gathered for all pairs, one einsum a term, norms as norms.

Shapes: N lines, C channels, L tokens, A heads, D channels of a query or key, E of a value; B, H, W, K.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]


class Kept(dict[str, Tensor]):
    """Weights that are cut by a prefix once, for those who take times."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights)
        self.cut: dict[str, Kept] = {}


def under(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """The weights whose names begin with a prefix, without it."""
    if isinstance(weights, Kept):
        if prefix not in weights.cut:
            weights.cut[prefix] = Kept(under(dict(weights), prefix))
        return weights.cut[prefix]
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    parts = (weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *parts)


def gathered(weights: Weights, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """The vectors of all pairs, [D, L, L], [D, L, L] and [E, L, L], as a network of one size keeps them."""
    place = torch.arange(length)
    table = weights["relative"][:, place[:, None] - place[None] + weights["relative"].shape[1] // 2]
    half = len(table) // 4
    return table[:half].clone(), table[half : 2 * half].clone(), table[2 * half :].clone()


def attention(
    x_NCL: Tensor, weights: Weights, tables: tuple[Tensor, Tensor, Tensor], sees: Tensor | None = None
) -> Tensor:
    """Lines of channels [N, C, L] -> [N, planes, L]. sees: bool [L, L], who is seen; None for all."""
    lines, _, length = x_NCL.shape
    heads = len(weights["bn_similarity.weight"]) // 3
    of_query, of_key, of_place, of_value = (weights.get(f"f_{name}") for name in ("qr", "kr", "sve", "sv"))
    qkv = norm(F.conv1d(x_NCL, weights["qkv_transform.weight"]), weights, "bn_qkv")
    q, k, v = (
        part.contiguous()
        for part in qkv.view(lines, heads, -1, length).split([len(table) for table in tables], dim=2)
    )
    scores = torch.cat(
        (
            torch.einsum("nadi,nadj->naij", q, k),
            _gated(torch.einsum("nadi,dij->naij", q, tables[0]), of_query),
            _gated(torch.einsum("nadj,dji->naij", k, tables[1]), of_key),
        ),
        dim=1,
    )
    scores = norm(scores, weights, "bn_similarity").view(lines, 3, heads, length, length).sum(1)
    if sees is not None:
        scores = scores.masked_fill(~sees, float("-inf"))
    attended = scores.softmax(-1)
    content = _gated(torch.einsum("naij,naej->naei", attended, v), of_value)
    place = _gated(torch.einsum("naij,eij->naei", attended, tables[2]), of_place)
    both = torch.stack((content, place), 3).reshape(lines, -1, length)
    return norm(both, weights, "bn_output").view(lines, -1, 2, length).sum(2)


def without_positions(x_NCL: Tensor, weights: Weights) -> Tensor:
    """The same without tables: MedT's local branch."""
    lines, _, length = x_NCL.shape
    heads = len(weights["bn_similarity.weight"])
    qkv = norm(F.conv1d(x_NCL, weights["qkv_transform.weight"]), weights, "bn_qkv")
    half = qkv.shape[1] // heads // 4
    q, k, v = qkv.view(lines, heads, -1, length).split([half, half, 2 * half], dim=2)
    scores = norm(torch.einsum("nadi,nadj->naij", q, k), weights, "bn_similarity")
    content = torch.einsum("naij,naej->naei", scores.softmax(-1), v)
    return norm(content.reshape(lines, -1, length), weights, "bn_output")


def _gated(term: Tensor, gate: Tensor | None) -> Tensor:
    return term if gate is None else term * gate


def along(x_BCHW: Tensor, weights: Weights, axis: str, span: int | None) -> Tensor:
    """The attention of one axis over a whole picture."""
    lines = x_BCHW.permute(0, 3, 1, 2) if axis == "hight" else x_BCHW.permute(0, 2, 1, 3)
    length = lines.shape[3]
    if "relative" not in weights:
        return _back(without_positions(lines.flatten(0, 1), weights), lines, axis)
    place = torch.arange(length)
    distance = (place[:, None] - place[None]).abs()
    sees = None if span is None else distance <= span // 2
    if length > weights["relative"].shape[1] // 2 + 1:
        # Distances that a table lacks are not seen either.
        longer = length - weights["relative"].shape[1] // 2 - 1
        weights = {**weights, "relative": F.pad(weights["relative"], (longer, longer))}
    made = attention(lines.flatten(0, 1), weights, gathered(weights, length), sees)
    return _back(made, lines, axis)


def _back(made: Tensor, lines: Tensor, axis: str) -> Tensor:
    """Lines [N, C, L] as a picture [B, C, H, W]."""
    made = made.view(*lines.shape[:2], -1, lines.shape[3])
    return made.permute(0, 2, 3, 1) if axis == "hight" else made.permute(0, 2, 1, 3)


def block(x: Tensor, weights: Weights, stride: int, span: int | None) -> Tensor:
    made = norm(F.conv2d(x, weights["conv_down.weight"]), weights, "bn1").relu()
    for axis in ("hight", "width"):
        made = along(made, under(weights, f"{axis}_block."), axis, span)
    if stride > 1:
        # Of an odd side the last row counts twice, which is the mean of what there is.
        made = F.pad(made, (0, made.shape[3] % 2, 0, made.shape[2] % 2), mode="replicate")
        made = F.avg_pool2d(made, stride)
    made = norm(F.conv2d(made.relu(), weights["conv_up.weight"]), weights, "bn2")
    if "downsample.0.weight" in weights:
        x = norm(F.conv2d(x, weights["downsample.0.weight"], stride=stride), weights, "downsample.1")
    return (made + x).relu()


def stages(image: Tensor, weights: Weights, *, last_stride: int = 2, span: int | None = None) -> list[Tensor]:
    """The features of the four stages."""
    x = norm(F.conv2d(image, weights["conv1.weight"], stride=2, padding=3), weights, "bn1").relu()
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    found = []
    for stage, stride in zip(range(1, 5), (1, 2, 2, last_stride), strict=True):
        number = 0
        while part := under(weights, f"layer{stage}.{number}."):
            x = block(x, part, stride if number == 0 else 1, span)
            number += 1
        found.append(x)
    return found
