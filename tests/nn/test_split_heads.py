"""Half of the heads along each axis: against CSWin's attention with stripes one token wide, in loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from axialcli.bench.flops import flops_per_px
from axialcli.nn import build_network
from axialcli.nn.split_heads import SplitHeadsAttention
from tests.nn.test_attention import lively

CHANNELS, HEADS = 8, 4


def cswin_weights() -> dict[str, Tensor]:
    """As CSWin has them: one projection to queries, keys and values, one back, 3 x 3 for each half."""
    half = CHANNELS // 2
    shapes = {
        "qkv.weight": (3 * CHANNELS, CHANNELS), "qkv.bias": (3 * CHANNELS,),
        "proj.weight": (CHANNELS, CHANNELS), "proj.bias": (CHANNELS,),
        "attns.0.get_v.weight": (half, 1, 3, 3), "attns.0.get_v.bias": (half,),
        "attns.1.get_v.weight": (half, 1, 3, 3), "attns.1.get_v.bias": (half,),
    }  # fmt: skip
    return {name: torch.randn(shape, dtype=torch.float64) * 0.5 for name, shape in shapes.items()}


def cswin_in_loops(weights: dict[str, Tensor], tokens: Tensor, stripe: int, span: float) -> Tensor:
    """Stripes `stripe` tokens wide, upright for the first half of the channels and lying for the second.

    span: how many tokens of a stripe of width one a token sees; infinite in CSWin.
    """
    _, height, width, _ = tokens.shape
    half, size = CHANNELS // 2, CHANNELS // HEADS
    out = torch.zeros_like(tokens)
    places = [(y, x) for y in range(height) for x in range(width)]
    for b in range(len(tokens)):
        made = {p: weights["qkv.weight"] @ tokens[(b, *p)] + weights["qkv.bias"] for p in places}
        for channel in range(CHANNELS):
            lying, head = channel // half, channel // size

            def stripe_of(place: tuple[int, int], lying: int = lying) -> int:
                return place[1 - lying] // stripe

            def number(part: int, place: tuple[int, int], head: int = head, made: Any = made) -> Tensor:
                first = part * CHANNELS + head * size
                return made[place][first : first + size]  # type: ignore[no-any-return]

            for here in places:
                weight = {
                    there: math.exp(float(number(0, here) @ number(1, there)) * size**-0.5)
                    for there in places
                    if stripe_of(there) == stripe_of(here) and abs(there[lying] - here[lying]) <= span / 2
                }
                for there, one in weight.items():
                    out[(b, *here, channel)] += (
                        one / sum(weight.values()) * made[there][2 * CHANNELS + channel]
                    )
                kernel = weights[f"attns.{lying}.get_v.weight"][channel % half, 0]
                out[(b, *here, channel)] += weights[f"attns.{lying}.get_v.bias"][channel % half]
                for dy, dx in ((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                    there = (here[0] + dy, here[1] + dx)
                    if there in made and stripe_of(there) == stripe_of(here):
                        value = made[there][2 * CHANNELS + channel]
                        out[(b, *here, channel)] += kernel[dy + 1, dx + 1] * value
    return out @ weights["proj.weight"].t() + weights["proj.bias"]


def of_cswin(weights: dict[str, Tensor], span: int | None) -> Any:
    """The same weights, as the docstring tells where they go."""
    module: Any = SplitHeadsAttention(channels=CHANNELS, heads=HEADS, span=span).double()
    half = CHANNELS // 2
    with torch.no_grad():
        for lying, (attention, local) in enumerate(
            ((module.height, module.local_height), (module.width, module.local_width))
        ):
            rows = torch.cat([torch.arange(half) + part * CHANNELS + lying * half for part in range(3)])
            attention.qkv.weight.copy_(weights["qkv.weight"][rows])
            attention.qkv.bias.copy_(weights["qkv.bias"][rows])
            attention.proj.weight.copy_(weights["proj.weight"][:, lying * half : (lying + 1) * half])
            attention.proj.bias.copy_(weights["proj.bias"] * (0.25, 0.75)[lying])
            kernel = weights[f"attns.{lying}.get_v.weight"]
            local.weight.copy_(kernel[:, :, 1:2] if lying else kernel[..., 1:2])
            local.bias.copy_(weights[f"attns.{lying}.get_v.bias"])
    return module


@pytest.mark.parametrize("size", [(3, 4), (4, 3), (1, 5), (5, 1), (1, 1)])
@pytest.mark.parametrize("span", [None, 1, 3])
def test_it_is_cswin_with_stripes_one_token_wide(size: tuple[int, int], span: int | None) -> None:
    weights = cswin_weights()
    tokens = torch.randn(2, *size, CHANNELS, dtype=torch.float64)
    module = of_cswin(weights, span)

    want = cswin_in_loops(weights, tokens, 1, math.inf if span is None else span)

    with torch.no_grad():
        assert (module(tokens) - want).abs().max() < 1e-9
        assert (module.float()(tokens.float()) - want).abs().max() < 1e-5


def test_the_loops_tell_wider_stripes_apart() -> None:
    """Were the reference deaf to the stripe, it would prove nothing."""
    weights, tokens = cswin_weights(), torch.randn(1, 3, 4, CHANNELS, dtype=torch.float64)

    assert (cswin_in_loops(weights, tokens, 2, math.inf) - of_cswin(weights, None)(tokens)).abs().max() > 0.1


def test_positions_go_to_both_halves() -> None:
    module = SplitHeadsAttention(channels=8, heads=4, span=3, positions="bias")

    assert module.height.bias_AS.shape == module.width.bias_AS.shape == (2, 3)


def test_gradients_flow() -> None:
    module: Any = lively(SplitHeadsAttention(channels=4, heads=2, span=3))
    tokens = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(module, (tokens,))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"channels": 6, "heads": 3}, "3 heads have no halves"),
        ({"channels": 6, "heads": 4}, "6 channels do not divide into 4 heads"),
        ({"channels": 8, "heads": 4, "span": 2}, "it has to be odd"),
        ({"channels": 6, "heads": 2, "positions": "rotary"}, "3 channels a head are odd"),
    ],
)
def test_sizes_that_make_no_attention_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplitHeadsAttention(**{"span": 3, **sizes})


def test_operations_are_counted_for_the_channels_that_a_pass_has() -> None:
    """The attention of two halves costs half of that of two whole passes, whatever is around it."""
    sizes: dict[str, Any] = {"width": (4, 4, 8), "heads": 2, "depth": 1}

    def cost(attention: str, span: int) -> float:
        network = build_network("axial_segmenter", **sizes, attention=attention, span=span).eval()
        counted = flops_per_px(network, 3, 16)
        assert counted is not None
        return counted

    more = {kind: cost(kind, 63) - cost(kind, 1) for kind in ("axial", "split_heads")}
    assert more["split_heads"] == pytest.approx(more["axial"] / 2)
