"""Checkpoints in the layouts of public codes, with numbers of our own, made from shapes by name."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from axialcli.backends.torch_model import load_weights
from axialcli.errors import ModelError
from axialcli.nn import build_network
from axialcli.nn.families import Found, recognise

Shapes = dict[str, tuple[int, ...]]

INTEGERS = ("num_batches_tracked", "flatten_index", "relative_position_index")
STATISTICS = ("running_mean", "running_var")


def batch_norm(name: str, channels: int) -> Shapes:
    parts = ("weight", "bias", *STATISTICS)
    return {**{f"{name}.{part}": (channels,) for part in parts}, f"{name}.num_batches_tracked": ()}


def affine(name: str, *weight: int) -> Shapes:
    """A weight of that shape and a bias."""
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def filled(shapes: Shapes) -> dict[str, Tensor]:
    """Random numbers: weights by their fan-in, gains about 1, statistics far from where training begins."""
    return {name: _random(name, shape) for name, shape in shapes.items()}


def _random(name: str, shape: tuple[int, ...]) -> Tensor:
    if name.endswith(INTEGERS):
        return torch.full(shape, 7)
    if name.endswith("running_var"):
        return torch.rand(shape) * 3 + 0.2
    if name.endswith("running_mean"):
        return torch.randn(shape)
    if len(shape) > 1:
        return torch.randn(shape) / math.sqrt(math.prod(shape[1:]))
    return torch.rand(shape) + 0.5 if name.endswith("weight") else torch.randn(shape) * 0.3


def parameters(shapes: Shapes) -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(INTEGERS + STATISTICS))


def found_in(weights: dict[str, Tensor]) -> Found:
    found = recognise(weights)
    assert found is not None
    return found


def network_of(found: Found, **settings: object) -> torch.nn.Module:
    """The network with its weights in, in evaluation mode."""
    network = build_network(found.architecture, **{**found.config, **settings}).eval()
    load_weights(network, found.weights, "made_up.pth")
    return network


def refusal(weights: dict[str, Tensor]) -> str:
    """The error that a checkpoint ends with, which has one line."""
    with pytest.raises(ModelError) as refused:
        network_of(found_in(weights))
    said = str(refused.value)
    assert len(said.splitlines()) == 1
    return said


def normed(x_BC: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """Batch normalisation with running statistics, channels in axis 1."""
    mean, var, gain, shift = (
        weights[f"{name}.{part}"].double().view(-1, *[1] * (x_BC.ndim - 2))
        for part in (*STATISTICS, "weight", "bias")
    )
    return (x_BC - mean) / torch.sqrt(var + 1e-5) * gain + shift
