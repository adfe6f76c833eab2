"""The zoo's network: sizes, configurations, receptive field, cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from axialcli.errors import ModelError
from axialcli.nn import build_network
from axialcli.nn.attention import AxialAttention
from axialcli.nn.settings import LARGEST
from axialcli.nn.split_heads import SplitHeadsAttention
from axialcli.nn.whole_grid import GlobalAttention, SeparableAttention
from axialcli.nn.windows import WindowAttention


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 8), (33, 64), (130, 71)])
def test_any_size_gives_logits_of_the_same_size(size: tuple[int, int]) -> None:
    network = build_network("axial_segmenter", width=(4, 4, 6), heads=2, depth=1).eval()

    with torch.inference_mode():
        assert network(torch.randn(2, 3, *size)).shape == (2, 2, *size)


CONFIGS: list[dict[str, Any]] = [
    {"width": (4, 4, 6, 8)},
    {"span": None},
    {"span": None, "positions": "none", "width": (4, 4, 6, 8)},
    {"span": 5, "positions": "rotary"},
    {"order": "height_width", "feed_forward": "each"},
    {"order": "parallel", "shared": True},
    {"depth": 2, "skip": ("", "width")},
    {"depth": 2, "skip": ("height", "")},
    {"depth": 3, "window": 3},
    {"depth": 3, "window": 3, "skip": ("width", "", "height")},
    {"global_blocks": 2},
    {"attention": "separable"},
    {"attention": "none"},
    {"attention": "split_heads", "heads": 2},
    {"attention": "split_heads", "heads": 2, "span": None},
    {"attention": "split_heads", "heads": 2, "depth": 3, "window": 2},
]
KINDS = (AxialAttention, WindowAttention, GlobalAttention, SeparableAttention)


def made_of(config: dict[str, Any]) -> Any:
    """That network, small, with weights that leave nothing at zero."""
    torch.manual_seed(0)
    network = build_network("axial_segmenter", **{"width": (4, 4, 6), "heads": 1, "depth": 1} | config)
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "bias", "bias_AS", "bias_AYX")):
            tensor.normal_(0, 0.3)
    return network.eval()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_every_configuration_runs_at_odd_sizes_and_can_be_traced(config: dict[str, Any]) -> None:
    class Leaves(torch.fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return isinstance(module, KINDS) or super().is_leaf_module(module, name)

    network = made_of({**config, "classes": 3})
    traced = torch.fx.GraphModule(network, Leaves().trace(network))

    for size in [(1, 1), (37, 50), (16, 8)]:
        image = torch.randn(2, 3, *size)
        with torch.inference_mode():
            logits = network(image)
            assert torch.equal(traced(image), logits)
        assert logits.shape == (2, 3, *size)
        assert logits.isfinite().all()


def test_a_configuration_chooses_the_blocks() -> None:
    network = made_of({"depth": 3, "window": 2, "skip": ("width", "", ""), "global_blocks": 1})

    first, second, third, last = network.blocks
    split, windows = made_of({"attention": "split_heads", "heads": 2, "depth": 2, "window": 2}).blocks
    assert isinstance(split.attention, SplitHeadsAttention)
    assert isinstance(windows.attention, WindowAttention)
    assert first.axes == ("height",)
    assert third.axes == ("width", "height")
    assert isinstance(second.attention, WindowAttention)
    assert isinstance(last.attention, GlobalAttention)
    assert made_of({"span": None}).blocks[0].width.positions == "rotary"
    assert made_of({}).blocks[0].width.positions == "bias"
    assert made_of({}).network_stride == 8
    assert made_of({"width": (4, 4, 6, 8)}).network_stride == 16


def test_without_attention_no_token_sees_another() -> None:
    block = made_of({"attention": "none", "depth": 1}).blocks[0].double()
    tokens = torch.randn(1, 4, 5, 6, dtype=torch.float64)
    other = tokens.clone()
    other[0, 2, 3] += 1

    changed = (block(tokens) != block(other)).any(-1)[0]
    assert changed.nonzero().tolist() == [[2, 3]]


def test_gradients_reach_every_weight() -> None:
    for config in CONFIGS:
        network = made_of(config).double()
        network(torch.randn(1, 3, 50, 70, dtype=torch.float64)).square().sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"width": (4, 4, 6, 8, 8)}, "3 whole numbers from 1 to 512 or 4 whole numbers from 1 to 512"),
        ({"width": (4, 4, True)}, "width is"),
        ({"span": 0}, "span is 0; it takes a whole number from 1 to 1025 or null"),
        ({"span": None, "positions": "bias"}, "a relative bias needs a span"),
        ({"positions": "absolute"}, "it takes one of 'bias', 'rotary', 'none' or null"),
        ({"positions": ["bias"]}, "positions is"),
        ({"positions": "rotary", "heads": 6}, "rotary positions turn pairs"),
        ({"order": "depth_first"}, "it takes one of 'width_height', 'height_width', 'parallel'"),
        ({"order": None}, "order is None"),
        ({"order": "parallel", "feed_forward": "each"}, "parallel passes end together"),
        ({"shared": 1}, "shared is 1; it takes true or false"),
        ({"depth": 2, "skip": ("width",)}, "skip names 1 blocks, depth makes 2"),
        ({"skip": "width"}, "skip is 'width'; it takes a list, each one of '', 'width', 'height'"),
        ({"skip": ("depth",)}, "skip is"),
        ({"skip": ("",) * 33}, "skip is"),
        ({"window": -1}, "window is -1; it takes a whole number from 0 to 64"),
        ({"window": False}, "window is False"),
        ({"depth": 2, "window": 4, "skip": ("", "width")}, "a block of windows"),
        ({"global_blocks": 9}, "it takes a whole number from 0 to 8"),
        ({"attention": "separable", "window": 4}, "attention 'separable' has neither"),
        ({"attention": "full"}, "it takes one of 'axial', 'split_heads', 'separable', 'none'"),
        ({"attention": "split_heads", "heads": 3, "width": (4, 4, 6)}, "3 heads have no halves"),
        ({"attention": "split_heads", "heads": 2, "skip": ("",)}, "there is none to skip"),
    ],
)
def test_settings_that_make_no_network_are_refused_in_one_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as refused:
        made_of(config)

    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_largest_network_stays_under_2_gb_of_weights() -> None:
    largest = {key: LARGEST[key] for key in ("in_channels", "classes", "depth", "heads", "span", "mlp_ratio")}
    with torch.device("meta"):
        network = build_network(
            "axial_segmenter", width=(512,) * 4, feed_forward="each", global_blocks=8, **largest
        )

    assert sum(weight.nbytes for weight in network.state_dict().values()) < 2e9


def test_the_default_model_stays_under_25_kflop_per_pixel() -> None:
    network = build_network("axial_segmenter").eval()

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.randn(1, 3, 1024, 1024))

    assert counter.get_total_flops() / 1024**2 < 25_000
