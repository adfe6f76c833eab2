"""VMINet against loops, and checkpoints as its public code lays them out."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from axialcli.backends.torch_model import fold, load_weights
from axialcli.engine.stream import NotStreamable, trace
from axialcli.errors import ModelError
from axialcli.geometry import Size
from axialcli.nn import build_network
from axialcli.nn.families import recognise
from axialcli.nn.families.global_sum import GlobalSum
from axialcli.nn.families.vminet import Version, VMINet, VMINetConfig
from axialcli.nn.families.vminet_segmenter import VMINetSegmenter, segmenter_of
from axialcli.nn.settings import LARGEST
from tests.nn.families.in_loops import (
    Array,
    arrays,
    convolved,
    normed,
    random_weights,
    resampled,
)

PUBLIC_BLOCKS = (2, 2, 18, 2)
SMALL_BLOCKS = (1, 1, 2, 1)
VERSIONS: tuple[Version, ...] = ("v1", "v2")


def batch_norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{part}": (channels,) for part in parts}, f"{name}.num_batches_tracked": ()}


def layer(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def public_shapes(
    version: Version, base: int, ratio: int, *, blocks: tuple[int, ...] = PUBLIC_BLOCKS, side: int = 224
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the public code's state_dict."""
    shapes = {**layer("stem.0.conv", (32, 3, 3, 3)), **batch_norm("stem.0.bn", 32)}
    below, grid, spatial = 32, -(-side // 2), {"v1": "dwconv", "v2": "conv"}[version]
    for stage, count in enumerate(blocks):
        width, grid, at = base * 2**stage, -(-grid // 2), f"stages.{stage}"
        shapes |= layer(f"{at}.0.conv", (width, below, 3, 3)) | batch_norm(f"{at}.0.bn", width)
        for block in (f"{at}.{index + 1}" for index in range(count)):
            shapes |= {f"{block}.stack": (2,)} | layer(f"{block}.{spatial}.conv", (width, 1, 7, 7))
            shapes |= batch_norm(f"{block}.{spatial}.bn", width)
            shapes |= layer(f"{block}.f1.conv", (ratio * width, width, 1, 1))
            shapes |= layer(f"{block}.f2.conv", (ratio * width, width, 1, 1))
            shapes |= {f"{block}.sum.weight": (1, grid**2)}
            shapes |= layer(f"{block}.g.conv", (width, ratio * width, 1, 1))
            shapes |= batch_norm(f"{block}.g.bn", width) if version == "v1" else {}
        below = width
    return shapes | batch_norm("norm", below) | layer("head", (1000, below))


def small_checkpoint(version: Version, *, side: int = 32, seed: int = 0) -> dict[str, Tensor]:
    return random_weights(public_shapes(version, 4, 2, blocks=SMALL_BLOCKS, side=side), seed)


def maps_in_loops(weights: Mapping[str, Array], picture: Array, version: Version) -> list[Array]:
    """What the four stages give."""

    def conv(x: Array, name: str, *, stride: int = 1, groups: int = 1) -> Array:
        return convolved(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=stride, groups=groups)

    x = np.clip(normed(conv(picture, "stem.0.conv", stride=2), weights, "stem.0.bn"), 0, 6)
    maps = []
    for stage, count in enumerate(SMALL_BLOCKS):
        at = f"stages.{stage}"
        x = normed(conv(x, f"{at}.0.conv", stride=2), weights, f"{at}.0.bn")
        for block in (f"{at}.{index + 1}" for index in range(count)):
            spatial = f"{block}.{'dwconv' if version == 'v1' else 'conv'}"
            mixed = normed(conv(x, f"{spatial}.conv", groups=len(x)), weights, f"{spatial}.bn")
            hidden = np.clip(conv(mixed, f"{block}.f1.conv"), 0, 6) * conv(mixed, f"{block}.f2.conv")
            learned, stack = weights[f"{block}.sum.weight"][0], weights[f"{block}.stack"]
            joined = np.zeros_like(hidden)
            for c, channel in enumerate(hidden):
                tokens = channel.ravel()
                seen = [p for p in range(len(tokens)) if version == "v1" or c <= p]
                joined[c] = stack[0] * sum(learned[p] * tokens[p] for p in seen) + stack[1] * channel
            out = conv(np.clip(joined, 0, 6), f"{block}.g.conv")
            x = x + (normed(out, weights, f"{block}.g.bn") if version == "v1" else out)
        maps.append(x)
    return maps


def logits_in_loops(weights: Mapping[str, Array], picture: Array, version: Version) -> Array:
    *_, last = maps_in_loops(weights, picture, version)
    pooled = np.array([float(channel.mean()) for channel in normed(last, weights, "norm")])
    return weights["head.weight"] @ pooled + weights["head.bias"]


def off(got: Tensor, want: Tensor | Array) -> float:
    """The largest difference, in units of the largest answer."""
    want = torch.as_tensor(want)
    assert got.shape == want.shape
    return float((got.double() - want.double()).abs().max() / want.abs().max())


def network_of(checkpoint: Mapping[str, Tensor], **settings: str) -> torch.nn.Module:
    found = recognise(checkpoint)
    assert found is not None
    network = build_network(found.architecture, **{**found.config, **settings}).eval()
    load_weights(network, found.weights, "some.pth")
    return network


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("side", [32, 52])
def test_a_network_equals_the_equations_in_loops(version: Version, side: int) -> None:
    """52: grids of 13, 7, 4 and 2, so that halving is rounded up."""
    checkpoint = small_checkpoint(version, side=side)
    picture = torch.randn(3, side, side, dtype=torch.float64)

    want = logits_in_loops(arrays(checkpoint), picture.numpy(), version)

    network = network_of(checkpoint)
    with torch.inference_mode():
        single = network(picture[None].float())[0]
        fold(network)
        folded = network(picture[None].float())[0]
    assert off(network_of(checkpoint).double()(picture[None])[0].detach(), want) < 1e-9
    assert off(single, want) < 1e-5
    assert off(folded, want) < 1e-5


@pytest.mark.parametrize(
    ("base", "ratio", "millions"), [(24, 2, 2.04), (48, 2, 7.44), (48, 4, 13.35), (96, 2, 28.39)]
)
def test_sizes_have_the_published_counts(base: int, ratio: int, millions: float) -> None:
    counted = {}
    for version in VERSIONS:
        with torch.device("meta"):
            network = VMINet(VMINetConfig(base_dim=base, mlp_ratio=ratio, version=version))
        counted[version] = sum(weight.numel() for weight in network.parameters())

        public = public_shapes(version, base, ratio)
        assert {name: tuple(weight.shape) for name, weight in network.state_dict().items()} == public
        assert len(public) == {"v1": 522, "v2": 402}[version]
    assert round(counted["v1"] / 1e6, 2) == millions
    # "4.5 to 18 k fewer".
    assert counted["v1"] - counted["v2"] == 188 * base


@pytest.mark.parametrize("version", VERSIONS)
def test_a_public_checkpoint_answers_as_its_weights_put_in_directly(version: Version) -> None:
    checkpoint = random_weights(public_shapes(version, 24, 2))
    picture = torch.randn(1, 3, 224, 224)
    direct = VMINet(VMINetConfig(base_dim=24, version=version)).eval()
    direct.load_state_dict(checkpoint)

    found = recognise(checkpoint)

    assert found is not None
    assert "VMINet Ti" in found.family
    assert ("VMINet2.0" in found.family) == (version == "v2")
    assert (found.task, found.classes, found.size) == ("classification", 1000, (224, 224))
    network = network_of(checkpoint)
    with torch.inference_mode():
        want = direct(picture)
        assert torch.equal(network(picture), want)
        fold(network)
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
        assert off(network(picture), want) < 1e-5


@pytest.mark.parametrize(
    ("base", "ratio", "name"), [(24, 2, "Ti"), (48, 2, "XS"), (48, 4, "S"), (96, 2, "B"), (8, 4, "width 8")]
)
@pytest.mark.parametrize("version", VERSIONS)
def test_sizes_are_read_from_shapes(version: Version, base: int, ratio: int, name: str) -> None:
    found = recognise(
        {
            key: torch.empty(shape, device="meta")
            for key, shape in public_shapes(version, base, ratio, side=256).items()
        }
    )

    assert found is not None
    assert name in found.family
    assert found.config == {
        "in_channels": 3,
        "answers": 1000,
        "base_dim": base,
        "mlp_ratio": ratio,
        "stage_blocks": PUBLIC_BLOCKS,
        "version": version,
        "trained_side": 256,
        "beyond": None,
    }
    assert not any("num_batches_tracked" in key for key in found.weights)


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("stages.1.1.f2.conv.bias", None, "lacks the weights stages.1.1.f2.conv.bias"),
        ("stages.2.2.stack", None, "lacks the weights stages.2.2.stack"),
        ("stages.2.1.gate.weight", (3,), "unknown weights stages.2.1.gate.weight"),
        ("stages.0.1.conv.conv.weight", (4, 1, 7, 7), "unknown weights stages.0.1.conv.conv.weight"),
        ("stages.3.1.sum.weight", (1, 4), "stages.3.1.sum.weight has shape (1, 4)"),
        ("head.weight", (5, 32), "head.bias has shape (1000,)"),
    ],
)
def test_weights_that_are_not_the_networks_are_one_clear_error(
    name: str, shape: tuple[int, ...] | None, says: str
) -> None:
    checkpoint = small_checkpoint("v1")
    checkpoint.pop(name, None)
    if shape is not None:
        checkpoint[name] = torch.randn(shape)

    with pytest.raises(ModelError) as refused:
        network_of(checkpoint)

    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("head.weight", None, "lacks the weights head.weight"),
        ("stem.0.conv.weight", (32, 4, 3, 3), "takes 4 channels"),
        ("stem.0.conv.weight", (32,), "stem.0.conv.weight has shape (32,)"),
        ("stages.0.1.sum.weight", (1, 60), "sums over 60 tokens"),
        ("stages.0.1.sum.weight", (1, 0), "has shape (1, 0)"),
        ("stages.0.1.f1.conv.weight", (9, 4, 1, 1), "9 hidden channels for 4"),
        ("stages.0.1.f1.conv.weight", (2, 4, 1, 1), "2 hidden channels for 4"),
        ("head.weight", (1_000_000, 32), "answers is 1000000"),
        ("stages.0." + "9" * 5000 + ".stack", (2,), "lacks the weights"),
        ("stages.0.1.sum.weight", (1, 257**2), "trained_side is 1028"),
    ],
)
def test_what_makes_no_network_is_refused(name: str, shape: tuple[int, ...] | None, says: str) -> None:
    checkpoint = small_checkpoint("v2")
    checkpoint.pop(name, None)
    if shape is not None:
        checkpoint[name] = torch.empty(shape)

    with pytest.raises(ModelError, match=says.replace("(", r"\(").replace(")", r"\)")):
        network_of(checkpoint)


def test_other_networks_are_none_of_this_family() -> None:
    assert recognise({}) is None
    assert recognise({"stem.0.conv.weight": torch.empty(0), "stages.0.1.stack": torch.empty(2)}) is None
    assert recognise({f"layers.{index}.weight": torch.empty(1) for index in range(5000)}) is None


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("grid", [(5, 5), (7, 12), (3, 4), (1, 9)])
def test_a_sum_reaches_other_grids_as_its_docstring_says(masked: bool, grid: tuple[int, int]) -> None:
    sums = GlobalSum(side=5, masked=masked, beyond="interpolate").double()
    hidden = torch.randn(2, 40, *grid, dtype=torch.float64)
    learned = sums.weight.detach().numpy().reshape(1, 5, 5)
    height, width = grid

    weight = resampled(learned, *grid, factor=(height / 5, width / 5))[0] * 25 / (height * width)
    want = torch.zeros(2, 40, 1, 1, dtype=torch.float64)
    for c in range(40):
        for y in range(height):
            for x in range(width):
                # The token of the trained grid that lies at the same place of the picture.
                place = math.floor(y * 5 / height) * 5 + math.floor(x * 5 / width)
                if not masked or c <= place:
                    want[:, c, 0, 0] += weight[y, x] * hidden[:, c, y, x]

    assert (sums(hidden) - want).abs().max() < 1e-9


@pytest.mark.parametrize("version", VERSIONS)
def test_beyond_changes_nothing_at_the_trained_size(version: Version) -> None:
    checkpoint, picture = small_checkpoint(version), torch.randn(2, 3, 32, 32)
    further = network_of(checkpoint, beyond="interpolate")

    with torch.inference_mode():
        assert torch.equal(further(picture), network_of(checkpoint)(picture))
        assert further(torch.randn(1, 3, 47, 66)).isfinite().all()


def test_another_size_than_the_trained_one_is_refused() -> None:
    with pytest.raises(ValueError, match="8 x 8 tokens, not 10 x 8"):
        network_of(small_checkpoint("v1"))(torch.randn(1, 3, 40, 32))


def test_a_stream_refuses_it_by_name() -> None:
    network = build_network("vminet_segmenter", base_dim=8, beyond="interpolate").eval()

    with pytest.raises(NotStreamable, match=r"'GlobalSum'.*looks at the whole picture"):
        trace(network, 3, Size(64, 64))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_segmenter_takes_the_pyramid_and_joins_it(version: Version) -> None:
    checkpoint = small_checkpoint(version, side=52)
    found = recognise(checkpoint)
    assert found is not None
    network = segmenter_of(found, classes=3, pyramid_width=6).eval()
    fresh = {
        name: tuple(weight.shape)
        for name, weight in network.state_dict().items()
        if not name.startswith(("stem.", "stages."))
    }
    head = random_weights(fresh, seed=1)
    network.load_state_dict(head, strict=False)
    picture, weights = torch.randn(3, 52, 52), arrays(head)

    def conv_bn_relu(x: Array, name: str) -> Array:
        return np.maximum(normed(convolved(x, weights[f"{name}.0.weight"], None), weights, f"{name}.1"), 0)

    maps = maps_in_loops(arrays(checkpoint), picture.double().numpy(), version)
    laterals = [conv_bn_relu(each, f"lateral.{level}") for level, each in enumerate(maps)]
    merged = laterals.pop()
    for own in reversed(laterals):
        merged = own + resampled(merged, *own.shape[1:], factor=(2, 2))
    smooth = conv_bn_relu(merged, "smooth")
    logits4 = convolved(smooth, weights["classify.weight"], weights["classify.bias"])
    want = resampled(logits4, 52, 52, factor=(4, 4))

    with torch.inference_mode():
        single = network(picture[None])[0]
        fold(network)
        assert off(network(picture[None])[0], single) < 1e-5
    assert off(single, want) < 1e-5


@pytest.mark.parametrize(("height", "width"), [(1, 1), (33, 70), (96, 64)])
def test_a_segmenter_answers_every_pixel_of_any_size(height: int, width: int) -> None:
    network = build_network("vminet_segmenter", base_dim=8, classes=4, beyond="interpolate").eval()

    assert isinstance(network, VMINetSegmenter)
    assert network(torch.randn(1, 3, height, width)).shape == (1, 4, height, width)


def test_a_segmenter_wants_the_whole_pyramid() -> None:
    checkpoint = small_checkpoint("v2")
    del checkpoint["stages.2.0.bn.running_var"]
    found = recognise(checkpoint)
    assert found is not None

    with pytest.raises(ModelError, match=r"VMINet .*: lacks the weights stages\.2\.0\.bn\.running_var"):
        segmenter_of(found, classes=2)


@pytest.mark.parametrize("name", ["vminet", "vminet_segmenter"])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_largest_networks_stay_under_2_gb_of_weights(name: str, version: Version) -> None:
    own = {"vminet": ("answers",), "vminet_segmenter": ("classes", "pyramid_width")}[name]
    shared = ("in_channels", "base_dim", "mlp_ratio", "trained_side")
    largest = {key: LARGEST[key] for key in (*shared, *own)}
    with torch.device("meta"):
        network = build_network(name, stage_blocks=(LARGEST["stage_blocks"],) * 4, version=version, **largest)

    assert sum(weight.nbytes for weight in network.state_dict().values()) < 2e9
