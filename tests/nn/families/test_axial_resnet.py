"""Axial-ResNet: its sizes, its public key layout, and the same numbers as plainly written down."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.backends.torch_model import fold, load_weights
from axialcli.errors import ModelError
from axialcli.nn import build_network
from axialcli.nn.families import recognise
from axialcli.nn.families.axial_resnet import SIZES, AxialResNet
from tests.nn.families import plain_positions

SMALL = {"planes": (16, 16, 32, 48), "depths": (1, 2, 1, 2), "stem": 6, "answers": 5, "size": (64, 32)}


def norm_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{part}": (channels,) for part in parts}, f"{name}.num_batches_tracked": ()}


def axis_shapes(name: str, planes: int, length: int) -> dict[str, tuple[int, ...]]:
    """Of one axis: the public code has 8 heads always, and saves the places in its table."""
    return {
        f"{name}.qkv_transform.weight": (2 * planes, planes, 1),
        **norm_shapes(f"{name}.bn_qkv", 2 * planes),
        **norm_shapes(f"{name}.bn_similarity", 24),
        **norm_shapes(f"{name}.bn_output", 2 * planes),
        f"{name}.relative": (2 * planes // 8, 2 * length - 1),
        f"{name}.flatten_index": (length * length,),
    }


def body_shapes(
    planes: tuple[int, ...], depths: tuple[int, ...], stem: int, lengths: dict[int, tuple[int, int]]
) -> dict[str, tuple[int, ...]]:
    """The public keys up to the classifier. lengths: of each stride the tokens along height and width."""
    shapes = {"conv1.weight": (stem, 3, 7, 7), **norm_shapes("bn1", stem)}
    channels = stem
    for stage, (narrow, depth) in enumerate(zip(planes, depths, strict=True)):
        for number in range(depth):
            here = f"layer{stage + 1}.{number}"
            before = stage - 1 if stage and number == 0 else stage
            height, width = lengths[4 * 2**before]
            shapes |= {
                f"{here}.conv_down.weight": (narrow, channels, 1, 1),
                **norm_shapes(f"{here}.bn1", narrow),
                **axis_shapes(f"{here}.hight_block", narrow, height),
                **axis_shapes(f"{here}.width_block", narrow, width),
                f"{here}.conv_up.weight": (2 * narrow, narrow, 1, 1),
                **norm_shapes(f"{here}.bn2", 2 * narrow),
            }
            if number == 0:
                shapes[f"{here}.downsample.0.weight"] = (2 * narrow, channels, 1, 1)
                shapes |= norm_shapes(f"{here}.downsample.1", 2 * narrow)
            channels = 2 * narrow
    return shapes


def resnet_shapes(
    planes: tuple[int, ...], depths: tuple[int, ...], stem: int, answers: int, size: tuple[int, int]
) -> dict[str, tuple[int, ...]]:
    lengths = {stride: (size[0] // stride, size[1] // stride) for stride in (4, 8, 16, 32)}
    shapes = body_shapes(planes, depths, stem, lengths)
    return {**shapes, "fc.weight": (answers, 2 * planes[-1]), "fc.bias": (answers,)}


def filled(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Random weights, with running statistics far from their first values."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        if name.endswith(("flatten_index", "num_batches_tracked")):
            weights[name] = torch.ones(shape, dtype=torch.int64)
        elif name.endswith("running_var"):
            weights[name] = torch.rand(shape, generator=generator) * 4 + 0.3
        else:
            fan_in = max(1, torch.Size(shape[1:]).numel()) if len(shape) > 1 else 1
            weights[name] = torch.randn(shape, generator=generator) * fan_in**-0.5
    return weights


@pytest.fixture(scope="module")
def public() -> dict[str, Tensor]:
    return filled(resnet_shapes(**SMALL))


def built(weights: dict[str, Tensor], **more: Any) -> nn.Module:
    found = recognise(weights)
    assert found is not None
    assert found.architecture == "axial_resnet"
    network = build_network(found.architecture, **{**found.config, **more})
    load_weights(network, dict(found.weights), "test.pth")
    return network.eval()


def plainly(image: Tensor, weights: dict[str, Tensor]) -> Tensor:
    double = {name: tensor.double() for name, tensor in weights.items()}
    features = plain_positions.stages(image.double(), double)[-1]
    return F.linear(features.mean((2, 3)), double["fc.weight"], double["fc.bias"])


@pytest.mark.parametrize(("name", "keys"), [("26-S", 416), ("50-S", 800), ("50-M", 800), ("50-L", 800)])
def test_the_public_layout_is_recognised(name: str, keys: int) -> None:
    config = SIZES[name]
    shapes = resnet_shapes(config.stage_planes, config.stage_depths, config.stem_width, 1000, (224, 224))
    assert len(shapes) == keys
    weights = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    found = recognise(weights)
    assert found is not None
    assert found.family == f"Axial-ResNet {name} (csrhddlam/axial-deeplab)"
    assert (found.size, found.classes, found.task) == ((224, 224), 1000, "classification")
    with torch.device("meta"):
        network = build_network(found.architecture, **found.config)
    wanted = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    assert {key: tuple(tensor.shape) for key, tensor in found.weights.items()} == wanted


@pytest.mark.parametrize(
    ("name", "millions", "with_long_tables"),
    [("26-S", 5.94, None), ("50-S", 11.59, 12.49), ("50-M", None, 26.5), ("50-L", None, 45.8)],
)
def test_parameters_are_as_many_as_published(
    name: str, millions: float | None, with_long_tables: float | None
) -> None:
    """The paper counts tables of 509 distances and a stem of 64 channels; the public port has neither."""
    config = SIZES[name]
    long = dataclasses.replace(config, table=509, stem_width=64, beyond="clip")
    with torch.device("meta"):
        for size, published in ((config, millions), (long, with_long_tables)):
            if published is not None:
                count = sum(part.numel() for part in AxialResNet(size).parameters()) / 1e6
                assert abs(count - published) < (0.05 if published > 20 else 0.005)


def test_the_answer_is_the_plain_one(public: dict[str, Tensor]) -> None:
    image = torch.randn(2, 3, 64, 32)
    expected = plainly(image, public)
    network = built(public)
    scale = float(expected.abs().max())
    with torch.inference_mode():
        double = network.double()(image.double())
        torch.testing.assert_close(double, expected, rtol=0, atol=1e-9 * scale)
        network.float()
        torch.testing.assert_close(network(image).double(), expected, rtol=0, atol=1e-5 * scale)
        fold(network)
        assert not any(isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d) for part in network.modules())
        torch.testing.assert_close(network(image).double(), expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("beyond", ["local", "clip", "interpolate"])
def test_beyond_changes_nothing_at_the_trained_size(public: dict[str, Tensor], beyond: str) -> None:
    image = torch.randn(1, 3, 64, 32)
    network = built(public, beyond=beyond)
    with torch.inference_mode():
        torch.testing.assert_close(network(image), built(public)(image), rtol=0, atol=1e-5)
        assert network(torch.randn(1, 3, 96, 160)).isfinite().all()


def test_another_size_is_refused_by_default(public: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="learned positions for 16 tokens and gets 24"):
        built(public)(torch.randn(1, 3, 96, 32))


def damaged(weights: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    found = dict(weights)
    name = "layer2.1.width_block.bn_output.weight"
    if how == "missing":
        del found[name]
    elif how == "unknown":
        found["layer2.1.width_block.gate"] = torch.ones(3)
    else:
        found[name] = torch.ones(7)
    return found


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "lacks the weights layer2.1.width_block.bn_output.weight"),
        ("unknown", "unknown weights layer2.1.width_block.gate"),
        ("wrong", r"layer2.1.width_block.bn_output.weight has shape \(7,\)"),
    ],
)
def test_damage_is_one_clear_error(public: dict[str, Tensor], how: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        built(damaged(public, how))


STRANGE = [torch.ones(()), torch.ones(0), torch.ones(0, 4), torch.ones(2, 3, 0, 1), torch.ones(1, 1, 1, 1, 1)]


@pytest.mark.parametrize(
    "name",
    [
        "conv1.weight",
        "fc.weight",
        "layer1.0.conv_down.weight",
        "layer3.0.conv_down.weight",
        "layer1.0.hight_block.relative",
        "layer4.0.width_block.relative",
        "layer1.0.hight_block.bn_similarity.weight",
    ],
)
def test_strange_shapes_are_model_errors(public: dict[str, Tensor], name: str) -> None:
    for strange in [*STRANGE, torch.ones(4, 6), torch.ones(2), torch.ones(10**5, 1, 1, 1), None]:
        weights = {**public, name: strange} if strange is not None else dict(public)
        if strange is None:
            del weights[name]
        try:
            if recognise(weights) is None:
                continue
            with pytest.raises(ModelError):
                built(weights)
        except ModelError:
            continue


def test_other_checkpoints_are_none_of_ours() -> None:
    assert recognise({}) is None
    assert recognise({"conv1.weight": torch.ones(64, 3, 7, 7), "fc.weight": torch.ones(10, 512)}) is None
