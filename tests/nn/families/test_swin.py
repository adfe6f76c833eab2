"""Swin, from files as timm and Microsoft save them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from axialcli.errors import ModelError
from axialcli.nn import build_network
from axialcli.nn.settings import LARGEST
from tests.nn.families.made_up import Shapes, affine, filled, found_in, network_of, parameters, refusal
from tests.nn.families.test_vit import gelu, layer_norm, linear

Grid = dict[tuple[int, int], Tensor]


def public_keys(width: int, depths: tuple[int, ...], window: int = 7, answers: int = 1000) -> Shapes:
    shapes = affine("patch_embed.proj", width, 3, 4, 4) | affine("patch_embed.norm", width)
    for stage, depth in enumerate(depths):
        c = width << stage
        if stage:
            shapes |= affine(f"layers.{stage}.downsample.norm", 2 * c)
            shapes[f"layers.{stage}.downsample.reduction.weight"] = (c, 2 * c)
        for block in (f"layers.{stage}.blocks.{index}" for index in range(depth)):
            shapes |= affine(f"{block}.norm1", c) | affine(f"{block}.norm2", c)
            shapes[f"{block}.attn.relative_position_bias_table"] = ((2 * window - 1) ** 2, c // 32)
            shapes |= affine(f"{block}.attn.qkv", 3 * c, c) | affine(f"{block}.attn.proj", c, c)
            shapes |= affine(f"{block}.mlp.fc1", 4 * c, c) | affine(f"{block}.mlp.fc2", c, 4 * c)
    return shapes | affine("norm", width << 3) | affine("head.fc", answers, width << 3)


SMALL = public_keys(32, (2, 1, 1, 2), window=2, answers=5)


def as_microsoft_saves(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    saved: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        for stage in (1, 2, 3):
            name = name.replace(f"layers.{stage}.downsample", f"layers.{stage - 1}.downsample")
        saved[name.replace("head.fc.", "head.")] = tensor
        if name.endswith("bias_table"):
            saved[name.replace("bias_table", "index")] = torch.zeros(4, 4, dtype=torch.int64)
    return {**saved, "layers.0.blocks.1.attn_mask": torch.zeros(64, 4, 4)}


def attention(
    tokens: Grid, sides: tuple[int, int], w: dict[str, Tensor], name: str, window: int, shift: int
) -> Grid:
    """Equation 4, token by token. Who shares a window is asked of each pair of tokens."""
    shifts = [0 if side <= window else shift for side in sides]
    qkv = {at: linear(token, w, f"{name}.qkv").view(3, -1, 32) for at, token in tokens.items()}
    table = w[f"{name}.relative_position_bias_table"]

    def window_of(at: tuple[int, int]) -> tuple[int, int]:
        return (at[0] - shifts[0]) // window, (at[1] - shifts[1]) // window

    out = {}
    for here, query in qkv.items():
        near = [there for there in qkv if window_of(there) == window_of(here)]
        heads = []
        for head, q_D in enumerate(query[0]):
            rows = [(y - here[0], x - here[1]) for y, x in near]
            bias = [
                float(table[(window - 1 - dy) * (2 * window - 1) + window - 1 - dx, head]) for dy, dx in rows
            ]
            powers = [
                math.exp(float(q_D @ qkv[there][1, head]) / math.sqrt(32) + b)
                for there, b in zip(near, bias, strict=True)
            ]
            total = sum(powers)
            heads.append(
                torch.stack(
                    [p / total * qkv[there][2, head] for p, there in zip(powers, near, strict=True)]
                ).sum(0)
            )
        out[here] = linear(torch.cat(heads), w, f"{name}.proj")
    return out


def reference(image_CHW: Tensor, w: dict[str, Tensor], depths: tuple[int, ...], window: int) -> Tensor:
    """The network as section 3 tells it, in float64."""
    tall, wide = image_CHW.shape[1] // 4, image_CHW.shape[2] // 4
    kernel = w["patch_embed.proj.weight"].double()
    tokens: Grid = {}
    for y in range(tall):
        for x in range(wide):
            cut = image_CHW[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].double()
            token = (kernel * cut).sum((1, 2, 3)) + w["patch_embed.proj.bias"]
            tokens[y, x] = layer_norm(token, w, "patch_embed.norm", 1e-5)
    for stage, depth in enumerate(depths):
        if stage:
            name, tall, wide, finer = f"layers.{stage}.downsample", tall // 2, wide // 2, tokens
            tokens = {}
            for y in range(tall):
                for x in range(wide):
                    four = [finer[2 * y + dy, 2 * x + dx] for dx in (0, 1) for dy in (0, 1)]
                    joined = layer_norm(torch.cat(four), w, f"{name}.norm", 1e-5)
                    tokens[y, x] = w[f"{name}.reduction.weight"].double() @ joined
        for index in range(depth):
            block, shift = f"layers.{stage}.blocks.{index}", index % 2 * (window // 2)
            normed = {at: layer_norm(t, w, f"{block}.norm1", 1e-5) for at, t in tokens.items()}
            seen = attention(normed, (tall, wide), w, f"{block}.attn", window, shift)
            for at, token in tokens.items():
                token = token + seen[at]
                inner = gelu(linear(layer_norm(token, w, f"{block}.norm2", 1e-5), w, f"{block}.mlp.fc1"))
                tokens[at] = token + linear(inner, w, f"{block}.mlp.fc2")
    mean = torch.stack([layer_norm(token, w, "norm", 1e-5) for token in tokens.values()]).mean(0)
    return linear(mean, w, "head.fc")


@pytest.mark.parametrize(
    ("window", "height", "width"), [(2, 64, 128), (3, 96, 96)], ids=["wide", "odd window"]
)
def test_a_public_file_gives_what_its_equations_give(window: int, height: int, width: int) -> None:
    depths = (2, 1, 1, 2) if window == 2 else (2, 1, 1, 1)
    weights = filled(public_keys(32, depths, window, answers=5))
    for name in weights:
        if name.endswith("bias_table"):
            weights[name] *= 5
    found = found_in(weights)
    network = network_of(found)
    image_BCHW = torch.randn(2, 3, height, width)
    expected_K = reference(image_BCHW[1], weights, depths, window)

    with torch.inference_mode():
        single = network(image_BCHW)
        double = network.double()(image_BCHW.double())

    assert single.shape == (2, 5)
    assert float((double[1] - expected_K).abs().max()) < 1e-9
    assert float((single[1] - expected_K).abs().max()) < 1e-5 * max(1, float(expected_K.abs().max()))
    assert (found.size, found.multiple) == ((32 * window, 32 * window), 32 * window)


def test_microsofts_files_are_the_same_network() -> None:
    weights = filled(SMALL)
    image_BCHW = torch.randn(1, 3, 64, 64)
    found = found_in(as_microsoft_saves(weights))

    with torch.inference_mode():
        answer = network_of(found)(image_BCHW)
        assert torch.equal(answer, network_of(found_in(weights))(image_BCHW))
    assert "Microsoft" in found.family


@pytest.mark.parametrize(
    ("name", "width", "depths", "millions"),
    [
        ("T", 96, (2, 2, 6, 2), 28.29),
        ("S", 96, (2, 2, 18, 2), 49.61),
        ("B", 128, (2, 2, 18, 2), 87.77),
    ],
)
def test_the_parameters_are_those_published(
    name: str, width: int, depths: tuple[int, ...], millions: float
) -> None:
    shapes = public_keys(width, depths)
    with torch.device("meta"):
        found = found_in({name: torch.empty(shape) for name, shape in shapes.items()})
        network = build_network(found.architecture, **found.config)

    assert found.family.startswith(f"Swin-{name} with windows of 7")
    assert parameters(shapes) == sum(p.numel() for p in network.parameters())
    assert round(parameters(shapes) / 1e6, 2) == millions
    assert (found.size, found.task, found.classes) == ((224, 224), "classification", 1000)


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("norm.bias", None, "lacks the weights norm.bias"),
        ("head.fc.weight", None, "lacks the weights head.fc.weight"),
        ("layers.2.downsample.reduction.weight", None, "lacks the weights layers.2.downsample.reduction"),
        ("layers.0.blocks.0.attn.logit_scale", (1,), "unknown weights layers.0.blocks.0.attn.logit_scale"),
        ("layers.1.blocks.0.attn.qkv.weight", (3, 3), "layers.1.blocks.0.attn.qkv.weight has shape (3, 3)"),
        ("layers.0.blocks.0.attn.relative_position_bias_table", (10, 1), "10 rows"),
        ("layers.0.blocks.0.attn.relative_position_bias_table", (4, 1), "4 rows"),
        ("layers.0.blocks.0.attn.relative_position_bias_table", (), "has shape ()"),
        ("patch_embed.proj.weight", (32, 4, 4, 4), "takes 4 channels"),
        ("patch_embed.proj.weight", (40, 3, 4, 4), "40 channels do not divide into heads of 32"),
        ("layers.7.blocks.0.norm1.bias", (32,), "8 stages"),
        ("layers.1.blocks.99999.norm1.bias", (64,), "swin_depths"),
    ],
)
def test_a_file_that_does_not_fit_is_one_clear_error(
    name: str, shape: tuple[int, ...] | None, says: str
) -> None:
    shapes = dict(SMALL)
    if shape is None:
        del shapes[name]
    else:
        shapes[name] = shape

    assert says in refusal(filled(shapes))


def test_a_picture_of_cut_windows_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 64"):
        network_of(found_in(filled(SMALL)))(torch.zeros(1, 3, 64, 96))


def test_no_description_asks_for_more_than_2_gb() -> None:
    asked = {name: LARGEST[name] for name in ("in_channels", "answers", "swin_width", "swin_window")}
    with torch.device("meta"):
        network = build_network("swin", **asked, swin_depths=(24, 24, 24, 3))

    assert sum(weight.nbytes for weight in network.state_dict().values()) < 2e9
    with pytest.raises(ModelError, match="400,000,000 at most"):
        build_network("swin", **asked, swin_depths=(24, 24, 24, 24))
