"""Linear layers in one pass over their numbers: product, bias and activation, by oneDNN on a processor.

torch copies a bias into the output before it multiplies, and runs through the output once more for an
activation; on a core or two that is a fifth of the layer's time.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.nn.eager import eager

Activation = Literal["none", "gelu"]

LEAST_NUMBERS: dict[Activation, int] = {"none": 1 << 20, "gelu": 1 << 18}
"""Smaller outputs, which stay in a processor's cache, are made as fast in several passes, or faster."""


@functools.cache
def _dtypes() -> tuple[torch.dtype, ...]:
    """The dtypes in which this torch has, on this processor, the step that does all three.

    torch's own compiler uses it, which is no promise that it stays.
    """
    if not (torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return ()
    bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (torch.float32, torch.bfloat16) if bfloat16 else (torch.float32,)


def linear(x: Tensor, weight_OC: Tensor, bias_O: Tensor | None, activation: Activation = "none") -> Tensor:
    """What F.linear gives, and F.gelu of it where asked for: [..., C] -> [..., O], in the weights' dtype.

    In one pass where torch can: on a processor, in float32 or a bfloat16 that the processor has, with no
    gradient wanted, nothing being traced, and enough to do. Equal to the two steps up to rounding.
    """
    # The size comes last: of what is being traced it may be a symbol, on which there is no branch.
    if not (_at_once(x, weight_OC, bias_O) and _numbers(x, weight_OC) >= LEAST_NUMBERS[activation]):
        y = F.linear(x, weight_OC, bias_O)
        return F.gelu(y) if activation == "gelu" else y
    return torch.ops.mkldnn._linear_pointwise(x, weight_OC, bias_O, activation, [], "none")  # type: ignore[no-any-return]


def _numbers(x: Tensor, weight_OC: Tensor) -> int:
    """Of the output."""
    return x.shape[:-1].numel() * len(weight_OC)


def _at_once(x: Tensor, weight_OC: Tensor, bias_O: Tensor | None) -> bool:
    return (
        eager(x, weight_OC, bias_O)
        and x.device.type == "cpu"
        and x.dtype == weight_OC.dtype
        and x.dtype in _dtypes()
    )


class FusedLinear(nn.Linear):
    """A linear layer in one pass, with the activation that follows it: [..., C] -> [..., O]."""

    def __init__(self, layer: nn.Linear, activation: Activation = "none") -> None:
        """Shares the weights of `layer`."""
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.activation: Activation = activation
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias, self.activation)


def fuse(network: nn.Module) -> None:
    """Exchanges the linear layers of a network, in place, for ones in one pass.

    Where an exact GELU follows in the same nn.Sequential it becomes part of the layer. A layer that stands
    in several places remains one; what has hooks stays as it is.
    """
    made: dict[tuple[nn.Linear, Activation], FusedLinear] = {}
    for module in list(network.modules()):
        for name, child in list(module._modules.items()):
            if type(child) is not nn.Linear or _is_watched(child):
                continue
            follower = _exact_gelu_behind(module, name)
            activation: Activation = "gelu" if follower else "none"
            module._modules[name] = made.setdefault((child, activation), FusedLinear(child, activation))
            if follower:
                module._modules[follower] = nn.Identity().train(module.training)


def _exact_gelu_behind(module: nn.Module, name: str) -> str | None:
    """The name of the GELU that follows a child of a Sequential, if one does."""
    if type(module) is not nn.Sequential:
        return None
    names = list(module._modules)
    behind = names[names.index(name) + 1 :][:1]
    found = module._modules[behind[0]] if behind else None
    exact = type(found) is nn.GELU and found.approximate == "none" and not _is_watched(found)
    return behind[0] if exact else None


def _is_watched(module: nn.Module) -> bool:
    """Whether somebody's code runs whenever the module does."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
