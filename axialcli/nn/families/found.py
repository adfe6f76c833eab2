"""What a family says about a checkpoint of its public code.

A family is a file of this package: its networks, ARCHITECTURES (what a model file may name), and
`recognise`, which tells its checkpoints by their keys and shapes. Its networks are made of the public keys'
own names wherever those read well, so that weights go in as they are.

A network whose batch norms can be folded has a method `fold`, called once, in evaluation mode, when its
weights are in. A network with learned tables of one length has a setting `beyond`: None keeps to the size
that it was trained at, the others (see ModelHints.positions) say how the tables reach further.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from axialcli.hints import Beyond

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A checkpoint that a family knows: how to build its network, and all that its file does not say.

    family: for people, with the size and the public code that saves such files. architecture, config: for
    `build_network`. weights: by the names of that network; what can be derived is left out. task:
    "segmentation" or "classification". classes: how many the network answers. mean, std: per channel (red,
    green, blue), in units of the full scale. size: height and width, where the network takes no other.
    multiple: heights and widths are multiples of it. network_stride: pixels per token. activation,
    threshold: as in a model file. beyond: the settings of that name that it takes. ask_mpp: trained at no
    resolution of its own, so that whoever runs it has to say one. notes: what a user should know of what is
    and is not as in the public code; unless: such notes that hold where a hint of that name is not given.
    """

    family: str
    architecture: str
    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    task: Literal["segmentation", "classification"]
    classes: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size: tuple[int, int] | None = None
    multiple: int = 1
    network_stride: int = 1
    activation: Literal["softmax", "sigmoid"] = "softmax"
    threshold: float | None = None
    beyond: tuple[Beyond, ...] = ()
    ask_mpp: bool = False
    notes: tuple[str, ...] = ()
    unless: Mapping[str, str] = field(default_factory=dict)


Recognise = Callable[[Mapping[str, Tensor]], Found | None]
"""Tells a family's checkpoint by its keys and shapes; None where it is none of this family. Keys come
without "module.". Raises ModelError where it is one, but of a size that makes no network. Missing keys,
unknown keys and wrong shapes are found when the weights go in."""

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Beyond", "Found", "Recognise"]
