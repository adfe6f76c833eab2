"""Position-sensitive attention against its equation in loops."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from axialcli.backends.torch_model import fold
from axialcli.nn.families import relative
from axialcli.nn.families.position_sensitive import PositionSensitiveAttention
from tests.nn.families import plain_positions
from tests.nn.families.naive_positions import line_in_loops

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"length": 6},
    "gated": {"length": 6, "gated": True},
    "without positions": {"length": None, "positions": False},
}


def shaken(module: nn.Module) -> nn.Module:
    """The module in evaluation mode and float64, every number of its own, statistics far from fresh ones."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape) * 0.7)
            if name.endswith("running_var"):
                tensor.copy_(tensor**2 + 0.2)
    return module.double().eval()


def layer(axis: str = "width", **settings: Any) -> PositionSensitiveAttention:
    made = PositionSensitiveAttention(5, 8, axis=axis, heads=2, **settings)  # type: ignore[arg-type]
    return shaken(made)  # type: ignore[return-value]


def in_loops(module: PositionSensitiveAttention, tokens_BHWC: Tensor, **how: Any) -> Tensor:
    weights = module.state_dict()
    out = torch.zeros(*tokens_BHWC.shape[:3], 8, dtype=torch.float64)
    for batch in range(len(tokens_BHWC)):
        if module.axis == "width":
            for y in range(tokens_BHWC.shape[1]):
                out[batch, y] = line_in_loops(tokens_BHWC[batch, y], weights, heads=2, **how)
        else:
            for x in range(tokens_BHWC.shape[2]):
                out[batch, :, x] = line_in_loops(tokens_BHWC[batch, :, x], weights, heads=2, **how)
    return out


def check(module: PositionSensitiveAttention, tokens: Tensor, expected: Tensor) -> None:
    """To 1e-9 in float64, to 1e-5 of the scale in float32, with the norms and with them folded."""
    with torch.inference_mode():
        torch.testing.assert_close(module(tokens), expected, rtol=0, atol=1e-9)
        scale = float(expected.abs().max().clamp(min=1))
        single = copy.deepcopy(module).float()
        torch.testing.assert_close(single(tokens.float()).double(), expected, rtol=0, atol=1e-5 * scale)
        fold(single)
        assert not any("bn_" in name or name.startswith("f_") for name, _ in single.named_parameters())
        torch.testing.assert_close(single(tokens.float()).double(), expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("axis", ["width", "height"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_layer_is_its_equation(kind: str, axis: str) -> None:
    """The other axis is of another length, and there is a batch."""
    module = layer(axis, **KINDS[kind])
    tokens = torch.randn((2, 3, 6, 5) if axis == "width" else (2, 6, 3, 5), dtype=torch.float64)
    check(module, tokens, in_loops(module, tokens))


@pytest.mark.parametrize("axis", ["width", "height"])
@pytest.mark.parametrize(("span", "tokens"), [(7, 1), (7, 4), (7, 5), (7, 19), (3, 45), (1, 40)])
def test_a_span_is_a_masked_line(axis: str, span: int, tokens: int) -> None:
    module = layer(axis, length=6, span=span)
    given = torch.randn((1, 2, tokens, 5) if axis == "width" else (1, tokens, 2, 5), dtype=torch.float64)
    check(module, given, in_loops(module, given, sees=span // 2))


@pytest.mark.parametrize("tokens", [1, 4, 6, 9, 40])
@pytest.mark.parametrize("beyond", ["local", "clip", "interpolate"])
def test_lines_beyond_the_table(beyond: str, tokens: int) -> None:
    """Within the trained length every way is the table as it was learned."""
    module = layer(length=6, beyond=beyond)
    given = torch.randn(1, 2, tokens, 5, dtype=torch.float64)
    if beyond == "local":
        check(module, given, in_loops(module, given, sees=5))
    elif beyond == "clip":
        check(module, given, in_loops(module, given, row=lambda distance: max(-5, min(5, distance))))
    elif tokens <= 6:
        check(module, given, in_loops(module, given))
    else:
        long = copy.deepcopy(module)
        table = long.relative.detach()
        # Distance d of the long line stands where d * 5 / (tokens - 1) stood: between two that were learned.
        places = [5 + distance * 5 / (tokens - 1) for distance in range(1 - tokens, tokens)]
        below = [min(int(place + 1e-12), 9) for place in places]
        stretched = [
            table[:, low] * (low + 1 - place) + table[:, low + 1] * (place - low)
            for place, low in zip(places, below, strict=True)
        ]
        long.relative = nn.Parameter(torch.stack(stretched, 1))
        check(module, given, in_loops(long, given))


def test_the_plain_formulation_is_the_same() -> None:
    """What whole networks, and speed, are compared with."""
    module = layer(length=6)
    given = torch.randn(1, 2, 6, 5, dtype=torch.float64)
    weights = module.state_dict()
    plain = plain_positions.attention(given[0].transpose(1, 2), weights, plain_positions.gathered(weights, 6))
    torch.testing.assert_close(plain.transpose(1, 2)[None], in_loops(module, given), rtol=0, atol=1e-9)


def test_another_length_is_refused_by_default() -> None:
    with pytest.raises(ValueError, match="learned positions for 6 tokens and gets 7"):
        layer(length=6)(torch.randn(1, 2, 7, 5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"length": 6, "span": 13}, "within a table"),
        ({"length": 6, "span": 4}, "not odd"),
        ({"length": None}, "a length"),
        ({"length": None, "positions": False, "gated": True}, "gates"),
        ({"length": 6, "heads": 3}, "do not divide"),
    ],
)
def test_settings_that_make_no_layer(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PositionSensitiveAttention(5, 8, axis="width", **{"heads": 2, **settings})


@pytest.mark.parametrize(
    "settings", [{"length": 40}, {"length": 6, "span": 11}, {"length": 9, "beyond": "clip"}]
)
def test_lines_and_queries_in_pieces_change_nothing(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = layer("height", **settings)
    tokens = torch.randn(1, 40, 5, 5, dtype=torch.float64)
    expected = module(tokens)
    monkeypatch.setattr(relative, "SCORES", 500)
    monkeypatch.setattr(relative, "LEAST_QUERIES", 7)
    torch.testing.assert_close(module(tokens), expected, rtol=0, atol=1e-12)


def test_some_queries_of_a_longer_line() -> None:
    """What an engine asks for that has the keys of a line and some of its queries."""
    module = layer("height", length=6, span=7)
    tokens = torch.randn(1, 30, 4, 5, dtype=torch.float64)
    found = module.attend(module.queries(tokens[:, 11:17]), module.keys_values(tokens[:, 8:20]), ahead=3)
    torch.testing.assert_close(found, module(tokens)[:, 11:17], rtol=0, atol=1e-12)


def test_gradients_flow_through_the_blocks() -> None:
    module = layer(length=4, gated=True)
    tokens = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda given: module(given), (tokens,))
    module(tokens).sum().backward()
    # What a norm adds to every score of a query alike changes nothing.
    silent = {name for name, part in module.named_parameters() if part.grad is None}
    assert silent == {"bn_similarity.bias"}


@pytest.mark.parametrize("axis", ["width", "height"])
@pytest.mark.parametrize(
    "settings",
    [
        {"length": 9},
        {"length": 9, "gated": True},
        {"length": None, "positions": False},
        {"length": 4, "beyond": "local"},
        {"length": 4, "span": 5, "beyond": "clip"},
        {"length": 4, "beyond": "clip"},
        {"length": 4, "beyond": "interpolate"},
        {"length": 40, "span": 3},
    ],
)
def test_what_is_exported_gives_the_same_numbers(
    axis: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = PositionSensitiveAttention(16, 32, axis=axis, heads=4, **settings).double().eval()  # type: ignore[arg-type]
    for norm in (layer.bn_qkv, layer.bn_similarity, layer.bn_output):
        norm.running_var.uniform_(0.5, 2.0)
        norm.running_mean.normal_()
    # Lines of 40 tokens are several pieces where there is a radius.
    along = settings["length"] or 40
    along = 40 if settings.get("beyond") else along
    size = (3, along) if axis == "width" else (along, 3)
    tokens_BHWC = torch.randn(2, *size, 16, dtype=torch.float64)

    with torch.inference_mode():
        expected = layer(tokens_BHWC)
        monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
        found = layer(tokens_BHWC)

    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
