"""The Axial Transformer's blocks against loops over tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from axialcli.engine.stream import NotStreamable, trace
from axialcli.errors import ModelError
from axialcli.geometry import Size
from axialcli.nn import build_network
from axialcli.nn.families.axial_transformer import AxialTransformer, AxialTransformerConfig
from axialcli.nn.settings import LARGEST
from tests.nn.families.in_loops import Array, arrays, attended, layer_normed, random_weights

SMALL: dict[str, Any] = {
    "classes": 3,
    "token_width": 8,
    "depth": 2,
    "heads": 2,
    "mlp_ratio": 3,
    "stride": 2,
    "trained_grid": (4, 5),
}

Place = Callable[[int, int, Array], Array]


def small(**settings: Any) -> AxialTransformer:
    """With weights that leave nothing at its beginning."""
    network = build_network("axial_transformer", **{**SMALL, **settings}).eval()
    shapes = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    network.load_state_dict(random_weights(shapes))
    assert isinstance(network, AxialTransformer)
    return network


def exactly(row: int, count: int, table: Array) -> Array:
    assert count == len(table)
    return table[row]


def clipped(row: int, count: int, table: Array) -> Array:
    return table[min(row, len(table) - 1)]


def stretched(row: int, count: int, table: Array) -> Array:
    at = min(max((row + 0.5) * len(table) / count - 0.5, 0), len(table) - 1)
    low = int(at)
    return (1 - (at - low)) * table[low] + (at - low) * table[min(low + 1, len(table) - 1)]


def in_loops(network: AxialTransformer, picture: Array, place: Place) -> Array:
    """Logits [K, H, W] of a picture [C, H, W], whose sides are filled up to the stride with zeros."""
    config, weights = network.config, arrays(network.state_dict())
    stride, (channels, height, width) = config.stride, picture.shape
    rows, columns = -(-height // stride), -(-width // stride)
    filled = np.zeros((channels, rows * stride, columns * stride))
    filled[:, :height, :width] = picture

    def linear(token: Array, name: str) -> Array:
        return weights[f"{name}.weight"] @ token + weights[f"{name}.bias"]

    def norm(token: Array, name: str) -> Array:
        return layer_normed(token, weights[f"{name}.weight"], weights[f"{name}.bias"])

    tokens = np.zeros((rows, columns, config.token_width))
    for y in range(rows):
        for x in range(columns):
            patch = filled[:, y * stride : (y + 1) * stride, x * stride : (x + 1) * stride]
            tokens[y, x] = [float((one * patch).sum()) for one in weights["embed.weight"]]
            tokens[y, x] += weights["embed.bias"]
            tokens[y, x] += place(y, rows, weights["positions.pos_h"])
            tokens[y, x] += place(x, columns, weights["positions.pos_w"])
    for index in range(2 * config.depth):
        at = f"blocks.{index}"
        # A row block attends along the width, and the next one, a column block, along the height.
        lines = tokens if index % 2 == 0 else tokens.swapaxes(0, 1)
        lines = lines.copy()
        for line in lines:
            qkv = np.array([linear(norm(token, f"{at}.norm"), f"{at}.attention.qkv") for token in line])
            seen = attended(*np.split(qkv, 3, axis=1), config.heads)
            line += np.array([linear(token, f"{at}.attention.proj") for token in seen])
            for token in line:
                hidden = linear(norm(token, f"{at}.norm_mlp"), f"{at}.mlp.0")
                bent = np.array([h / (1 + math.exp(-1.702 * h)) for h in hidden])
                token += linear(bent, f"{at}.mlp.2")
        tokens = lines if index % 2 == 0 else lines.swapaxes(0, 1)
    logits = np.zeros((config.classes, rows * stride, columns * stride))
    for y in range(rows):
        for x in range(columns):
            pixels = linear(norm(tokens[y, x], "norm"), "head").reshape(config.classes, stride, stride)
            logits[:, y * stride : (y + 1) * stride, x * stride : (x + 1) * stride] = pixels
    return logits[:, :height, :width]


@pytest.mark.parametrize(
    ("beyond", "place", "height", "width"),
    [
        (None, exactly, 8, 10),
        (None, exactly, 7, 9),
        ("clip", clipped, 8, 10),
        ("clip", clipped, 13, 6),
        ("interpolate", stretched, 8, 10),
        ("interpolate", stretched, 5, 17),
    ],
)
def test_a_network_equals_the_equations_in_loops(
    beyond: str | None, place: Place, height: int, width: int
) -> None:
    network, picture = small(beyond=beyond), torch.randn(2, 3, height, width, dtype=torch.float64)

    want = torch.from_numpy(np.stack([in_loops(network, one, place) for one in picture.numpy()]))

    with torch.inference_mode():
        assert (network(picture.float()) - want).abs().max() < 1e-5 * max(1, want.abs().max())
        assert (network.double()(picture) - want).abs().max() < 1e-9


@pytest.mark.parametrize("beyond", ["clip", "interpolate"])
def test_beyond_changes_nothing_on_the_trained_grid(beyond: str) -> None:
    picture = torch.randn(1, 3, 8, 10)

    with torch.inference_mode():
        assert torch.equal(small(beyond=beyond)(picture), small()(picture))


def test_a_fresh_block_changes_nearly_nothing() -> None:
    network = AxialTransformer(AxialTransformerConfig())
    tokens = torch.randn(1, 6, 7, 128)

    assert (network.blocks(tokens) - tokens).abs().max() < 1e-8


def test_a_size_without_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="positions for 4 x 5 tokens, and not for 6"):
        small()(torch.randn(1, 3, 8, 12))


def test_weights_are_as_many_as_the_layers_say() -> None:
    with torch.device("meta"):
        network = AxialTransformer(AxialTransformerConfig(token_width=512, depth=3, heads=16, mlp_ratio=2))
    d = 512
    block = 2 * 2 * d + 4 * (d * d + d) + (d * 2 * d + 2 * d) + (2 * d * d + d)
    around = (3 * 16 + 1) * d + (64 + 64) * d + 2 * d + (d + 1) * 2 * 16

    assert sum(weight.numel() for weight in network.parameters()) == 6 * block + around


def test_a_stream_refuses_it_by_name() -> None:
    with pytest.raises(NotStreamable, match=r"'FactorisedPositions'.*has a table of places"):
        trace(small(beyond="clip"), 3, Size(40, 40))


def test_settings_that_make_no_network_are_refused() -> None:
    with pytest.raises(ModelError, match="8 channels do not divide into 3 heads"):
        small(heads=3)
    with pytest.raises(ModelError, match="beyond is 'local'; it takes one of 'clip', 'interpolate' or null"):
        small(beyond="local")


def test_the_largest_network_stays_under_2_gb_of_weights() -> None:
    names = ("in_channels", "classes", "token_width", "depth", "heads", "mlp_ratio", "stride")
    largest = {name: LARGEST[name] for name in names}
    with torch.device("meta"):
        network = build_network("axial_transformer", trained_grid=(LARGEST["trained_grid"],) * 2, **largest)

    assert sum(weight.nbytes for weight in network.state_dict().values()) < 2e9
