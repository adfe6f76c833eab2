"""The MedT family, from files as the public code saves them."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from axialcli.backends.spec import InputSpec, ModelSpec, OutputSpec
from axialcli.backends.torch_model import TorchModel, fold
from axialcli.config import ClassInfo
from axialcli.nn import build_network
from axialcli.nn.families import recognise
from axialcli.nn.settings import LARGEST
from tests.engine.stream import test_flow
from tests.nn.families.made_up import (
    Shapes,
    affine,
    batch_norm,
    filled,
    found_in,
    network_of,
    normed,
    parameters,
    refusal,
)

DEPTHS = (1, 2, 4, 1)
PLANES = (16, 32, 64, 128)
KINDS = ("axialunet", "gated", "MedT", "logo")


def attention_keys(name: str, planes: int, length: int, *, gated: bool, positions: bool) -> Shapes:
    shapes: Shapes = {f"{name}.qkv_transform.weight": (2 * planes, planes, 1)}
    shapes |= batch_norm(f"{name}.bn_qkv", 2 * planes)
    shapes |= batch_norm(f"{name}.bn_similarity", 24 if positions else 8)
    shapes |= batch_norm(f"{name}.bn_output", 2 * planes if positions else planes)
    if positions:
        shapes[f"{name}.relative"] = (planes // 4, 2 * length - 1)
        shapes[f"{name}.flatten_index"] = (length * length,)
    return shapes | ({f"{name}.{gate}": () for gate in ("f_qr", "f_kr", "f_sve", "f_sv")} if gated else {})


def stage_keys(stage: int, c_in: int, length: int, suffix: str, *, gated: bool, positions: bool) -> Shapes:
    """A stage whose tables begin with `length` tokens; behind a block that halves, with half."""
    planes, shapes = PLANES[stage], Shapes()
    for index in range(DEPTHS[stage]):
        block = f"layer{stage + 1}{suffix}.{index}"
        shapes[f"{block}.conv_down.weight"] = (planes, c_in if index == 0 else 2 * planes, 1, 1)
        shapes |= batch_norm(f"{block}.bn1", planes)
        if not positions:
            shapes |= affine(f"{block}.conv1", planes, planes, 1, 1)
        here = length // 2 if index and stage else length
        for axis in ("hight_block", "width_block"):
            shapes |= attention_keys(f"{block}.{axis}", planes, here, gated=gated, positions=positions)
        shapes[f"{block}.conv_up.weight"] = (2 * planes, planes, 1, 1)
        shapes |= batch_norm(f"{block}.bn2", 2 * planes)
        if index == 0:
            shapes[f"{block}.downsample.0.weight"] = (2 * planes, c_in, 1, 1)
            shapes |= batch_norm(f"{block}.downsample.1", 2 * planes)
    return shapes


def branch_keys(
    stem: int, stages: int, length: int, suffix: str = "", *, gated: bool, positions: bool = True
) -> Shapes:
    shapes = {
        f"conv1{suffix}.weight": (stem, 3, 7, 7),
        f"conv2{suffix}.weight": (128, stem, 3, 3),
        f"conv3{suffix}.weight": (stem, 128, 3, 3),
    }
    for number, channels in enumerate((stem, 128, stem), 1):
        shapes |= batch_norm(f"bn{number}{suffix}", channels)
    ins, lengths = (stem, 32, 64, 128), (length, length, length // 2, length // 4)
    for stage in range(stages):
        shapes |= stage_keys(stage, ins[stage], lengths[stage], suffix, gated=gated, positions=positions)
    decoders = ((256, 256), (128, 256), (64, 128), (32, 64), (16, 32))
    for number in range(1 if stages == 4 else 4, 6):
        shapes |= affine(f"decoder{number}{suffix}", *decoders[number - 1], 3, 3)
    return shapes


def public_keys(kind: str, side: int = 128, classes: int = 2) -> Shapes:
    gated = kind in ("gated", "MedT")
    if kind in ("axialunet", "gated"):
        return branch_keys(8, 4, side // 2, gated=gated) | affine("adjust", classes, 16, 1, 1)
    return {
        **branch_keys(8, 2, side // 2, gated=gated),
        **branch_keys(64, 4, side // 8, "_p", gated=False, positions=not gated),
        **affine("decoderf", 16, 16, 3, 3),
        **affine("adjust", classes, 16, 1, 1),
        **affine("adjust_p", classes, 16, 1, 1),
    }


def reference_attention(x_BCHW: Tensor, w: dict[str, Tensor], name: str, axis: str) -> Tensor:
    """Equation 3 of the paper, query by query, with the public code's norms and order of channels."""
    lines = x_BCHW.permute(0, 3, 1, 2) if axis == "height" else x_BCHW.permute(0, 2, 1, 3)
    x_NCL = lines.flatten(0, 1)
    qkv = torch.einsum("oc,ncl->nol", w[f"{name}.qkv_transform.weight"][:, :, 0].double(), x_NCL)
    qkv = normed(qkv, w, f"{name}.bn_qkv")
    (count, channels, length), half = qkv.shape, qkv.shape[1] // 32
    q, k, v = qkv.view(count, 8, channels // 8, length).split((half, half, 2 * half), 2)
    table = w.get(f"{name}.relative")
    gates = {g: float(w.get(f"{name}.{g}", torch.ones(()))) for g in ("f_qr", "f_kr", "f_sve", "f_sv")}
    out = []
    for i in range(length):
        content = torch.einsum("nad,nadl->nal", q[..., i], k)
        if table is None:
            scores = normed(content, w, f"{name}.bn_similarity")
        else:
            middle = table.shape[1] // 2
            away = [middle + i - j for j in range(length)]
            back = [middle + j - i for j in range(length)]
            of_q = torch.einsum("nad,dl->nal", q[..., i], table[:half, away].double()) * gates["f_qr"]
            of_k = torch.einsum("nadl,dl->nal", k, table[half : 2 * half, back].double()) * gates["f_kr"]
            normed_scores = normed(torch.cat((content, of_q, of_k), 1), w, f"{name}.bn_similarity")
            scores = normed_scores.view(count, 3, 8, length).sum(1)
        weight = scores.softmax(-1)
        sv = torch.einsum("nal,nael->nae", weight, v).flatten(1) * gates["f_sv"]
        if table is None:
            out.append(normed(sv, w, f"{name}.bn_output"))
            continue
        sve = torch.einsum("nal,el->nae", weight, table[2 * half :, away].double()).flatten(1)
        both = normed(torch.stack((sv, sve * gates["f_sve"]), 2).flatten(1), w, f"{name}.bn_output")
        out.append(both.view(count, -1, 2).sum(2))
    seen = torch.stack(out, 2).view(*lines.shape[:2], -1, length)
    return seen.permute(0, 2, 3, 1) if axis == "height" else seen.permute(0, 2, 1, 3)


def reference_branch(x: Tensor, w: dict[str, Tensor], stages: int, suffix: str = "") -> Tensor:
    """From the picture to the features before the last convolution."""

    def convolved(x: Tensor, name: str, **how: Any) -> Tensor:
        bias = w.get(f"{name}.bias")
        return F.conv2d(x, w[f"{name}.weight"].double(), None if bias is None else bias.double(), **how)

    def up(x: Tensor, number: int, **how: Any) -> Tensor:
        x = convolved(x, f"decoder{number}{suffix}", padding=1, **how)
        return F.interpolate(x, size=[2 * n for n in x.shape[2:]], mode="bilinear").relu()

    for number, how in ((1, {"stride": 2, "padding": 3}), (2, {"padding": 1}), (3, {"padding": 1})):
        x = normed(convolved(x, f"conv{number}{suffix}", **how), w, f"bn{number}{suffix}").relu()
    skips = []
    for stage in range(stages):
        for index in range(DEPTHS[stage]):
            block, stride = f"layer{stage + 1}{suffix}.{index}", 2 if stage and not index else 1
            y = normed(convolved(x, f"{block}.conv_down"), w, f"{block}.bn1").relu()
            y = reference_attention(y, w, f"{block}.hight_block", "height")
            y = reference_attention(y, w, f"{block}.width_block", "width")
            if stride == 2:
                y = (y[..., ::2, ::2] + y[..., 1::2, ::2] + y[..., ::2, 1::2] + y[..., 1::2, 1::2]) / 4
            y = normed(convolved(y.relu(), f"{block}.conv_up"), w, f"{block}.bn2")
            if index == 0:
                x = normed(convolved(x, f"{block}.downsample.0", stride=stride), w, f"{block}.downsample.1")
            x = (x + y).relu()
        skips.append(x)
    if stages == 4:
        x = up(x, 1, stride=2) + skips[3]
        x = up(x, 2) + skips[2]
        x = up(x, 3) + skips[1]
    x = up(x, 4) + skips[0]
    return up(x, 5)


def reference(kind: str, image_BCHW: Tensor, w: dict[str, Tensor]) -> Tensor:
    """What the public network answers to blue, green, red, in float64."""
    x = image_BCHW.double()
    if kind in ("axialunet", "gated"):
        x = reference_branch(x, w, 4)
    else:
        seen = reference_branch(x, w, 2)
        pasted = seen.clone()
        at = [(slice(i, i + 32), slice(j, j + 32)) for i in range(0, 128, 32) for j in range(0, 128, 32)]
        local = reference_branch(torch.cat([x[:, :, ys, xs] for ys, xs in at]), w, 4, "_p")
        for (ys, xs), crop in zip(at, local.split(len(x)), strict=True):
            pasted[:, :, ys, xs] = crop
        x = F.conv2d(seen + pasted, w["decoderf.weight"].double(), w["decoderf.bias"].double(), padding=1)
        x = x.relu()
    return F.conv2d(x, w["adjust.weight"].double(), w["adjust.bias"].double())


@pytest.mark.parametrize(
    ("kind", "keys", "millions", "millions_512"),
    [
        ("axialunet", 438, 1.327, 1.361),
        ("gated", 502, 1.327, 1.361),
        ("MedT", 628, 1.560, 1.572),
        ("logo", 620, 1.530, None),
    ],
)
def test_the_layout_has_the_counted_keys_and_parameters(
    kind: str, keys: int, millions: float, millions_512: float | None
) -> None:
    shapes = public_keys(kind)
    found = found_in(filled(shapes))
    with torch.device("meta"):
        ours = build_network(found.architecture, **found.config)

    assert len(shapes) == keys
    assert round(parameters(shapes) / 1e6, 3) == millions
    if millions_512 is not None:
        assert round(parameters(public_keys(kind, 512)) / 1e6, 3) == millions_512
    unused = {name: shape for name, shape in shapes.items() if "adjust_p." in name or ".conv1." in name}
    # And of the last convolution the half that no decision looks at.
    assert sum(p.numel() for p in ours.parameters()) == parameters(shapes) - parameters(unused) - 17


@pytest.mark.parametrize("kind", KINDS)
def test_a_public_file_gives_what_its_network_gives(kind: str) -> None:
    """Of red, green, blue, and channel 1 alone; in both precisions, folded or not."""
    side = 128 if kind in ("MedT", "logo") else 64
    weights = filled(public_keys(kind, side))
    image_BCHW = torch.rand(2, 3, side, side)
    expected_HW = reference(kind, image_BCHW[1:].flip(1), weights)[0, 1]
    scale = float(expected_HW.abs().max())
    found = found_in(weights)
    network = network_of(found)
    folded = copy.deepcopy(network)
    fold(folded)

    with torch.inference_mode():
        plain = network(image_BCHW)
        quick = folded(image_BCHW)
        double = network.double()(image_BCHW[1:].double())

    assert plain.shape == (2, 1, side, side)
    assert float(expected_HW.std()) > 0.05
    assert float((double[0, 0] - expected_HW).abs().max()) < 1e-9
    assert float((plain[1, 0] - expected_HW).abs().max()) < 1e-5 * max(1, scale)
    assert float((quick - plain).abs().max()) < 1e-5 * max(1, scale)
    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d)]
    assert (found.size, found.mean, found.std) == ((side, side), (0, 0, 0), (1, 1, 1))


def test_class_1_begins_where_the_public_code_says() -> None:
    found = found_in(filled(public_keys("gated")))

    assert (found.activation, found.classes) == ("sigmoid", 2)
    assert found.threshold is not None
    assert math.log(found.threshold / (1 - found.threshold)) == pytest.approx(0.5)
    assert found.ask_mpp
    assert "squeezed" in found.notes[0]


def test_more_classes_are_decided_by_the_largest_logit() -> None:
    weights = filled(public_keys("axialunet", 32, classes=5))
    found = found_in(weights)
    image_BCHW = torch.rand(1, 3, 32, 32)

    with torch.inference_mode():
        logits = network_of(found).double()(image_BCHW.double())

    assert (found.activation, found.classes, found.threshold) == ("softmax", 5, None)
    torch.testing.assert_close(logits, reference("axialunet", image_BCHW.flip(1), weights), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["axialunet", "gated"])
@pytest.mark.parametrize("beyond", ["local", "clip", "interpolate"])
def test_positions_that_reach_beyond_leave_the_trained_size_alone(kind: str, beyond: str) -> None:
    found = found_in(filled(public_keys(kind, 64)))
    own, other, odd = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 96, 160), torch.rand(1, 3, 71, 97)
    plain, reaching = network_of(found), network_of(found, beyond=beyond)

    with torch.inference_mode():
        torch.testing.assert_close(reaching(own), plain(own), rtol=0, atol=1e-5)
        assert reaching(other).shape == (1, 1, 96, 160)
        assert reaching(odd).shape == (1, 1, 71, 97)
        with pytest.raises(ValueError, match="learned positions for 32 tokens"):
            plain(other)
    assert beyond in found.beyond


@pytest.mark.parametrize(("height", "width"), [(150, 77), (64, 96)])
def test_with_local_positions_it_streams_exactly(height: int, width: int) -> None:
    """Sides that cannot be halved five times are as exact as others."""
    found = found_in(filled(public_keys("gated", 32)))
    network = network_of(found, beyond="local").double().requires_grad_(False)
    fold(network)
    image_BCHW = test_flow.picture(height, width)

    streamed = test_flow.streamed(network, image_BCHW, 1)

    torch.testing.assert_close(streamed, test_flow.whole(network, image_BCHW), rtol=0, atol=1e-9)
    assert found.multiple == 1


def test_the_local_branch_binds_to_128_pixels() -> None:
    said = refusal(filled(public_keys("MedT", 256)))

    assert "256 pixels" in said
    assert "top left" in said
    assert found_in(filled(public_keys("MedT"))).beyond == ()
    with pytest.raises(ValueError, match="128x128 pixels, not 160x128"):
        build_network("medt")(torch.zeros(1, 3, 160, 128))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("bn2.running_var", None, "lacks the weights bn2.running_var"),
        ("layer2.1.width_block.relative", None, "lacks the weights layer2.1.width_block.relative"),
        ("extra.weight", (1,), "unknown weights extra.weight"),
        ("layer2.0.conv_up.weight", (64, 33, 1, 1), "layer2.0.conv_up.weight has shape (64, 33, 1, 1)"),
        ("adjust.weight", (1, 16, 1, 1), "answers one channel"),
        ("conv1.weight", (8, 4, 7, 7), "takes 4 channels"),
        ("layer1.0.hight_block.relative", (4, 126), "126 columns"),
        ("layer1.0.hight_block.relative", (), "has shape ()"),
    ],
)
def test_a_file_that_does_not_fit_is_one_clear_error(
    kind: str, name: str, shape: tuple[int, ...] | None, says: str
) -> None:
    shapes = public_keys(kind)
    if shape is None:
        del shapes[name]
    else:
        shapes[name] = shape

    assert says in refusal(filled(shapes))


@pytest.mark.parametrize("shape", [(), (0,), (3,), (1, 0, 1, 1), (1, 2, 3, 4, 5), (9, 9, 9, 9)])
def test_odd_shapes_are_refused_and_no_bug(shape: tuple[int, ...]) -> None:
    """Those that sizes are read from, and some others."""
    shapes = public_keys("MedT")
    unused = (
        "num_batches_tracked",
        "flatten_index",
        "adjust_p.",
        "_p.0.conv1.",
        "_p.1.conv1.",
        "_p.2.conv1.",
        "_p.3.conv1.",
    )
    names = [name for name in shapes if not any(part in name for part in unused)]
    plain = filled(shapes)
    for name in ("conv1.weight", "layer1.0.hight_block.relative", "adjust.weight", *names[::40]):
        if shape != shapes[name]:
            assert refusal({**plain, name: torch.ones(shape)})


def test_what_is_none_of_the_family_is_left_to_others() -> None:
    shapes = {name: shape for name, shape in public_keys("gated").items() if "decoder" not in name}

    assert recognise({"layer1.0.hight_block.relative": torch.ones(())}) is None
    assert all("MedT" not in found.family for found in [recognise(filled(shapes))] if found)


def test_a_hostile_depth_is_refused_quickly() -> None:
    weights = filled(public_keys("axialunet", 32))

    assert "unet_depths" in refusal({**weights, "layer3.999999.bn1.bias": torch.ones(1)})


@pytest.mark.parametrize("architecture", ["axial_unet", "medt"])
def test_no_description_asks_for_more_than_2_gb(architecture: str) -> None:
    depth, sizes = LARGEST["unet_depths"], ("in_channels", "classes", "unet_base", "picture_size")
    asked = {name: LARGEST[name] for name in sizes if architecture == "axial_unet" or name != "picture_size"}
    with torch.device("meta"):
        network = build_network(architecture, **asked, unet_depths=(depth,) * 4)

    assert sum(weight.nbytes for weight in network.state_dict().values()) < 2e9


def test_a_model_decides_by_the_logit() -> None:
    """Through the backend, from pixels: where the public network's channel 1 is 0.5 or more."""
    weights = filled(public_keys("gated", 32))
    found = found_in(weights)
    pixels_BCHW = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    logits_HW = reference("gated", pixels_BCHW.flip(1) / 255, weights)[0, 1]
    # So that some pixels are of either class.
    weights["adjust.bias"] += 0.5 - float(logits_HW.median())
    found = found_in(weights)
    assert found.size is not None
    spec = ModelSpec(
        name="gated",
        task=found.task,
        architecture=found.architecture,
        config=found.config,
        input=InputSpec(channels=("red", "green", "blue"), mean=found.mean, std=found.std, size=found.size),
        output=OutputSpec(activation=found.activation, threshold=found.threshold),
        classes=(ClassInfo(name="other", colour=(0, 0, 0)), ClassInfo(name="gland", colour=(255, 0, 0))),
    )
    model = TorchModel(
        spec=spec,
        weights=found.weights,
        device=torch.device("cpu"),
        dtype=torch.float32,
        sha256="",
        where="x",
    )

    labels_HW = model.decide(model.predict(pixels_BCHW)[0])

    logits_HW = reference("gated", pixels_BCHW.flip(1) / 255, weights)[0, 1]
    clear_HW = (logits_HW - 0.5).abs() > 1e-4
    assert torch.equal((logits_HW >= 0.5)[clear_HW], labels_HW.bool()[clear_HW])
    assert 0.4 < float(labels_HW.float().mean()) < 0.6
