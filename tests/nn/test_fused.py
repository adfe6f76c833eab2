"""Linear layers in one pass, against the product written out in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.nn import build_network
from axialcli.nn.fused import FusedLinear, fuse, linear


@pytest.fixture(autouse=True, params=["in one pass", "by size"])
def passes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' layers are small: each runs with and without the size that one pass wants."""
    if request.param == "in one pass":
        monkeypatch.setattr("axialcli.nn.fused.LEAST_NUMBERS", {"none": 1, "gelu": 1})


def by_hand(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """In float64: y = W x + b; the exact GELU is y times the normal distribution's share below y."""
    y = torch.einsum("...c,oc->...o", x.double(), weight.double())
    y = y if bias is None else y + bias.double()
    return y * (1 + torch.erf(y / math.sqrt(2))) / 2 if activation == "gelu" else y


@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", [(1, 5, 7, 24), (3, 24), (24,)])
def test_a_layer_equals_its_formula(shape: tuple[int, ...], biased: bool, activation: str) -> None:
    x, weight = torch.randn(shape), torch.randn(10, 24)
    bias = torch.randn(10) if biased else None

    for dtype, allowed in ((torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 0.2)):
        given = [None if part is None else part.to(dtype) for part in (x, weight, bias)]
        made = linear(*given, activation)  # type: ignore[arg-type] # x and weight are there

        assert made.dtype == dtype
        assert made.shape == (*shape[:-1], 10)
        assert (made - by_hand(*given, activation)).abs().max() < allowed  # type: ignore[arg-type]


def test_inputs_in_any_strides_and_parts_of_a_weight() -> None:
    x = torch.randn(1, 24, 6, 9).permute(0, 2, 3, 1)[:, 1:5, ::2]
    weight, bias = torch.randn(30, 24), torch.randn(30)

    made = linear(x, weight[10:20], bias[10:20], "gelu")

    assert (made - by_hand(x, weight[10:20], bias[10:20], "gelu")).abs().max() < 1e-5


def test_a_large_layer_equals_its_formula() -> None:
    x, weight, bias = torch.randn(2, 2048, 24), torch.randn(260, 24), torch.randn(260)
    assert x.shape[:-1].numel() * len(weight) > 1 << 20

    assert (linear(x, weight, bias, "gelu") - by_hand(x, weight, bias, "gelu")).abs().max() < 1e-5


def test_no_input_gives_no_output() -> None:
    assert linear(torch.empty(2, 0, 24), torch.randn(10, 24), None).shape == (2, 0, 10)


@pytest.mark.parametrize("wanted", ["x", "weight", "bias"])
def test_gradients_are_those_of_the_formula(wanted: str) -> None:
    layer = FusedLinear(nn.Linear(6, 4), "gelu").requires_grad_(False)
    x = torch.randn(3, 6)
    part = {"x": x, "weight": layer.weight, "bias": layer.bias}[wanted].requires_grad_()

    (found,) = torch.autograd.grad(layer(x).sum(), part)
    (expected,) = torch.autograd.grad(by_hand(x, layer.weight, layer.bias, "gelu").sum(), part)

    assert (found - expected).abs().max() < 1e-5


def test_without_bfloat16_in_the_processor_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = FusedLinear(nn.Linear(6, 4), "gelu").to(torch.bfloat16).requires_grad_(False)
    x = torch.randn(3, 6, dtype=torch.bfloat16)
    monkeypatch.setattr("axialcli.nn.fused._dtypes", lambda: (torch.float32,))

    plain = F.gelu(F.linear(x, layer.weight, layer.bias))

    assert torch.equal(layer(x), plain)


def test_what_somebody_watches_stays_as_it_is() -> None:
    seen: list[str] = []
    network = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.GELU())
    network[1].register_forward_hook(lambda *_: seen.append("gelu"))
    network[2].register_forward_hook(lambda *_: seen.append("linear"))

    fuse(network)
    network(torch.randn(2, 4))

    assert seen == ["gelu", "linear"]


def test_a_fused_network_gives_the_same_and_holds_the_same_weights() -> None:
    network = build_network("axial_segmenter", width=[4, 8, 12], depth=2, heads=3, span=5).eval()
    network.requires_grad_(False)
    image = torch.randn(1, 3, 37, 45)
    plain = network(image)
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    fuse(network)

    assert (network(image) - plain).abs().max() < 1e-5
    assert not any(type(module) in (nn.Linear, nn.GELU) for module in network.modules())
    assert not any(module.training for module in network.modules())
    assert network.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())


def test_a_layer_in_two_places_stays_one_layer() -> None:
    shared = nn.Linear(4, 4)
    network = nn.ModuleDict({"first": shared, "second": nn.Sequential(shared, nn.ReLU())})

    fuse(network)

    assert network["first"] is network["second"][0]


def test_only_an_exact_gelu_right_behind_a_layer_is_taken_into_it() -> None:
    tanh = nn.Sequential(nn.Linear(4, 4), nn.GELU(approximate="tanh"))
    later = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU())
    list_of = nn.ModuleList([nn.Linear(4, 4), nn.GELU()])
    x = torch.randn(5, 4)
    with torch.no_grad():
        before = [tanh(x), later(x), list_of[1](list_of[0](x))]
        for network in (tanh, later, list_of):
            fuse(network)
        after = [tanh(x), later(x), list_of[1](list_of[0](x))]

    assert isinstance(tanh[1], nn.GELU)
    assert isinstance(later[2], nn.GELU)
    assert isinstance(list_of[1], nn.GELU)
    assert all((a - b).abs().max() < 1e-5 for a, b in zip(before, after, strict=True))
