"""What exporters see of attention, against what everybody else runs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from axialcli.nn.attention import AxialAttention, Positions
from axialcli.nn.traceable import LEAST_QUERIES
from axialcli.nn.windows import WindowAttention
from tests.nn.test_attention import lively

KINDS = st.sampled_from(
    [(1, "bias"), (3, "bias"), (33, "bias"), (5, "rotary"), (5, "none"), (None, "rotary"), (None, "none")]
)


def as_an_exporter(module: torch.nn.Module, tokens: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_exporting", lambda: True)
        return module(tokens)  # type: ignore[no-any-return]


@settings(max_examples=60)
@given(
    grid=st.lists(st.integers(1, 2 * LEAST_QUERIES + 3), min_size=1, max_size=3).map(tuple),
    axis=st.integers(0, 2),
    kind=KINDS,
    batch=st.integers(1, 2),
)
def test_axial_attention_is_the_same(
    grid: tuple[int, ...], axis: int, kind: tuple[int | None, Positions], batch: int
) -> None:
    span, positions = kind
    module = lively(
        AxialAttention(channels=8, heads=2, axis=axis % len(grid), span=span, positions=positions)
    )
    tokens = torch.randn(batch, *grid, 8, dtype=torch.float64)

    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        want = module(tokens)
        got = as_an_exporter(module, tokens, patch)

    assert (got - want).abs().max() < 1e-9


@settings(max_examples=40)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    window=st.integers(1, 4),
    positions=st.sampled_from(["bias", "none"]),
)
def test_attention_in_windows_is_the_same(height: int, width: int, window: int, positions: Positions) -> None:
    module = lively(WindowAttention(channels=8, heads=2, window=window, positions=positions))
    tokens_BHWC = torch.randn(2, height, width, 8, dtype=torch.float64)

    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        want = module(tokens_BHWC)
        got = as_an_exporter(module, tokens_BHWC, patch)

    assert (got - want).abs().max() < 1e-9


def test_a_mask_cannot_be_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    module = AxialAttention(channels=8, heads=2, axis="width", span=3, positions="bias")
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)

    with pytest.raises(NotImplementedError, match="mask"):
        module(torch.zeros(1, 2, 3, 8), torch.ones(1, 2, 3, dtype=torch.bool))
