"""How many operations a network does, counted and not estimated."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

SIDE = 512
"""Of the picture that is counted over: a tile. At its edges attention sees less than its span."""


def flops_per_px(network: nn.Module, channels: int, side: int = SIDE) -> float | None:
    """Additions and multiplications of all convolutions and matrix products, per pixel of the input.

    Counted by torch over a picture without numbers, so that neither kernels nor processors play a part:
    attention counts as the two products that it is made of, with all keys that a kernel is handed (a chunk
    of queries shares the keys that any of them sees). Norms and activations do not count. None for a
    network that cannot be followed without numbers.
    """
    ghost = copy.deepcopy(network).to("meta")
    parameter = next(ghost.parameters(), None)
    dtype = torch.float32 if parameter is None else parameter.dtype
    image_BCHW = torch.empty(1, channels, side, side, dtype=dtype, device="meta")
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.inference_mode():
            ghost(image_BCHW)
    except (NotImplementedError, RuntimeError):
        # Code of others may look at numbers, which are not there.
        return None
    return counter.get_total_flops() / side**2
