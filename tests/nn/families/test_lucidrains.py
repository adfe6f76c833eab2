"""lucidrains' axial attention against loops, from state_dicts as the package lays them out."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from axialcli.errors import ModelError
from axialcli.nn import ARCHITECTURES
from axialcli.nn.attention import AxialAttention
from axialcli.nn.families import recognise
from axialcli.nn.families.lucidrains import Order, from_state_dict
from tests.nn.families.in_loops import Array, arrays, attended, convolved, layer_normed, random_weights

Shapes = dict[str, tuple[int, ...]]


def attention_shapes(at: str, dim: int, hidden: int) -> Shapes:
    return {
        f"{at}.to_q.weight": (hidden, dim),
        f"{at}.to_kv.weight": (2 * hidden, dim),
        f"{at}.to_out.weight": (dim, hidden),
        f"{at}.to_out.bias": (dim,),
    }


def of_attention(*, axes: int = 2, dim: int = 6, hidden: int = 8) -> dict[str, Tensor]:
    shapes: Shapes = {}
    for axis in range(axes):
        shapes |= attention_shapes(f"axial_attentions.{axis}.fn", dim, hidden)
    return random_weights(shapes)


def part(block: int, one: int, reversible: bool) -> str:
    """Where the first or second of a pair lies."""
    return f"layers.blocks.{block}.{'fg'[one]}.net" if reversible else f"layers.blocks.{block}.{one}"


def of_transformer(
    *,
    reversible: bool,
    depth: int = 2,
    dim: int = 6,
    hidden: int = 8,
    grid: tuple[int, int] | None = None,
) -> dict[str, Tensor]:
    shapes: Shapes = {}
    for index in range(depth):
        for one in range(2):
            attention, fed = part(2 * index, one, reversible), part(2 * index + 1, one, reversible)
            shapes |= {f"{attention}.fn.norm.weight": (dim,), f"{attention}.fn.norm.bias": (dim,)}
            shapes |= attention_shapes(f"{attention}.fn.fn", dim, hidden)
            shapes |= {f"{fed}.0.g": (1, dim, 1, 1), f"{fed}.0.b": (1, dim, 1, 1)}
            shapes |= {f"{fed}.1.weight": (4 * dim, dim, 3, 3), f"{fed}.1.bias": (4 * dim,)}
            shapes |= {f"{fed}.3.weight": (dim, 4 * dim, 3, 3), f"{fed}.3.bias": (dim,)}
    if grid:
        shapes |= {"pos_emb.param_0": (1, dim, grid[0], 1), "pos_emb.param_1": (1, dim, 1, grid[1])}
    return random_weights(shapes)


def along(tokens: Array, weights: Mapping[str, Array], at: str, axis: int, heads: int) -> Array:
    """Attention along one axis of a grid [*grid, D]."""
    out = np.zeros_like(tokens)
    others = [size for index, size in enumerate(tokens.shape[:-1]) if index != axis]
    for place in np.ndindex(*others):
        line = (*place[:axis], slice(None), *place[axis:])
        q = tokens[line] @ weights[f"{at}.to_q.weight"].T
        kv = tokens[line] @ weights[f"{at}.to_kv.weight"].T
        seen = attended(q, kv[:, : q.shape[1]], kv[:, q.shape[1] :], heads)
        out[line] = seen @ weights[f"{at}.to_out.weight"].T + weights[f"{at}.to_out.bias"]
    return out


def fed(features: Array, weights: Mapping[str, Array], at: str) -> Array:
    normed = np.zeros_like(features)
    for y, x in np.ndindex(*features.shape[1:]):
        token = features[:, y, x]
        deviation = math.sqrt(float(((token - token.mean()) ** 2).mean()))
        normed[:, y, x] = (token - token.mean()) / (deviation + 1e-5)
    normed = normed * weights[f"{at}.0.g"][0] + weights[f"{at}.0.b"][0]
    hidden = convolved(normed, weights[f"{at}.1.weight"], weights[f"{at}.1.bias"])
    hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
    return convolved(hidden, weights[f"{at}.3.weight"], weights[f"{at}.3.bias"])


def transformed(features: Array, weights: Mapping[str, Array], *, reversible: bool, heads: int) -> Array:
    """What an AxialImageTransformer of depth 2 makes of [D, H, W]."""

    def made(block: int, one: int, x: Array) -> Array:
        at = part(block, one, reversible)
        if block % 2:
            return fed(x, weights, at)
        tokens = np.moveaxis(x, 0, -1)
        tokens = np.apply_along_axis(
            lambda token: layer_normed(token, weights[f"{at}.fn.norm.weight"], weights[f"{at}.fn.norm.bias"]),
            -1,
            tokens,
        )
        return np.moveaxis(along(tokens, weights, f"{at}.fn.fn", one, heads), -1, 0)

    if "pos_emb.param_0" in weights:
        features = features + weights["pos_emb.param_0"][0] + weights["pos_emb.param_1"][0]
    if not reversible:
        for block in range(4):
            features = features + made(block, 0, features)
            features = features + made(block, 1, features)
        return features
    a = b = features
    for block in range(4):
        a = a + made(block, 0, b)
        b = b + made(block, 1, a)
    return np.mean([a, b], axis=0)


def check(module: torch.nn.Module, given: Tensor, want: Array) -> None:
    with torch.inference_mode():
        scale = max(1.0, float(np.abs(want).max()))
        assert (module(given[None].float())[0] - torch.from_numpy(want)).abs().max() < 1e-5 * scale
        assert (module.double()(given[None])[0] - torch.from_numpy(want)).abs().max() < 1e-9 * scale


@pytest.mark.parametrize("grid", [(5,), (4, 7), (3, 4, 2)])
@pytest.mark.parametrize("order", [None, "parallel", "in_turn"])
def test_an_attention_equals_the_loops(grid: tuple[int, ...], order: Order | None) -> None:
    checkpoint = of_attention(axes=len(grid))
    tokens, weights = torch.randn(*grid, 6, dtype=torch.float64), arrays(checkpoint)

    given = tokens.numpy()
    lines = [f"axial_attentions.{axis}.fn" for axis in range(len(grid))]
    if order == "in_turn":
        want = given
        for axis, at in enumerate(lines):
            want = along(want, weights, at, axis, 4)
    else:
        want = sum((along(given, weights, at, axis, 4) for axis, at in enumerate(lines)), np.zeros(()))

    check(from_state_dict(checkpoint, heads=4, order=order), tokens, want)


@pytest.mark.parametrize("reversible", [False, True])
@pytest.mark.parametrize("positions", [False, True])
def test_an_image_transformer_equals_the_loops(reversible: bool, positions: bool) -> None:
    checkpoint = of_transformer(reversible=reversible, grid=(5, 4) if positions else None)
    features = torch.randn(6, 5, 4, dtype=torch.float64)

    want = transformed(features.numpy(), arrays(checkpoint), reversible=reversible, heads=4)

    check(from_state_dict(checkpoint, heads=4), features, want)


def test_an_attention_as_wide_as_its_input_is_our_own_with_the_weights_side_by_side() -> None:
    checkpoint = of_attention(dim=8, hidden=8)
    tokens, want = torch.randn(2, 5, 6, 8), torch.zeros(2, 5, 6, 8)
    for axis, name in enumerate(("height", "width")):
        own = AxialAttention(channels=8, heads=8, axis=name, span=None, positions="none")  # type: ignore[arg-type]
        at = f"axial_attentions.{axis}.fn"
        stacked = torch.cat((checkpoint[f"{at}.to_q.weight"], checkpoint[f"{at}.to_kv.weight"]))
        own.load_state_dict(
            {
                "qkv.weight": stacked,
                "qkv.bias": torch.zeros(24),
                "proj.weight": checkpoint[f"{at}.to_out.weight"],
                "proj.bias": checkpoint[f"{at}.to_out.bias"],
            }
        )
        want = want + own(tokens)

    assert (from_state_dict(checkpoint)(tokens) - want).abs().max() < 1e-5


def test_projections_with_biases_are_read_too() -> None:
    checkpoint = of_attention()
    biased = {**checkpoint}
    for axis in range(2):
        biased[f"axial_attentions.{axis}.fn.to_q.bias"] = torch.zeros(8)
        biased[f"axial_attentions.{axis}.fn.to_kv.bias"] = torch.zeros(16)
    tokens = torch.randn(1, 3, 4, 6)

    assert torch.allclose(from_state_dict(biased)(tokens), from_state_dict(checkpoint)(tokens))


def test_without_positions_any_size_is_taken_and_with_them_one() -> None:
    free = from_state_dict(of_transformer(reversible=False))
    bound = from_state_dict(of_transformer(reversible=False, grid=(5, 4)))

    assert free(torch.randn(1, 6, 3, 9)).shape == (1, 6, 3, 9)
    for height, width in ((5, 1), (1, 4), (6, 4)):
        with pytest.raises(ValueError, match="there are positions for"):
            bound(torch.randn(1, 6, height, width))


@pytest.mark.parametrize(
    ("checkpoint", "says"),
    [
        (of_attention(axes=3), "AxialAttention: 6 channels, 3 axes, heads of 8 channels"),
        (of_transformer(reversible=False), "AxialImageTransformer: 6 channels, depth 2"),
        (of_transformer(reversible=True), "AxialImageTransformer (reversible): 6 channels, depth 2"),
        (of_transformer(reversible=True, grid=(5, 4)), "positions for 5 x 4"),
    ],
)
def test_the_door_says_what_it_is_and_that_it_has_no_classes(
    checkpoint: Mapping[str, Tensor], says: str
) -> None:
    with pytest.raises(ModelError) as refused:
        recognise(checkpoint)

    assert says in str(refused.value)
    assert "without classes" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not any("lucidrains" in name for name in ARCHITECTURES)


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("layers.blocks.1.1.0.g", None, "lacks the weights layers.blocks.1.1.0.g"),
        ("layers.blocks.1.0.1.weight", None, "lacks the weights layers.blocks.1.0.1.weight"),
        ("head.weight", (2, 6), "unknown weights head.weight"),
        ("layers.blocks.2.0.fn.fn.to_q.weight", (4, 6), "to_q.weight has shape (4, 6)"),
        ("layers.blocks.0.0.fn.fn.to_q.weight", (8,), "has shape (8,)"),
        ("layers.blocks." + "9" * 5000 + ".x", (1,), "5 blocks, which are not pairs"),
        ("pos_emb.param_0", (1, 6, 5, 1), "lacks the weights pos_emb.param_1"),
    ],
)
def test_weights_that_are_not_the_modules_are_one_clear_error(
    name: str, shape: tuple[int, ...] | None, says: str
) -> None:
    checkpoint = of_transformer(reversible=False)
    checkpoint.pop(name, None)
    if shape is not None:
        checkpoint[name] = torch.zeros(shape)

    with pytest.raises(ModelError) as refused:
        from_state_dict(checkpoint)

    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(ModelError):
        recognise(checkpoint)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1j])
def test_weights_that_are_no_finite_numbers_are_refused(value: complex) -> None:
    checkpoint = of_attention()
    name = "axial_attentions.1.fn.to_out.bias"
    checkpoint[name] = torch.full((6,), value)

    with pytest.raises(ModelError, match=f"AxialAttention: {name} holds no numbers"):
        from_state_dict(checkpoint)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match="8 channels do not divide into 3 heads"):
        from_state_dict(of_attention(), heads=3)
    with pytest.raises(ModelError, match="order is a setting of AxialAttention"):
        from_state_dict(of_transformer(reversible=True), order="in_turn")
    with pytest.raises(ModelError, match="lacks axial_attentions"):
        from_state_dict({"head.weight": torch.zeros(2, 2)})
