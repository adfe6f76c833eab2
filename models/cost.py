"""What a recipe's network costs, and attention in the form that training and counting take."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from axialcli.nn import build_network
from axialcli.nn.attention import AxialAttention

COUNTED_PX = 1024


def flops_per_pixel(recipe: dict[str, Any]) -> float:
    """Floating-point operations of one pixel: of a tile of the model's size, or of a large picture.

    Counted are products of matrices and convolutions, two operations for a multiplication and an addition.
    Of attention that is every query with every key that it sees, however a kernel groups them.
    """
    height, width = recipe["input"].get("size") or (COUNTED_PX, COUNTED_PX)
    # Sizes are all that counting needs.
    with torch.device("meta"):
        network = build_network(**recipe["network"]).eval()
        picture = torch.empty(1, len(recipe["input"]["channels"]), height, width)
    attention: list[int] = []
    for module in network.modules():
        if isinstance(module, AxialAttention):
            module.forward = partial(_count, module, attention)  # type: ignore[method-assign]
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(picture)
    return float((counter.get_total_flops() + sum(attention)) / (height * width))


def _count(module: AxialAttention, attention: list[int], tokens: Tensor) -> Tensor:
    """The projections of an attention, which are counted elsewhere; notes what attending itself costs."""
    seen = module.span or tokens.shape[-2 - module.after]
    attention.append(2 * 2 * tokens.numel() * seen)
    return module.proj(module.qkv(tokens)[..., : tokens.shape[-1]])  # type: ignore[no-any-return]


def attend_at_once(network: torch.nn.Module) -> None:
    """Takes the form of attention that exporters see: piece by piece, the way back costs ten times the way
    there, because small pictures in large batches are many pieces. The numbers are the same."""
    for module in network.modules():
        if isinstance(module, AxialAttention):
            module.forward = module._forward_traceable  # type: ignore[method-assign]
