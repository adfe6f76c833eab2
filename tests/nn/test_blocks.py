"""Blocks in all their configurations, and the other kinds of attention, against what they are said to be."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from axialcli.nn.attention import AxialAttention
from axialcli.nn.blocks import AttentionBlock, AxialBlock
from axialcli.nn.whole_grid import GlobalAttention, SeparableAttention
from axialcli.nn.windows import WindowAttention
from tests.nn.loops import axial_in_loops, in_loops
from tests.nn.test_attention import lively


def normed(norm: Any, tokens: Tensor) -> Tensor:
    """Layer norm by its formula."""
    centred = tokens - tokens.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def fed(mlp: Any, tokens: Tensor) -> Tensor:
    """A feed-forward by its formula."""
    hidden = tokens @ mlp[0].weight.t() + mlp[0].bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    return hidden @ mlp[2].weight.t() + mlp[2].bias  # type: ignore[no-any-return]


def naive_block(block: Any, tokens: Tensor, order: str, axes: list[str], each: bool) -> Tensor:
    """The block as its docstring tells it, over attention in loops."""
    if order == "parallel":
        return after_passes(block, tokens + sum(passed(block, axis, tokens) for axis in axes))
    for axis in sorted(axes, reverse=order == "width_height"):
        tokens = tokens + passed(block, axis, tokens)
        if each and axis != sorted(axes, reverse=order == "width_height")[-1]:
            norm, mlp = (getattr(block, f"{name}_{axis}") for name in ("norm_mlp", "mlp"))
            tokens = tokens + fed(mlp, normed(norm, tokens))
    return after_passes(block, tokens)


def passed(block: Any, axis: str, tokens: Tensor) -> Tensor:
    return axial_in_loops(getattr(block, axis), normed(getattr(block, f"norm_{axis}"), tokens))


def after_passes(block: Any, tokens: Tensor) -> Tensor:
    return tokens + fed(block.mlp, normed(block.norm_mlp, tokens))


@pytest.mark.parametrize(
    ("order", "feed_forward"),
    [("width_height", "both"), ("width_height", "each"), ("height_width", "both"), ("height_width", "each"),
     ("parallel", "both")],
)  # fmt: skip
@pytest.mark.parametrize("axes", [["width", "height"], ["width"], ["height"]])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("span", "positions"), [(3, "bias"), (None, "rotary")])
def test_every_configuration_is_the_composition_that_it_names(
    order: Any, feed_forward: Any, axes: Any, shared: bool, span: int | None, positions: Any
) -> None:
    block: Any = AxialBlock(
        channels=4, heads=2, span=span, mlp_ratio=2, positions=positions,
        order=order, axes=axes, feed_forward=feed_forward, shared=shared,
    )  # fmt: skip
    lively(block).requires_grad_(False)
    tokens = torch.randn(1, 4, 5, 4, dtype=torch.float64)

    want = naive_block(block, tokens, order, axes, feed_forward == "each")

    assert (block(tokens) - want).abs().max() < 1e-9
    if len(axes) == 2:
        assert torch.equal(block.width.qkv.weight, block.height.qkv.weight) == shared
        assert torch.equal(block.width.proj.weight, block.height.proj.weight) == shared


def test_a_mask_reaches_both_passes() -> None:
    block: Any = AxialBlock(channels=4, heads=2, span=None, mlp_ratio=1, positions="none")
    lively(block).requires_grad_(False)
    tokens = torch.randn(1, 5, 6, 4, dtype=torch.float64)
    mask = torch.ones(1, 5, 6, dtype=torch.bool)
    mask[:, 3:] = mask[:, :, 4:] = False

    assert (block(tokens, mask)[:, :3, :4] - block(tokens[:, :3, :4])).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": []}, "a block goes along the width, the height or both"),
        ({"axes": ["depth"]}, "a block goes along the width, the height or both"),
        ({"axes": ["width", "width"]}, "a block goes along the width, the height or both"),
        ({"order": "parallel", "feed_forward": "each"}, "parallel passes end together"),
    ],
)
def test_what_makes_no_block_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AxialBlock(**{"channels": 4, "heads": 2, "span": 3, "mlp_ratio": 1} | change)


@pytest.mark.parametrize("size", [(4, 6), (5, 4), (3, 7), (1, 1), (2, 9)])
@pytest.mark.parametrize("window", [1, 2, 3, 16])
@pytest.mark.parametrize("positions", ["bias", "none"])
def test_windows_equal_the_textbook_loops_and_end_where_the_grid_ends(
    size: tuple[int, int], window: int, positions: Any
) -> None:
    module: Any = lively(WindowAttention(channels=4, heads=2, window=window, positions=positions))
    tokens = torch.randn(2, *size, 4, dtype=torch.float64)
    table = (
        module.bias_AYX.detach() if positions == "bias" else torch.zeros(2, 2 * window - 1, 2 * window - 1)
    )

    want = in_loops(
        module,
        tokens,
        lambda here, there: (
            all(a // window == b // window for a, b in zip(here[1:], there[1:], strict=True))
            and here[0] == there[0]
        ),
        lambda head, here, there: float(
            table[head, there[0] - here[0] + window - 1, there[1] - here[1] + window - 1]
        ),
    )

    with torch.no_grad():
        assert (module(tokens) - want).abs().max() < 1e-9
        assert (module.float()(tokens.float()) - want).abs().max() < 1e-5


def test_more_windows_than_a_fused_kernel_takes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("axialcli.nn.windows.MAX_ROWS", 4)
    module = lively(WindowAttention(channels=4, heads=2, window=2))
    tokens = torch.randn(1, 2, 22, 4, dtype=torch.float64)

    assert (module(tokens)[:, :, 18:] - module(tokens[:, :, 18:])).abs().max() < 1e-12


def test_gradients_flow_through_windows() -> None:
    module: Any = lively(WindowAttention(channels=2, heads=1, window=2))
    tokens = torch.randn(1, 3, 3, 2, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(module, (tokens,))
    module(tokens).sum().backward()
    assert module.bias_AYX.grad.abs().min() > 0


@pytest.mark.parametrize("grid", [(3, 4), (2, 3, 2)])
def test_global_attention_equals_the_textbook_loops(grid: tuple[int, ...]) -> None:
    module = lively(GlobalAttention(channels=4, heads=2))
    tokens = torch.randn(2, *grid, 4, dtype=torch.float64)

    want = in_loops(module, tokens, lambda here, there: here[0] == there[0], lambda *_: 0.0)

    assert (module(tokens) - want).abs().max() < 1e-9


@pytest.mark.parametrize("grid", [(3, 4), (2, 3, 2)])
def test_separable_attention_is_its_formula_token_by_token(grid: tuple[int, ...]) -> None:
    module: Any = lively(SeparableAttention(channels=4)).requires_grad_(False)
    tokens = torch.randn(2, *grid, 4, dtype=torch.float64)
    w, k, v = module.qkv.weight.split((1, 4, 4))
    w0, k0, v0 = module.qkv.bias.split((1, 4, 4))

    out = module(tokens)

    for batch in range(2):
        places = list(itertools.product(*map(range, grid)))
        scores = {p: torch.exp(w[0] @ tokens[(batch, *p)] + w0[0]) for p in places}
        total = sum(scores.values())
        context = sum(scores[p] / total * (k @ tokens[(batch, *p)] + k0) for p in places)
        for p in places:
            value = (v @ tokens[(batch, *p)] + v0).clamp(min=0)
            want = module.proj.weight @ (context * value) + module.proj.bias
            assert (out[(batch, *p)] - want).abs().max() < 1e-9


def test_separable_attention_has_linear_cost() -> None:
    module = SeparableAttention(channels=8)
    taken = []
    for side in (32, 64):
        with torch.inference_mode(), torch.profiler.profile(profile_memory=True) as profile:
            module(torch.randn(1, side, side, 8))
        taken.append(sum(max(0, event.self_cpu_memory_usage) for event in profile.events()))

    assert 3 < taken[1] / taken[0] < 4.5


def test_a_block_of_another_attention_is_pre_norm() -> None:
    block: Any = lively(AttentionBlock(SeparableAttention(channels=4), channels=4, mlp_ratio=2))
    tokens = torch.randn(1, 3, 4, 4, dtype=torch.float64)

    want = after_passes(block, tokens + block.attention(normed(block.norm, tokens)))

    assert (block(tokens) - want).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("module", "sizes", "message"),
    [
        (WindowAttention, {"channels": 4, "heads": 3, "window": 2}, "4 channels do not divide into 3 heads"),
        (WindowAttention, {"channels": 4, "heads": 2, "window": 0}, "the window is 0 tokens wide"),
        (WindowAttention, {"channels": 4, "heads": 2, "window": 2, "positions": "rotary"}, "not rotary"),
        (GlobalAttention, {"channels": 4, "heads": 3}, "4 channels do not divide into 3 heads"),
    ],
)
def test_sizes_that_make_no_attention_are_refused(module: Any, sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(**sizes)


def test_axial_blocks_are_traceable_and_see_each_attention_as_one_operator() -> None:
    class Leaves(torch.fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return isinstance(module, AxialAttention) or super().is_leaf_module(module, name)

    block = AxialBlock(channels=4, heads=2, span=3, mlp_ratio=1, feed_forward="each")
    graph = Leaves().trace(block, concrete_args={"mask": None})
    tokens = torch.randn(1, 5, 3, 4)

    assert [node.target for node in graph.nodes if node.target in ("width", "height")] == ["width", "height"]
    assert torch.equal(torch.fx.GraphModule(block, graph)(tokens, None), block(tokens))
