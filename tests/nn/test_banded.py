"""The compiled band: against number-by-number loops in float64, and against itself in other surroundings."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from axialcli.nn import banded
from axialcli.nn.attention import AxialAttention
from tests.nn.loops import attended

if banded.kernel() == "torch" and not shutil.which("c++"):
    pytest.skip("no compiler, no kernel", allow_module_level=True)

# Where there is a compiler and no kernel, this fails, and with it all that is here.
from axialcli.nn import _banded

KERNELS = _banded.kernels()


def test_the_best_kernel_is_taken() -> None:
    assert KERNELS[-1] == "plain"
    assert banded.kernel() == KERNELS[0]


def in_loops(
    q: Tensor, kv: Tensor, along: int, span: int, bias_AS: Tensor | None, ahead: int, slots: list[int]
) -> Tensor:
    """Every number of [B, H, W, A, D] on its own, in float64."""
    out = torch.zeros(q.shape, dtype=torch.float64)
    lines_q, lines_out = q.double().movedim(along, -2), out.movedim(along, -2)
    lines_k, lines_v = (part.double().movedim(along, -2) for part in kv.unbind(-3))
    for place in torch.cartesian_prod(*(torch.arange(n) for n in lines_q.shape[:-2])).tolist():
        q_LD, k_KD, v_KD = (lines[tuple(place)] for lines in (lines_q, lines_k, lines_v))
        found = attended(
            {(i,): row for i, row in enumerate(q_LD)},
            {(j,): k_KD[slot] for j, slot in enumerate(slots)},
            {(j,): v_KD[slot] for j, slot in enumerate(slots)},
            lambda here, there: abs(here[0] + ahead - there[0]) <= span // 2,
            lambda here, there, head=place[-1]: (  # type: ignore[misc]
                0.0 if bias_AS is None else float(bias_AS[head, there[0] - here[0] - ahead + span // 2])
            ),
        )
        for (i,), row in found.items():
            lines_out[tuple(place)][i] = row
    return out


@settings(max_examples=40)
@given(
    using=st.sampled_from(KERNELS),
    grid=st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 19)),
    turned=st.booleans(),
    heads=st.integers(1, 2),
    channels=st.sampled_from([1, 3, 4, 8, 18]),
    radius=st.integers(0, 5),
    biased=st.booleans(),
    dtype=st.sampled_from(banded.DTYPES),
    seed=st.integers(0, 99),
)
def test_every_kernel_equals_the_loops(
    using: str,
    grid: tuple[int, int, int],
    turned: bool,
    heads: int,
    channels: int,
    radius: int,
    biased: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    batch, height, width = grid if not turned else (grid[0], grid[2], grid[1])
    qkv = torch.randn(batch, height, width, 3, heads, channels, generator=generator).to(dtype)
    q, kv = qkv.select(3, 0), qkv.narrow(3, 1, 2)
    span = 2 * radius + 1
    bias_AS = torch.randn(heads, span, generator=generator) if biased else None
    along = 1 + seed % 2

    got = banded.attend_banded(q, kv, along=along, span=span, bias_AS=bias_AS, using=using)

    want = in_loops(q, kv, along, span, bias_AS, 0, list(range(q.shape[along])))
    assert got.dtype == dtype
    # A bfloat16 is at most 2^-8 of its size away from what it stands for.
    allowed = 1e-5 + (want.abs() / 250 if dtype == torch.bfloat16 else 0)
    assert bool(((got - want).abs() <= allowed).all())


@pytest.mark.parametrize("using", KERNELS)
def test_bfloat16_is_what_float32_gives_rounded_to_the_nearest(using: str) -> None:
    qkv = torch.randn(2, 20, 37, 3, 2, 21).bfloat16()
    narrow, wide = (
        banded.attend_banded(x.select(3, 0), x.narrow(3, 1, 2), along=1, span=7, bias_AS=None, using=using)
        for x in (qkv, qkv.float())
    )
    assert torch.equal(narrow, wide.bfloat16())


@pytest.mark.parametrize("using", KERNELS)
def test_every_bfloat16_comes_back_as_it_is(using: str) -> None:
    """With one key an answer is its value."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)
    q, kv = torch.zeros(1, 2**12, 1, 1, 16).bfloat16(), torch.zeros(1, 2**12, 1, 2, 1, 16).bfloat16()
    kv[0, :, 0, 1, 0] = every.view(-1, 16)

    got = banded.attend_banded(q, kv, along=2, span=1, bias_AS=None, using=using).view(-1)

    number = ~every.isnan()
    assert torch.equal(got[number], every[number])
    assert bool(got[~number].isnan().all())


@pytest.mark.parametrize("using", KERNELS)
def test_keys_may_lie_in_the_order_of_a_ring(using: str) -> None:
    q, kv = torch.randn(1, 4, 21, 2, 8), torch.randn(1, 11, 21, 2, 2, 8)
    bias_AS = torch.randn(2, 7)
    slots = [7, 8, 9, 10, 0, 1, 2, 3, 4]

    got = banded.attend_banded(
        q, kv, along=1, span=7, bias_AS=bias_AS, ahead=3, slots_K=torch.tensor(slots), using=using
    )

    assert (got - in_loops(q, kv, 1, 7, bias_AS, 3, slots)).abs().max() < 1e-5


@pytest.mark.parametrize("using", KERNELS)
@pytest.mark.parametrize("along", [1, 2])
def test_an_answer_does_not_depend_on_what_else_is_in_the_call(using: str, along: int) -> None:
    qkv = torch.randn(1, 200, 150, 3, 2, 12)
    bias_AS = torch.randn(2, 9)

    def attend(part: Tensor) -> Tensor:
        return banded.attend_banded(
            part.select(3, 0), part.narrow(3, 1, 2), along=along, span=9, bias_AS=bias_AS, using=using
        )

    whole, part = attend(qkv), attend(qkv[:, 61:179, 33:140])

    assert torch.equal(part[:, 4:-4, 4:-4], whole[:, 65:175, 37:136])


@pytest.mark.parametrize("using", KERNELS)
@pytest.mark.parametrize("dtype", banded.DTYPES)
@pytest.mark.parametrize("lines", [1, 3, 12, 17])
@pytest.mark.parametrize(("queries", "keys", "ahead"), [(300, 300, 0), (129, 300, 100), (250, 240, -5)])
def test_few_long_lines_are_cut_up_and_answer_the_same(
    using: str,
    dtype: torch.dtype,
    lines: int,
    queries: int,
    keys: int,
    ahead: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, kv = torch.randn(1, lines, queries, 2, 12).to(dtype), torch.randn(1, lines, keys, 2, 2, 12).to(dtype)
    bias_AS = torch.randn(2, 31)
    how: dict[str, Any] = {"along": 2, "span": 31, "bias_AS": bias_AS, "ahead": ahead, "using": using}

    cut = banded.attend_banded(q, kv, **how)
    monkeypatch.setattr(banded, "WASTE", 1.0)
    whole = banded.attend_banded(q, kv, **how)

    assert torch.equal(cut, whole)


def test_lines_that_are_cut_up_equal_the_loops() -> None:
    q, kv = torch.randn(1, 1, 200, 1, 4), torch.randn(1, 1, 200, 2, 1, 4)
    got = banded.attend_banded(q, kv, along=2, span=9, bias_AS=None)
    assert (got - in_loops(q, kv, 2, 9, None, 0, list(range(200)))).abs().max() < 1e-5


@pytest.mark.parametrize("using", KERNELS)
def test_scores_far_apart_neither_overflow_nor_vanish(using: str) -> None:
    q, kv = torch.zeros(1, 1, 3, 1, 4), torch.zeros(1, 1, 3, 2, 1, 4)
    kv[0, 0, :, 1, 0, 0] = torch.tensor([1.0, 2.0, 4.0])
    bias_AS = torch.tensor([[-1e4, 1e4, 1e4 - math.log(3)]])

    got = banded.attend_banded(q, kv, along=2, span=3, bias_AS=bias_AS, using=using)

    # The left key has no weight, the right one a third of the middle one's.
    assert got[0, 0, :, 0, 0].tolist() == pytest.approx([1.25, 2.5, 4.0], abs=1e-3)


def test_lines_of_a_batch_that_is_cut_out_of_a_larger_one() -> None:
    qkv = torch.randn(3, 9, 20, 3, 2, 8)[:, 2:7, 5:]
    q, kv = qkv.select(3, 0), qkv.narrow(3, 1, 2)

    got = banded.attend_banded(q, kv, along=2, span=5, bias_AS=None)

    assert (got - in_loops(q, kv, 2, 5, None, 0, list(range(15)))).abs().max() < 1e-5


def test_queries_beyond_all_keys_are_refused() -> None:
    q, kv = torch.randn(1, 1, 4, 1, 4), torch.randn(1, 1, 6, 2, 1, 4)
    with pytest.raises(ValueError, match="do not all see"):
        banded.attend_banded(q, kv, along=2, span=3, bias_AS=None, ahead=4)


@pytest.mark.parametrize("shape", [(0, 1, 4), (1, 0, 4), (1, 4, 0)])
def test_no_queries_make_no_answers(shape: tuple[int, int, int]) -> None:
    q, kv = torch.randn(*shape, 1, 4), torch.randn(*shape, 2, 1, 4)
    assert banded.attend_banded(q, kv, along=2, span=3, bias_AS=None).shape == q.shape


@pytest.mark.parametrize("using", KERNELS)
def test_a_span_longer_than_the_line_sees_all_of_it(using: str) -> None:
    q, kv = torch.randn(1, 2, 70, 1, 8), torch.randn(1, 2, 70, 2, 1, 8)
    got = banded.attend_banded(q, kv, along=2, span=100_001, bias_AS=None, using=using)
    assert (got - in_loops(q, kv, 2, 100_001, None, 0, list(range(70)))).abs().max() < 1e-5


@pytest.mark.parametrize("using", KERNELS)
def test_a_score_of_minus_infinity_is_no_weight_and_nan_stays(using: str) -> None:
    q, kv = torch.randn(1, 1, 6, 1, 4), torch.randn(1, 1, 6, 2, 1, 4)
    bias_AS = torch.tensor([[-math.inf, 0.3, 0.1]])
    got = banded.attend_banded(q, kv, along=2, span=3, bias_AS=bias_AS, using=using)
    assert (got - in_loops(q, kv, 2, 3, bias_AS, 0, list(range(6)))).abs().max() < 1e-5

    kv[0, 0, 3, 0] = math.nan
    assert banded.attend_banded(q, kv, along=2, span=3, bias_AS=None, using=using)[0, 0, 3].isnan().all()


def test_gradients_masks_and_other_dtypes_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    module = AxialAttention(channels=8, heads=2, axis="width", span=5, positions="bias")
    tokens = torch.randn(1, 2, 9, 8)
    monkeypatch.setattr(banded, "attend_banded", lambda *a, **k: pytest.fail("the kernel has no gradients"))

    module(tokens).sum().backward()
    with torch.inference_mode():
        module(tokens, torch.ones(1, 2, 9, dtype=torch.bool))
        module.double()(tokens.double())
        module.half()(tokens.half())

    assert module.bias_AS.grad is not None
    assert module.bias_AS.grad.abs().sum() > 0


def test_a_bias_alone_can_be_trained() -> None:
    module = AxialAttention(channels=8, heads=2, axis="width", span=5, positions="bias")
    module.qkv.requires_grad_(False)
    module(torch.randn(1, 2, 9, 8)).sum().backward()
    assert module.bias_AS.grad is not None


def test_without_the_kernel_answers_stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    module = AxialAttention(channels=8, heads=2, axis="height", span=5, positions="rotary")
    tokens = torch.randn(1, 40, 9, 8)
    with torch.inference_mode():
        with_kernel = module(tokens)
        monkeypatch.setattr(banded, "kernel", lambda: "torch")
        without = module(tokens)
    assert (with_kernel - without).abs().max() < 1e-5


def test_a_kernel_of_another_processor_is_refused() -> None:
    q, kv = torch.randn(1, 1, 4, 1, 4), torch.randn(1, 1, 4, 2, 1, 4)
    with pytest.raises(ValueError, match="no kernel 'neon9' runs"):
        banded.attend_banded(q, kv, along=2, span=3, bias_AS=None, using="neon9")


def test_the_sources_are_where_the_build_looks_for_them() -> None:
    folder = Path(banded.__file__).parent
    assert {path.name for path in folder.glob("banded*")} >= {"banded.cpp", "banded_lanes.hpp"}
