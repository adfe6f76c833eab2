"""Banded attention against the loops of the textbook, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from axialcli.nn.attention import QUERY_CHUNK, AxialAttention, banded_attention


def looped(q_LD: Tensor, k_LD: Tensor, v_LD: Tensor, bias_S: Tensor) -> Tensor:
    """One row, one head, query by query and key by key."""
    length, radius = len(q_LD), len(bias_S) // 2
    rows = []
    for i in range(length):
        keys = [j for j in range(length) if abs(j - i) <= radius]
        logits = [
            float(q_LD[i] @ k_LD[j]) / math.sqrt(q_LD.shape[1]) + float(bias_S[j - i + radius]) for j in keys
        ]
        top = max(logits)
        weights = [math.exp(value - top) for value in logits]
        rows.append(sum(w / sum(weights) * v_LD[j] for w, j in zip(weights, keys, strict=True)))
    return torch.stack(rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [1, 5, QUERY_CHUNK - 1, QUERY_CHUNK, QUERY_CHUNK + 1, 2 * QUERY_CHUNK + 7])
@pytest.mark.parametrize("span", [1, 3, 65])
def test_equals_the_textbook_loops_at_any_length_and_span(length: int, span: int) -> None:
    generator = torch.Generator().manual_seed(length * span)
    q, k, v = torch.randn(3, 2, length, 2, 4, generator=generator, dtype=torch.float64)
    bias = torch.randn(2, span, generator=generator, dtype=torch.float64)

    out = banded_attention(q, k, v, bias)

    for row in range(2):
        for head in range(2):
            want = looped(q[row, :, head], k[row, :, head], v[row, :, head], bias[head])
            assert (out[row, :, head] - want).abs().max() < 1e-12


def test_more_rows_than_a_fused_kernel_takes_at_once() -> None:
    q, k, v = torch.randn(3, 65_536 + 3, 3, 1, 2)
    bias = torch.zeros(1, 3)

    out = banded_attention(q, k, v, bias)

    assert torch.allclose(out[-3:], banded_attention(q[-3:], k[-3:], v[-3:], bias), atol=1e-6)


def test_height_attention_is_width_attention_of_the_transposed_grid() -> None:
    torch.manual_seed(0)
    width = AxialAttention(channels=8, heads=2, span=5, axis="width").double()
    height = AxialAttention(channels=8, heads=2, span=5, axis="height").double()
    torch.nn.init.normal_(width.bias_AS)
    height.load_state_dict(width.state_dict())
    tokens = torch.randn(2, 11, 7, 8, dtype=torch.float64)

    difference = height(tokens) - width(tokens.transpose(1, 2)).transpose(1, 2)

    assert difference.abs().max() < 1e-13


def test_rows_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    layer = AxialAttention(channels=8, heads=2, span=5, axis="width")
    tokens = torch.randn(1, 4, 9, 8)
    other = tokens.clone()
    other[:, 2] += 1

    changed = (layer(tokens) - layer(other)).abs().amax((0, 2, 3))

    assert changed[2] > 1e-3
    assert changed[[0, 1, 3]].max() == 0


@pytest.mark.parametrize("span", [0, 2, -1])
def test_a_span_without_a_centre_is_refused(span: int) -> None:
    with pytest.raises(ValueError, match="odd"):
        AxialAttention(channels=8, heads=2, span=span, axis="width")
