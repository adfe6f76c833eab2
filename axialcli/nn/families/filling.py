"""A checkpoint's weights into a network that no model file names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from axialcli.errors import ModelError


@torch.no_grad()
def fill(
    network: nn.Module, weights: Mapping[str, Tensor], *, what: str, parts: tuple[str, ...] = ("",)
) -> None:
    """Copies the weights whose names begin with one of `parts` into the network, and leaves the others.

    what: names the weights in errors. Raises ModelError unless they are exactly those of the network's
    parts, of its shapes, and finite; counters of training steps may be there or not.
    """
    own, given = (
        {name: tensor for name, tensor in some.items() if name.startswith(parts)}
        for some in (network.state_dict(), weights)
    )
    wanted = {name: tensor for name, tensor in own.items() if tensor.is_floating_point()}
    if missing := wanted.keys() - given.keys():
        raise ModelError(f"{what}: lacks the weights {_some(missing)}")
    if unknown := given.keys() - own.keys():
        raise ModelError(f"{what}: has unknown weights {_some(unknown)}")
    for name, tensor in wanted.items():
        if given[name].shape != tensor.shape:
            raise ModelError(
                f"{what}: {name} has shape {tuple(given[name].shape)}, "
                f"the network wants {tuple(tensor.shape)}"
            )
        if not given[name].is_floating_point() or not given[name].isfinite().all():
            raise ModelError(f"{what}: {name} holds no numbers, or some that are NaN or infinity")
    for name, tensor in wanted.items():
        tensor.copy_(given[name])


def _some(names: Iterable[str]) -> str:
    first = sorted(names)
    return ", ".join(first[:3]) + " …" * (len(first) > 3)
