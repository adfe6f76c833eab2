"""The zoo's network for whole tiles, and the convolutional networks of equal cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from axialcli.engine.stream import trace
from axialcli.errors import ModelError
from axialcli.geometry import Size
from axialcli.nn import build_network
from axialcli.nn.settings import LARGEST

SMALL: list[tuple[str, dict[str, Any]]] = [
    ("axial_classifier", {"width": (4, 4, 8), "heads": 2, "depth": 2}),
    ("axial_classifier", {"width": (4, 4, 8), "heads": 2, "depth": 1, "span": 5}),
    ("axial_classifier", {"width": (4, 4, 8), "depth": 1, "attention": "separable"}),
    ("resnet", {"width": (4, 6, 8), "depth": 1}),
]
UNETS: list[tuple[str, dict[str, Any]]] = [
    ("unet", {"width": (4, 6)}),
    ("unet", {"width": (2, 4, 6, 8)}),
]


@pytest.mark.parametrize(("name", "config"), SMALL)
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (64, 64), (37, 50)])
def test_a_classifier_answers_once_for_a_picture_of_any_size(
    name: str, config: dict[str, Any], size: tuple[int, int]
) -> None:
    network = build_network(name, classes=5, **config).eval()

    with torch.inference_mode():
        logits = network(torch.randn(3, 3, *size))

    assert logits.shape == (3, 5)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("name", "config"), UNETS)
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (32, 64), (37, 50)])
def test_a_unet_answers_for_every_pixel_of_a_picture_of_any_size(
    name: str, config: dict[str, Any], size: tuple[int, int]
) -> None:
    network = build_network(name, classes=3, **config).eval()

    with torch.inference_mode():
        assert network(torch.randn(2, 3, *size)).shape == (2, 3, *size)


@pytest.mark.parametrize(("name", "config"), SMALL + UNETS)
def test_gradients_reach_every_weight(name: str, config: dict[str, Any]) -> None:
    network = build_network(name, classes=3, **config).double()

    network(torch.randn(2, 3, 48, 40, dtype=torch.float64)).square().sum().backward()

    for weight, parameter in network.named_parameters():
        assert parameter.grad is not None, weight
        assert parameter.grad.isfinite().all(), weight


def test_a_classifier_sees_the_whole_tile() -> None:
    """One pixel in a corner changes the answer, whichever corner it is."""
    network = build_network("axial_classifier", width=(4, 4, 8), heads=2, depth=1).eval()
    image = torch.randn(1, 3, 64, 64)

    with torch.inference_mode():
        plain = network(image)
        for y, x in [(0, 0), (0, 63), (63, 0), (63, 63)]:
            changed = image.clone()
            changed[..., y, x] += 100
            assert (network(changed) - plain).abs().max() > 1e-6


def test_a_unet_can_be_streamed() -> None:
    network = build_network("unet", width=(2, 4, 6)).eval()

    graph = trace(network, 3, Size(64, 64))

    assert graph.period == network.network_stride == 4
    # Two convolutions at strides 1, 2, 4, 2 and 1 reach 2 + 4 + 8 + 4 + 2; pooling and resampling add some.
    assert 20 <= graph.receptive_field_px() <= 20 + 2 * 4


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("unet", {"width": (8,)}, "width names 1 levels; a U-Net has 2 to 8"),
        ("unet", {"width": (8,) * 9}, "width names 9 levels"),
        ("unet", {"width": (8, 0)}, "a list, each a whole number from 1 to 512"),
        ("unet", {"depth": 2}, "has no setting depth"),
        ("resnet", {"width": (8,) * 5}, "width names 5 levels; a ResNet has 2 to 4"),
        ("axial_classifier", {"width": (8, 8)}, "3 whole numbers from 1 to 512"),
        ("axial_classifier", {"heads": 3}, "128 channels do not divide into 3 heads"),
    ],
)
def test_settings_that_make_no_network_are_refused(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as refused:
        build_network(name, **config)

    assert message in str(refused.value)


@pytest.mark.parametrize(("name", "levels"), [("axial_classifier", 3), ("resnet", 4), ("unet", 8)])
def test_the_largest_networks_stay_under_2_gb_of_weights(name: str, levels: int) -> None:
    asked = {} if name == "unet" else {"depth": LARGEST["depth"]}
    if name == "axial_classifier":
        asked |= {"mlp_ratio": LARGEST["mlp_ratio"], "heads": LARGEST["heads"]}
    with torch.device("meta"):
        network = build_network(name, width=(512,) * levels, in_channels=64, classes=256, **asked)

    assert sum(weight.nbytes for weight in network.state_dict().values()) < 2e9
