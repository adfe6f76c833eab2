"""Axial attention against the loops of the textbook, in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from axialcli.nn import attention, banded
from axialcli.nn.attention import QUERY_CHUNK, AxialAttention, Axis, Positions
from tests.nn.loops import axial_in_loops


def lively(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The module in float64 with weights that leave nothing at zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.double().parameters():
        with torch.no_grad():
            parameter.normal_(0, 0.3, generator=generator)
    return module


def axial(
    axis: Axis | int, span: int | None, positions: Positions, *, channels: int = 8, seed: int = 0
) -> AxialAttention:
    module = AxialAttention(channels=channels, heads=2, axis=axis, span=span, positions=positions)
    return lively(module, seed)  # type: ignore[return-value]


KINDS = st.sampled_from(
    [(1, "bias"), (3, "bias"), (5, "bias"), (3, "rotary"), (5, "none"), (None, "rotary"), (None, "none")]
)


@settings(max_examples=40)
@given(
    grid=st.lists(st.integers(1, 6), min_size=2, max_size=3).map(tuple),
    axis=st.integers(0, 2),
    kind=KINDS,
    batch=st.integers(1, 2),
    masked=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_axis_of_any_grid_equals_the_textbook_loops(
    grid: tuple[int, ...], axis: int, kind: tuple[int | None, Positions], batch: int, masked: bool, seed: int
) -> None:
    module = axial(axis % len(grid), *kind, seed=seed)
    tokens = torch.randn(batch, *grid, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    # Dense enough padding that whole lines, and all that a query sees, are sometimes gone.
    mask = torch.rand(tokens.shape[:-1], generator=torch.Generator().manual_seed(seed)) < 0.5
    mask = mask if masked else None  # type: ignore[assignment]

    want = axial_in_loops(module, tokens, mask)

    with torch.inference_mode():
        assert (module(tokens, mask) - want).abs().max() < 1e-9
        assert (module.float()(tokens.float(), mask) - want).abs().max() < 1e-5


@pytest.mark.parametrize("length", [QUERY_CHUNK - 1, QUERY_CHUNK, QUERY_CHUNK + 1, 2 * QUERY_CHUNK + 7])
@pytest.mark.parametrize(
    ("span", "masked"), [(3, False), (65, True), (65, False), (2 * QUERY_CHUNK + 1, True)]
)
def test_lines_longer_than_a_chunk_equal_full_attention_to_the_same_keys(
    length: int, span: int, masked: bool
) -> None:
    module = axial("height", span, "bias")
    tokens = torch.randn(1, length, 2, 8, dtype=torch.float64)
    mask = torch.rand(1, length, 2) < (0.3 if masked else 1)
    mask[:, : length // 2, 0] &= not masked

    want = full_attention_to_the_same_keys(module, tokens, mask)

    assert (module(tokens, mask if masked else None) - want).abs().max() < 1e-9


def full_attention_to_the_same_keys(module: AxialAttention, tokens_BHWC: Tensor, mask_BHW: Tensor) -> Tensor:
    """Global attention over all tokens of the grid, in which a matrix says who sees whom; axis "height"."""
    _, height, width, channels = tokens_BHWC.shape
    q, k, v = module.qkv(tokens_BHWC).view(1, height * width, 3, 2, -1).permute(2, 0, 3, 1, 4)
    y, x = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    offset, radius = y[None, :] - y[:, None], (module.span or 0) // 2
    sees = (x[None, :] == x[:, None]) & (offset.abs() <= radius) & mask_BHW.view(1, -1)
    bias = module.bias_AS[:, (offset + radius).clamp(0, 2 * radius)]
    scores = q @ k.transpose(-1, -2) / math.sqrt(channels // 2) + bias
    weights = scores.masked_fill(~sees, -math.inf).softmax(-1).nan_to_num(0)
    return module.proj((weights @ v).transpose(1, 2).reshape(tokens_BHWC.shape))  # type: ignore[no-any-return]


@pytest.mark.parametrize("span", [3, None])
@pytest.mark.parametrize("axis", ["width", "height"])
def test_a_query_that_sees_no_key_gets_the_output_bias_and_gradients_stay_finite(
    axis: Axis, span: int | None
) -> None:
    module = axial(axis, span, "none")
    tokens = torch.randn(1, 4, 4, 8, dtype=torch.float64, requires_grad=True)

    out = module(tokens, torch.zeros(1, 4, 4, dtype=torch.bool))
    out.sum().backward()

    assert torch.equal(out, module.proj.bias.expand_as(out))
    assert tokens.grad is not None
    assert torch.equal(tokens.grad, torch.zeros_like(tokens))


@pytest.mark.parametrize(
    ("span", "positions"), [(3, "bias"), (3, "rotary"), (None, "rotary"), (None, "none")]
)
@pytest.mark.parametrize("axis", ["width", "height"])
def test_gradients_are_those_of_finite_differences(
    axis: Axis, span: int | None, positions: Positions
) -> None:
    module = axial(axis, span, positions, channels=4)
    tokens = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    weights = [parameter.detach().clone().requires_grad_() for parameter in module.parameters()]
    names = [name for name, _ in module.named_parameters()]

    def run(tokens: Tensor, *weights: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(names, weights, strict=True)), tokens)

    assert torch.autograd.gradcheck(run, (tokens, *weights))


@pytest.mark.parametrize("axis", ["width", "height"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("span", [3, None])
def test_more_lines_than_a_fused_kernel_takes_at_once(
    axis: Axis, masked: bool, span: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(banded, "kernel", lambda: "torch")
    module = axial(axis, span, "none", channels=4).float()
    tokens = torch.randn(1, 3, 65_536 + 3, 4)
    tokens = tokens.transpose(1, 2).contiguous() if axis == "width" else tokens
    mask = torch.rand(tokens.shape[:-1]) < 0.7 if masked else None
    last = tokens[:, -3:] if axis == "width" else tokens[:, :, -3:]
    last_mask = None if mask is None else mask[:, -3:] if axis == "width" else mask[:, :, -3:]
    batches = []
    fused = F.scaled_dot_product_attention

    def counting(q: Tensor, *args: Tensor, **kwargs: Tensor) -> Tensor:
        batches.append(len(q))
        return fused(q, *args, **kwargs)

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", counting)
    with torch.inference_mode():
        out, want = module(tokens, mask), module(last, last_mask)

    assert max(batches) < 65_536
    assert torch.allclose(out[:, -3:] if axis == "width" else out[:, :, -3:], want, atol=1e-6)


@pytest.mark.parametrize("axis", ["width", "height"])
@pytest.mark.parametrize(("span", "positions"), [(5, "bias"), (5, "rotary"), (None, "rotary"), (5, "none")])
def test_parts_put_together_over_keys_in_any_order_equal_forward(
    axis: Axis, span: int | None, positions: Positions
) -> None:
    module = axial(axis, span, positions)
    tokens = torch.randn(1, 9, 9, 8, dtype=torch.float64)
    order = torch.randperm(9)

    q, kv = module.queries(tokens, start=70), module.keys_values(tokens, start=70)
    band = module.band(torch.arange(70, 79), order + 70)
    if axis == "height":
        q, kv = q.transpose(1, 2), kv.transpose(1, 2)
    k, v = kv[:, :, order].unbind(-3)
    scores = q.transpose(2, 3) @ k.permute(0, 1, 3, 4, 2) / 2
    weights = (scores if band is None else scores + band).softmax(-1)
    out = (weights @ v.transpose(2, 3)).transpose(2, 3)
    out = module.project(out.transpose(1, 2) if axis == "height" else out)

    assert (band is None) == (span is None)
    assert band is None or (band.shape == (2, 9, 9) and band.dtype == torch.float64)
    assert (out - module(tokens)).abs().max() < 1e-9


def test_rotary_positions_are_as_exact_at_100_000_as_at_0() -> None:
    module = axial("width", None, "rotary", channels=64)
    tokens = torch.randn(1, 1, 40, 64, dtype=torch.float64)
    exact = scores(module, tokens, 0)

    near, far = (scores(module.float(), tokens.float(), start).double() for start in (0, 100_000))

    noise = (near - exact).abs().max()
    assert 0 < noise < 1e-5 * exact.abs().max()
    # Angles in float32 would be a hundred times worse.
    assert (far - exact).abs().max() < 3 * noise
    assert (scores(module.double(), tokens, 100_000) - scores(module, tokens, 0)).abs().max() < 1e-8


def scores(module: AxialAttention, tokens: Tensor, start: int) -> Tensor:
    with torch.inference_mode():
        q, k = module.queries(tokens, start), module.keys_values(tokens, start).select(-3, 0)
        return torch.einsum("bhqad,bhkad->bhaqk", q, k)


@pytest.mark.parametrize("span", [3, None])
def test_lines_do_not_see_each_other(span: int | None) -> None:
    module = axial("width", span, "rotary")
    tokens = torch.randn(1, 4, 9, 8, dtype=torch.float64)
    other = tokens.clone()
    other[:, 2] += 1

    changed = (module(tokens) - module(other)).abs().amax((0, 2, 3))

    assert changed[2] > 1e-3
    assert changed[[0, 1, 3]].max() == 0


@pytest.mark.parametrize("axis", ["width", "height"])
@pytest.mark.parametrize("masked", [False, True])
def test_no_matrix_of_scores_is_made(axis: Axis, masked: bool) -> None:
    module = AxialAttention(channels=16, heads=8, axis=axis, span=None, positions="rotary")
    tokens = torch.randn(1, 192, 192, 16)
    mask = torch.rand(1, 192, 192) < 0.5 if masked else None

    with torch.inference_mode(), torch.profiler.profile(profile_memory=True) as profile:
        module(tokens, mask)

    # All that operators took, added up as if nothing had been given back; a mask of its own for each
    # query would take an eighth of the scores of eight heads.
    taken = sum(max(0, event.self_cpu_memory_usage) for event in profile.events())
    scores = 8 * 192 * 192 * 192 * 4
    assert tokens.nbytes < taken < scores / 6


def test_the_axis_has_a_name_or_a_number() -> None:
    tokens = torch.randn(1, 3, 4, 5, 8, dtype=torch.float64)
    for number, name in enumerate(("width", "height", "depth")):
        assert torch.equal(axial(number, 3, "bias")(tokens), axial(name, 3, "bias")(tokens))  # type: ignore[arg-type]

    assert axial(1, 3, "bias").axis == 1
    with pytest.raises(ValueError, match="a grid of 3 axes has none with 3 behind it"):
        axial(3, 3, "bias")(tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"span": 0}, "odd"),
        ({"span": 2}, "odd"),
        ({"span": -1}, "odd"),
        ({"span": None}, "a relative bias needs a span"),
        ({"heads": 3}, "8 channels do not divide into 3 heads"),
        ({"heads": 8, "positions": "rotary"}, "1 channels a head are odd"),
        ({"axis": "time"}, "axis 'time' is neither width, height, depth nor a number"),
        ({"axis": -1}, "axis -1 is neither"),
    ],
)
def test_sizes_that_make_no_attention_are_refused(change: dict[str, object], message: str) -> None:
    sizes = {"channels": 8, "heads": 2, "span": 5, "axis": "width", "positions": "bias"} | change
    with pytest.raises(ValueError, match=message):
        AxialAttention(**sizes)  # type: ignore[arg-type]
