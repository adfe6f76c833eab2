"""Axial-DeepLab: the same numbers as plainly written down, at any size, and weights from an Axial-ResNet."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from axialcli.backends.torch_model import fold, load_weights
from axialcli.errors import ModelError
from axialcli.nn import build_network
from axialcli.nn.families import recognise
from axialcli.nn.families.axial_deeplab import SIZES, AxialDeepLab, backbone_weights
from tests.nn.families import plain_positions, plain_segmenters
from tests.nn.families.test_axial_resnet import body_shapes, filled, norm_shapes, resnet_shapes

PLANES, DEPTHS, STEM, CLASSES = (16, 16, 32, 48), (1, 2, 1, 2), 6, 3


def deeplab_shapes(span: int) -> dict[str, tuple[int, ...]]:
    reach = span // 2 + 1
    body = body_shapes(PLANES, DEPTHS, STEM, dict.fromkeys((4, 8, 16, 32), (reach, reach)))
    shapes: dict[str, tuple[int, ...]] = {
        f"backbone.{name}": shape for name, shape in body.items() if not name.endswith("flatten_index")
    }
    for name, c_in, c_out in (("project16", 96, 256), ("low8", 32, 64), ("low4", 32, 32)):
        shapes |= {f"{name}.0.weight": (c_out, c_in, 1, 1), **norm_shapes(f"{name}.1", c_out)}
    for name, channels in (("fuse8", 256 + 64), ("fuse4", 256 + 32), ("head", 256)):
        shapes |= {f"{name}.0.weight": (channels, 1, 5, 5), **norm_shapes(f"{name}.1", channels)}
        shapes |= {f"{name}.3.weight": (256, channels, 1, 1), **norm_shapes(f"{name}.4", 256)}
    return {**shapes, "classify.weight": (CLASSES, 256, 1, 1), "classify.bias": (CLASSES,)}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return filled(deeplab_shapes(5))


def built(weights: dict[str, Tensor]) -> nn.Module:
    found = recognise(weights)
    assert found is not None
    assert found.architecture == "axial_deeplab"
    network = build_network(found.architecture, **found.config)
    load_weights(network, dict(found.weights), "test.safetensors")
    return network.eval()


def plainly(image: Tensor, weights: dict[str, Tensor], span: int) -> Tensor:
    doubles = {name: tensor.double() for name, tensor in weights.items()}
    return plain_segmenters.axial_deeplab(image.double(), doubles, span=span)


@pytest.mark.parametrize("size", [(64, 128), (77, 151), (1, 1), (200, 18)])
def test_the_answer_is_the_plain_one(weights: dict[str, Tensor], size: tuple[int, int]) -> None:
    image = torch.randn(1, 3, *size)
    expected = plainly(image, weights, 5)
    assert expected.shape == (1, CLASSES, *size)
    network = built(weights)
    scale = float(expected.abs().max())
    with torch.inference_mode():
        double = network.double()(image.double())
        torch.testing.assert_close(double, expected, rtol=0, atol=1e-9 * scale)
        network.float()
        torch.testing.assert_close(network(image).double(), expected, rtol=0, atol=1e-5 * scale)
        fold(network)
        assert not any(isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d) for part in network.modules())
        torch.testing.assert_close(network(image).double(), expected, rtol=0, atol=1e-5 * scale)


def test_weights_of_an_axial_resnet_go_in(weights: dict[str, Tensor]) -> None:
    """Lines of 16, 8, 4 and 2 tokens were trained; a span of 5 wants tables for 3 at the least."""
    resnet = filled(resnet_shapes(PLANES, DEPTHS, STEM, 10, (64, 64)), seed=1)
    taken, short = backbone_weights(resnet, span=5)
    assert short == [f"backbone.layer4.1.{axis}_block.relative" for axis in ("hight", "width")]
    head = {name: tensor for name, tensor in weights.items() if not name.startswith("backbone.")}
    network = built({**head, **taken}).backbone
    image = torch.randn(1, 3, 80, 64)
    with torch.inference_mode():
        found = network.double().features(image.double())  # type: ignore[operator]
        double = {name: tensor.double() for name, tensor in resnet.items()}
        expected = plain_positions.stages(image.double(), double, last_stride=1, span=5)
    # Up to the last stage all tables reach; its second block's do not, and get their ends again.
    for mine, plain in zip(found[:3], expected[:3], strict=True):
        torch.testing.assert_close(mine, plain, rtol=0, atol=1e-9)
    table, longer = resnet["layer4.1.hight_block.relative"], taken[short[0]]
    assert (table.shape[1], longer.shape[1]) == (3, 5)
    torch.testing.assert_close(longer, table[:, [0, 0, 1, 2, 2]])


def test_too_few_or_too_many_weights_are_one_clear_error(weights: dict[str, Tensor]) -> None:
    for change, says in (
        ({"head.4.bias": None}, "lacks the weights head.4.bias"),
        ({"centre.weight": torch.ones(1)}, "unknown weights centre.weight"),
        ({"low4.0.weight": torch.ones(32, 9, 1, 1)}, r"low4.0.weight has shape \(32, 9, 1, 1\)"),
    ):
        changed: dict[str, Any] = {**weights, **change}
        with pytest.raises(ModelError, match=says):
            built({name: tensor for name, tensor in changed.items() if tensor is not None})


def test_strange_shapes_are_model_errors(weights: dict[str, Tensor]) -> None:
    for name in ("classify.weight", "backbone.layer1.0.hight_block.relative", "backbone.conv1.weight"):
        for strange in (torch.ones(()), torch.ones(0, 2), torch.ones(4, 4), torch.ones(9**5, 1, 1, 1)):
            with pytest.raises(ModelError):
                built({**weights, name: strange})


@pytest.mark.parametrize(("name", "millions"), [("S", 11.15), ("M", 24.40), ("L", 42.85)])
def test_sizes(name: str, millions: float) -> None:
    """The published 12.1, 25.9 and 44.9 M have an instance branch, another stem and tables of 509."""
    with torch.device("meta"):
        network = AxialDeepLab(SIZES[name])
    assert abs(sum(part.numel() for part in network.parameters()) / 1e6 - millions) < 0.005
    found = recognise(network.state_dict())
    assert found is not None
    assert (found.family, found.classes, found.size) == (f"Axial-DeepLab {name}", 19, None)
    assert (found.network_stride, found.multiple, found.beyond) == (16, 1, ())
