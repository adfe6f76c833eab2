"""How many operations a network does, counted and not estimated."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from axialcli.nn.attention import AxialAttention

SIDE = 512
"""Of the picture that is counted over: a tile. At its edges attention sees less than its span."""


def flops_per_px(network: nn.Module, channels: int, side: int | tuple[int, int] = SIDE) -> float | None:
    """Additions and multiplications of all convolutions and matrix products, per pixel of the input.

    side: of the picture that is counted over, or its height and width.

    Counted by torch over a picture without numbers, so that neither kernels nor processors play a part:
    attention counts as the two products that it is made of; that along an axis with the keys that a query
    sees, however a kernel groups them. Norms and activations do not count. None for a network that cannot
    be followed without numbers.
    """
    height, width = (side, side) if isinstance(side, int) else side
    ghost = copy.deepcopy(network).to("meta")
    parameter = next(ghost.parameters(), None)
    dtype = torch.float32 if parameter is None else parameter.dtype
    image_BCHW = torch.empty(1, channels, height, width, dtype=dtype, device="meta")
    counter = FlopCounterMode(display=False)
    attention: list[int] = []
    for module in ghost.modules():
        if isinstance(module, AxialAttention):
            module.forward = partial(_count, module, attention)  # type: ignore[method-assign]
    try:
        with counter, torch.inference_mode():
            ghost(image_BCHW)
    except (NotImplementedError, RuntimeError):
        # Code of others may look at numbers, which are not there.
        return None
    return (counter.get_total_flops() + sum(attention)) / (height * width)


def _count(
    module: AxialAttention, attention: list[int], tokens: Tensor, mask: Tensor | None = None
) -> Tensor:
    """The projections of an attention, which the counter sees; notes what attending itself costs."""
    seen = module.span or tokens.shape[-2 - module.after]
    q = module.qkv(tokens)[..., : module.inner]
    attention.append(2 * 2 * q.numel() * seen)
    return module.proj(q)  # type: ignore[no-any-return]
