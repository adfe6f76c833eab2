"""VMINet as it is plainly written down, from its weights: norms as norms, and the sum over all tokens as a
linear layer over the whole matrix of tokens and channels, masked by multiplying it (v2)."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.nn.families.plain_positions import Weights, norm, under


def vminet(image: Tensor, weights: Weights) -> Tensor:
    x = norm(_convolved(image, weights, "stem.0.conv", stride=2), weights, "stem.0.bn")
    x = F.relu6(x)
    for stage in range(4):
        own = under(weights, f"stages.{stage}.")
        x, number = norm(_convolved(x, own, "0.conv", stride=2), own, "0.bn"), 1
        while part := under(own, f"{number}."):
            x, number = _block(x, part), number + 1
    return F.linear(norm(x, weights, "norm").mean((2, 3)), weights["head.weight"], weights["head.bias"])


def _convolved(x: Tensor, weights: Weights, name: str, *, stride: int = 1, groups: int = 1) -> Tensor:
    weight = weights[f"{name}.weight"]
    edge = weight.shape[-1] // 2
    return F.conv2d(x, weight, weights[f"{name}.bias"], stride=stride, padding=edge, groups=groups)


def _block(x: Tensor, weights: Weights) -> Tensor:
    first = "dwconv.conv.weight" in weights
    spatial = "dwconv" if first else "conv"
    mixed = norm(_convolved(x, weights, f"{spatial}.conv", groups=x.shape[1]), weights, f"{spatial}.bn")
    hidden = F.relu6(_convolved(mixed, weights, "f1.conv")) * _convolved(mixed, weights, "f2.conv")
    hidden_BPC = hidden.flatten(2).transpose(1, 2)
    if not first:
        hidden_BPC = hidden_BPC * _mask(*hidden_BPC.shape[1:], dtype=x.dtype)
    sums_BC1 = F.linear(hidden_BPC.transpose(1, 2), weights["sum.weight"])
    joined = weights["stack"][0] * sums_BC1[..., None] + weights["stack"][1] * hidden
    made = _convolved(F.relu6(joined), weights, "g.conv")
    return x + (norm(made, weights, "g.bn") if first else made)


@cache
def _mask(tokens: int, channels: int, *, dtype: torch.dtype) -> Tensor:
    return torch.ones(tokens, channels, dtype=dtype).tril()
