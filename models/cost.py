"""What a recipe's network costs, and attention in the form that training and counting take."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from axialcli.bench.flops import flops_per_px
from axialcli.nn import build_network
from axialcli.nn.attention import AxialAttention

COUNTED_PX = 1024

WHOLE_LINE = 96
"""Tokens of a line up to which all its scores at once are quicker than windows of keys, in training."""


def flops_per_pixel(recipe: dict[str, Any]) -> float:
    """Floating-point operations of one pixel: of a tile of the model's size, or of a large picture.

    Counted are products of matrices and convolutions, two operations for a multiplication and an addition.
    Of attention that is every query with every key that it sees, however a kernel groups them.
    """
    # Sizes are all that counting needs.
    with torch.device("meta"):
        network = build_network(**recipe["network"]).eval()
    size = tuple(recipe["input"].get("size") or (COUNTED_PX, COUNTED_PX))
    counted = flops_per_px(network, len(recipe["input"]["channels"]), size)
    assert counted is not None, "our own networks are followed without numbers"
    return counted


def attend_at_once(network: torch.nn.Module) -> None:
    """Takes a form of attention for training: piece by piece, the way back costs ten times the way there,
    because small pictures in large batches are many pieces. The numbers are the same."""
    for module in network.modules():
        if isinstance(module, AxialAttention):
            module.forward = functools.partial(_attend_at_once, module)  # type: ignore[method-assign]


def _attend_at_once(attention: AxialAttention, tokens: Tensor) -> Tensor:
    """`attention.forward`, from the scores of a whole line where it is short, else as exporters see it."""
    along = tokens.ndim - 2 - attention.after
    length = tokens.shape[along]
    if attention.span is None or length > WHOLE_LINE or attention.positions == "rotary":
        return attention._forward_traceable(tokens)
    parts = attention.qkv(tokens).chunk(3, -1)
    q, k, v = (part.unflatten(-1, (attention.heads, -1)).movedim(along, -2) for part in parts)
    steps_L = torch.arange(length, device=tokens.device)
    band_ALL = attention.band(steps_L, steps_L)
    assert band_ALL is not None, "there is a span"
    weight = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + band_ALL.to(q.dtype)).softmax(-1)
    return attention.project((weight @ v).movedim(-2, along))
