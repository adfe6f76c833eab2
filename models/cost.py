"""What a recipe's network costs, and attention in the form that training and counting take."""

from __future__ import annotations

from typing import Any

import torch

from axialcli.bench.flops import flops_per_px
from axialcli.nn import build_network
from axialcli.nn.attention import AxialAttention

COUNTED_PX = 1024


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
    """Takes the form of attention that exporters see: piece by piece, the way back costs ten times the way
    there, because small pictures in large batches are many pieces. The numbers are the same."""
    for module in network.modules():
        if isinstance(module, AxialAttention):
            module.forward = module._forward_traceable  # type: ignore[method-assign]
