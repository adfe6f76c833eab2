"""What the keys and shapes of a checkpoint say about sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from axialcli.errors import ModelError


def shape_of(weights: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    """The shape of a tensor that sizes are read from. Raises ModelError where it has no such many axes."""
    if name not in weights:
        raise ModelError(f"lacks the weights {name}")
    shape = tuple(weights[name].shape)
    if len(shape) != axes or 0 in shape:
        raise ModelError(f"{name} has shape {shape}; sizes are read from {axes} axes, none of them empty")
    return shape


def count_of(weights: Mapping[str, Tensor], prefix: str) -> int:
    """How many parts `prefix`0., `prefix`1., ... a checkpoint has: the highest number and one."""
    # No more digits than any network needs, for Python refuses to read thousands of them.
    numbered = re.compile(re.escape(prefix) + r"([0-9]{1,6})\.")
    found = (numbered.match(name) for name in weights)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def check_three_channels(weights: Mapping[str, Tensor], name: str) -> None:
    """Raises ModelError unless the first convolution, of that name, takes red, green and blue."""
    if (channels := shape_of(weights, name, 4)[1]) != 3:
        raise ModelError(f"{name} takes {channels} channels; red, green and blue are read")
