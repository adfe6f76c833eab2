"""ViT and DeiT, from files as timm saves them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from axialcli.nn import build_network
from axialcli.nn.families import recognise
from axialcli.nn.settings import LARGEST
from tests.nn.families.made_up import (
    Shapes,
    affine,
    filled,
    found_in,
    network_of,
    parameters,
    refusal,
)


def public_keys(width: int, depth: int = 12, patch: int = 16, grid: int = 14, answers: int = 1000) -> Shapes:
    shapes: Shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 1 + grid * grid, width)}
    shapes |= affine("patch_embed.proj", width, 3, patch, patch)
    for block in (f"blocks.{index}" for index in range(depth)):
        shapes |= affine(f"{block}.norm1", width) | affine(f"{block}.norm2", width)
        shapes |= affine(f"{block}.attn.qkv", 3 * width, width) | affine(f"{block}.attn.proj", width, width)
        shapes |= affine(f"{block}.mlp.fc1", 4 * width, width) | affine(f"{block}.mlp.fc2", width, 4 * width)
    return shapes | affine("norm", width) | affine("head", answers, width)


SMALL = public_keys(128, depth=2, patch=4, grid=3, answers=5)


def linear(x_C: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return w[f"{name}.weight"].double() @ x_C + w[f"{name}.bias"].double()


def layer_norm(x_C: Tensor, w: dict[str, Tensor], name: str, eps: float) -> Tensor:
    centred = x_C - x_C.mean()
    return centred / torch.sqrt(centred.square().mean() + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x_C: Tensor) -> Tensor:
    return torch.stack([x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in x_C])


def attention(tokens: list[Tensor], w: dict[str, Tensor], name: str) -> list[Tensor]:
    """Token by token, head by head."""
    qkv = [linear(token, w, f"{name}.qkv").view(3, -1, 64) for token in tokens]
    out = []
    for query in qkv:
        heads = []
        for head, q_D in enumerate(query[0]):
            powers = [math.exp(float(q_D @ key[1, head]) / 8) for key in qkv]
            heads.append(sum(p / sum(powers) * key[2, head] for p, key in zip(powers, qkv, strict=True)))
        out.append(linear(torch.cat(heads), w, f"{name}.proj"))  # type: ignore[arg-type]
    return out


def cubic(x: float) -> float:
    """Keys' kernel with a = -1/2, which is what antialiased bicubic resampling uses."""
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def stretched(given: int, wanted: int) -> Tensor:
    """[wanted, given]: what each place of an axis takes of the given ones."""
    step = given / wanted
    rows = []
    for i in range(wanted):
        row = [cubic((j + 0.5 - (i + 0.5) * step) / max(step, 1)) for j in range(given)]
        rows.append([number / sum(row) for number in row])
    return torch.tensor(rows, dtype=torch.float64)


def reference(image_CHW: Tensor, w: dict[str, Tensor], patch: int, grid: int) -> Tensor:
    """Equations 1 to 4 of the paper, in float64."""
    height, width = (n // patch for n in image_CHW.shape[1:])
    table = w["pos_embed"][0, 1:].double().view(grid, grid, -1)
    placed = torch.einsum("hy,wx,yxc->hwc", stretched(grid, height), stretched(grid, width), table)
    tokens = [w["cls_token"][0, 0].double() + w["pos_embed"][0, 0]]
    kernel = w["patch_embed.proj.weight"].double()
    for y in range(height):
        for x in range(width):
            cut = image_CHW[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch].double()
            tokens.append((kernel * cut).sum((1, 2, 3)) + w["patch_embed.proj.bias"] + placed[y, x])
    for block in ("blocks.0", "blocks.1"):
        seen = attention([layer_norm(t, w, f"{block}.norm1", 1e-6) for t in tokens], w, f"{block}.attn")
        tokens = [t + s for t, s in zip(tokens, seen, strict=True)]
        for index, token in enumerate(tokens):
            inner = gelu(linear(layer_norm(token, w, f"{block}.norm2", 1e-6), w, f"{block}.mlp.fc1"))
            tokens[index] = token + linear(inner, w, f"{block}.mlp.fc2")
    return linear(layer_norm(tokens[0], w, "norm", 1e-6), w, "head")


@pytest.mark.parametrize(("height", "width"), [(12, 12), (20, 16), (8, 24)])
def test_a_public_file_gives_what_its_equations_give(height: int, width: int) -> None:
    """At its own size, and with positions that are stretched, and pressed."""
    weights = filled(SMALL)
    found = found_in(weights)
    own = (height, width) == found.size
    network = network_of(found, **({} if own else {"beyond": "interpolate"}))
    image_BCHW = torch.randn(2, 3, height, width)
    expected_K = reference(image_BCHW[1], weights, 4, 3)

    with torch.inference_mode():
        single = network(image_BCHW)
        double = network.double()(image_BCHW.double())

    assert single.shape == (2, 5)
    # Where positions are resampled, torch computes their weights in float32.
    assert float((double[1] - expected_K).abs().max()) < (1e-9 if own else 1e-6)
    assert float((single[1] - expected_K).abs().max()) < 1e-5 * max(1, float(expected_K.abs().max()))


def test_stretching_leaves_the_trained_size_alone() -> None:
    found = found_in(filled(SMALL))
    image_BCHW = torch.randn(1, 3, 12, 12)

    with torch.inference_mode():
        torch.testing.assert_close(
            network_of(found, beyond="interpolate")(image_BCHW), network_of(found)(image_BCHW)
        )
        with pytest.raises(ValueError, match="positions is for 12x12"):
            network_of(found)(torch.zeros(1, 3, 12, 16))
        with pytest.raises(ValueError, match="no whole patches of 4"):
            network_of(found)(torch.zeros(1, 3, 12, 13))


@pytest.mark.parametrize(
    ("width", "millions", "keys"), [(192, 5.72, 152), (384, 22.05, 152), (768, 86.57, 152)]
)
def test_the_parameters_are_those_published(width: int, millions: float, keys: int) -> None:
    shapes = public_keys(width)
    with torch.device("meta"):
        found = found_in({name: torch.empty(shape) for name, shape in shapes.items()})
        network = build_network(found.architecture, **found.config)

    assert len(shapes) == keys
    assert parameters(shapes) == sum(p.numel() for p in network.parameters())
    assert round(parameters(shapes) / 1e6, 2) == millions
    assert (found.size, found.multiple, found.task, found.classes) == ((224, 224), 16, "classification", 1000)


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("cls_token", None, "lacks the weights cls_token"),
        ("head.weight", None, "lacks the weights head.weight"),
        ("blocks.1.mlp.fc1.bias", None, "lacks the weights blocks.1.mlp.fc1.bias"),
        ("blocks.0.ls1.gamma", (128,), "unknown weights blocks.0.ls1.gamma"),
        ("blocks.0.attn.qkv.weight", (383, 128), "blocks.0.attn.qkv.weight has shape (383, 128)"),
        ("pos_embed", (1, 9, 128), "9 rows"),
        ("pos_embed", (1, 0, 128), "has shape (1, 0, 128)"),
        ("pos_embed", (), "has shape ()"),
        ("patch_embed.proj.weight", (128, 1, 4, 4), "takes 1 channels"),
        ("patch_embed.proj.weight", (100, 3, 4, 4), "100 channels do not divide into heads of 64"),
        ("dist_token", (1, 1, 128), "distilled"),
        ("blocks.99999.norm1.bias", (128,), "vit_depth is 100000"),
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


def test_no_description_asks_for_more_than_2_gb() -> None:
    names = ("in_channels", "answers", "vit_width", "vit_depth", "patch", "token_grid")
    with torch.device("meta"):
        network = build_network("vit", **{name: LARGEST[name] for name in names})

    assert sum(weight.nbytes for weight in network.state_dict().values()) < 2e9


def test_another_network_is_none() -> None:
    assert (
        recognise({"patch_embed.proj.weight": torch.ones(()), "blocks.0.attn.q.weight": torch.ones(())})
        is None
    )
