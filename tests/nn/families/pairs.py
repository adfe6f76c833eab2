"""Each family's network beside its plain formulation, with the same random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from axialcli.backends.torch_model import fold
from axialcli.nn import build_network
from axialcli.nn.families import lucidrains
from tests.nn.families import plain_transformers
from tests.nn.families.made_up import filled
from tests.nn.families.plain_positions import Kept, Weights, stages
from tests.nn.families.test_lucidrains import of_attention, of_transformer

Plain = Callable[[Tensor, Weights], Tensor]


@dataclass(frozen=True)
class Pair:
    """Two ways to the same numbers. name: what is compared, for people."""

    name: str
    plain: Callable[[], Tensor]
    ours: Callable[[], Tensor]


def pair(name: str, network: nn.Module, plain: Plain, given: Tensor) -> Pair:
    """A network as it runs, in evaluation mode, folded, channels last; and its weights as they were."""
    network = network.eval().requires_grad_(False).to(given.dtype)
    weights = Kept({key: tensor.clone() for key, tensor in network.state_dict().items()})
    fold(network)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # stubs lack it
    return Pair(name, lambda: plain(given, weights), lambda: network(given))


def built(architecture: str, **config: Any) -> nn.Module:
    """A network with random weights, norms far from where training begins."""
    network = build_network(architecture, **config)
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    network.load_state_dict(filled(shapes))
    return network


def of_picture(
    name: str, plain: Plain, architecture: str, size: tuple[int, int], dtype: torch.dtype, **config: Any
) -> Pair:
    label = f"{name}, {size[0]} x {size[1]} px"
    return pair(label, built(architecture, **config), plain, torch.rand(1, 3, *size, dtype=dtype))


def axial_resnet(image: Tensor, weights: Weights) -> Tensor:
    features = stages(image, weights)[-1]
    return nn.functional.linear(features.mean((2, 3)), weights["fc.weight"], weights["fc.bias"])


def of_lucidrains(dtype: torch.dtype, *, dim: int, depth: int, grid: tuple[int, int]) -> list[Pair]:
    """The package has no published network: sizes as they are given."""
    sizes = {"dim": dim, "hidden": dim}
    parallel = lucidrains.from_state_dict(of_attention(**sizes))
    transformer = lucidrains.from_state_dict(
        of_transformer(reversible=True, depth=depth, grid=grid, **sizes), heads=lucidrains.HEADS
    )
    what = f"lucidrains, {dim} channels, {grid[0]} x {grid[1]} tokens"
    heads = lucidrains.HEADS
    tokens_BHWC = torch.randn(1, *grid, dim, dtype=dtype)
    return [
        pair(
            f"{what}: AxialAttention",
            parallel,
            partial(plain_transformers.lucidrains_attention, heads=heads),
            tokens_BHWC,
        ),
        pair(
            f"{what}: AxialImageTransformer, reversible, depth {depth}",
            transformer,
            partial(plain_transformers.lucidrains_transformer, heads=heads),
            tokens_BHWC.permute(0, 3, 1, 2).contiguous(),
        ),
    ]
