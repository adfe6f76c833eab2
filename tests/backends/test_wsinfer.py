"""WSInfer's models and TorchScript: read as they are, run only on trust, the same numbers as by hand."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from axialcli.backends.spec import InputSpec, ModelSpec, OutputSpec
from axialcli.backends.torchscript_model import TorchScriptModel, is_torchscript, read_torchscript
from axialcli.backends.wsinfer import load_wsinfer, read_wsinfer, wsinfer_files
from axialcli.config import ClassInfo
from axialcli.errors import ModelError

MEAN, STD = [0.7238, 0.5716, 0.6779], [0.112, 0.1459, 0.1089]
TO_TENSOR = {"name": "ToTensor"}
NORMALIZE = {"name": "Normalize", "arguments": {"mean": MEAN, "std": STD}}
CPU = torch.device("cpu")


class PatchNet(nn.Module):
    """A small classifier; its last number counts the pixels that it sees, which shows the resize."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 5, stride=2)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(6, classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.first(images_BCHW)))
        return self.last(self.drop(features.mean((2, 3)))) + images_BCHW.shape[2] / 100


class MapNet(nn.Module):
    """A dense network at half resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Conv2d(3, 3, 2, stride=2)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.only(images_BCHW)


class PairNet(PatchNet):
    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return images_BCHW, images_BCHW


def scripted(network: nn.Module, *, frozen: bool = False) -> bytes:
    """The bytes of its TorchScript file; in training mode unless frozen, as people leave it."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        script = torch.jit.script(network)
        torch.jit.save(torch.jit.freeze(script.eval()) if frozen else script, buffer)
    return buffer.getvalue()


def patch_net(classes: int) -> PatchNet:
    torch.manual_seed(0)
    network = PatchNet(classes)
    network.norm.running_mean.normal_()
    network.norm.running_var.uniform_(0.5, 2)
    return network


def config(**changes: Any) -> dict[str, Any]:
    said: dict[str, Any] = {
        "spec_version": "1.0",
        "architecture": "resnet34",
        "num_classes": 2,
        "class_names": ["Other", "Tumor"],
        "patch_size_pixels": 40,
        "spacing_um_px": 0.25,
        "transform": [{"name": "Resize", "arguments": {"size": 28}}, TO_TENSOR, NORMALIZE],
    }
    return {key: value for key, value in {**said, **changes}.items() if value is not None}


def write_model(folder: Path, network: nn.Module, said: dict[str, Any], *, frozen: bool = False) -> Path:
    (folder / "config.json").write_text(json.dumps(said))
    (folder / "torchscript_model.pt").write_bytes(scripted(network, frozen=frozen))
    return folder


def patches(count: int = 5, side: int = 40) -> NDArray[np.uint8]:
    """Smooth pictures with some noise, uint8 [B, C, H, W]."""
    random = np.random.default_rng(0)
    coarse = random.integers(30, 226, (count, 3, 5, 5)).repeat(side // 5, 2).repeat(side // 5, 3)
    return (coarse + random.integers(-30, 30, coarse.shape)).astype(np.uint8)


def by_hand(network: PatchNet, images_BCHW: NDArray[np.uint8], side: int, *, rounded: bool) -> NDArray[Any]:
    """WSInfer's own way, a patch at a time: Pillow's resize, /255, mean and std, network, softmax or sigmoid.

    rounded: to whole grey levels, as Pillow does it with pictures of bytes.
    """
    probs = []
    for image_CHW in images_BCHW:
        if rounded:
            image = Image.fromarray(image_CHW.transpose(1, 2, 0))
            values_HWC = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float64)
        else:
            planes = [Image.fromarray(plane.astype(np.float32)) for plane in image_CHW]
            resized = [np.asarray(p.resize((side, side), Image.Resampling.BILINEAR)) for p in planes]
            values_HWC = np.stack(resized, -1).astype(np.float64)
        values_HWC = (values_HWC / 255 - MEAN) / STD
        with torch.no_grad():
            logits = network.eval().double()(torch.from_numpy(values_HWC.transpose(2, 0, 1).copy())[None])[0]
        if len(logits) == 1:
            probs.append([1 - logits.sigmoid().item(), logits.sigmoid().item()])
        else:
            probs.append(logits.softmax(0).tolist())
    network.float()
    return np.array(probs)


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("side", [28, 40, 64])
@pytest.mark.parametrize("frozen", [False, True])
def test_probabilities_are_those_of_the_network_by_hand(
    tmp_path: Path, classes: int, side: int, frozen: bool
) -> None:
    network = patch_net(classes)
    steps = [{"name": "Resize", "arguments": {"size": side}}, TO_TENSOR, NORMALIZE]
    said = config(num_classes=classes, class_names=list("abcd")[:classes], transform=steps)
    model = load_wsinfer(
        write_model(tmp_path, network, said, frozen=frozen), device=CPU, dtype=torch.float32, trust=True
    )

    got = model.predict(patches())

    assert got.dtype == np.float32
    assert np.abs(got - by_hand(network, patches(), side, rounded=False)).max() < 1e-5
    # Half a grey level of rounding in each of Pillow's two passes moves these probabilities by less.
    assert np.abs(got - by_hand(network, patches(), side, rounded=True)).max() < 5e-3


def test_the_same_patch_gives_the_same_bytes_alone_and_again(tmp_path: Path) -> None:
    folder = write_model(tmp_path, patch_net(2), config())
    model = load_wsinfer(folder, device=CPU, dtype=torch.float32, trust=True)

    runs = [model.predict(patches()).tobytes() for _ in range(4)]

    assert len(set(runs)) == 1


def test_a_configuration_is_a_description(tmp_path: Path) -> None:
    folder = write_model(tmp_path, patch_net(2), config(name="breast-tumor"))
    model = load_wsinfer(folder, device=CPU, dtype=torch.float32, trust=True)
    spec = model.spec

    assert (spec.name, spec.task, spec.architecture) == ("breast-tumor", "classification", "torchscript")
    assert (spec.input.size, spec.input.mpp, spec.input.channels) == (
        (40, 40),
        0.25,
        ("red", "green", "blue"),
    )
    assert (spec.input.mean, spec.input.std) == (tuple(MEAN), tuple(STD))
    assert (spec.output.activation, spec.output.stride) == ("softmax", 1)
    assert [entry.name for entry in spec.classes] == ["Other", "Tumor"]
    assert ModelSpec.from_json(spec.to_json(), "again") == spec
    assert model.describe()["backend"] == "torchscript"


def test_one_class_is_set_against_all_else(tmp_path: Path) -> None:
    folder = write_model(tmp_path, patch_net(1), config(num_classes=1, class_names=["lymph"]))
    spec = load_wsinfer(folder, device=CPU, dtype=torch.float32, trust=True).spec

    assert [entry.name for entry in spec.classes] == ["not lymph", "lymph"]
    assert spec.output.activation == "sigmoid"


def test_the_folder_and_both_files_mean_the_same_model(tmp_path: Path) -> None:
    folder = write_model(tmp_path, patch_net(2), config())
    both = (folder / "config.json", folder / "torchscript_model.pt")

    assert [wsinfer_files(path) for path in (folder, *both)] == [both] * 3
    assert wsinfer_files(folder / "other.pt") is None
    assert wsinfer_files(tmp_path / "nowhere") is None


def test_the_hash_covers_configuration_and_network(tmp_path: Path) -> None:
    def hashed(said: dict[str, Any], classes: int = 2) -> str:
        folder = write_model(tmp_path, patch_net(classes), said)
        return load_wsinfer(folder, device=CPU, dtype=torch.float32, trust=True).sha256

    first = hashed(config())
    other_scale = [TO_TENSOR, {"name": "Normalize", "arguments": {"mean": [0.5] * 3, "std": [0.5] * 3}}]

    assert hashed(config()) == first
    assert hashed(config(transform=other_scale)) != first
    assert hashed(config(num_classes=3, class_names=["a", "b", "c"]), 3) != first


def test_without_trust_nothing_of_the_network_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path, patch_net(2), config())
    monkeypatch.setattr(torch.jit, "load", lambda *given, **more: pytest.fail("it was loaded"))

    with pytest.raises(ModelError, match=r"torchscript_model\.pt: refused, .* code .* --trust-model"):
        load_wsinfer(folder, device=CPU, dtype=torch.float32, trust=False)


def steps(*changed: Any) -> dict[str, Any]:
    return config(transform=list(changed))


def resize(**arguments: Any) -> dict[str, Any]:
    return steps({"name": "Resize", "arguments": arguments}, TO_TENSOR)


@pytest.mark.parametrize("key", ["spec_version", "num_classes", "class_names", "spacing_um_px", "transform"])
def test_what_a_configuration_lacks_is_named(key: str) -> None:
    with pytest.raises(ModelError, match=rf"config\.json: not a configuration of WSInfer: lacks {key}"):
        read_wsinfer(json.dumps(config(**{key: None})).encode(), Path("config.json"))


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("{", "not a configuration of WSInfer"),
        ([], "not a configuration of WSInfer"),
        (config(spec_version="2.0"), "format '2.0' is not 1.0"),
        (config(num_classes=3), "num_classes is 3, class_names has 2"),
        (config(num_classes=True, class_names=["a"]), "num_classes is True"),
        (config(class_names="ab"), "not a list of names"),
        (config(num_classes=0, class_names=[]), "0 classes"),
        (config(class_names=["a", "b\n"]), "is not a name"),
        (config(patch_size_pixels=0), "patch_size_pixels is 0"),
        (config(patch_size_pixels=40.5), "patch_size_pixels is 40.5"),
        (config(patch_size_pixels=10**6), "patch_size_pixels is 1000000"),
        (config(spacing_um_px=0), "spacing_um_px is 0"),
        (config(spacing_um_px="0.25"), "spacing_um_px is '0.25'"),
        (config(transform={}), "transform is {}"),
        (steps({"name": "CenterCrop"}, TO_TENSOR), "transform 'CenterCrop' is not known"),
        (steps({"name": "ToTensor", "p": 0.5}), "ToTensor has the key 'p', which is not known"),
        (config(spacing_um_px=10**400), "spacing_um_px is 1000"),
        (steps({}, TO_TENSOR), "transform None is not known"),
        (steps(NORMALIZE), "the steps Normalize, which do not go together"),
        (steps(NORMALIZE, TO_TENSOR), "which do not go together"),
        (steps(), "which do not go together"),
        (steps(TO_TENSOR, TO_TENSOR), "which do not go together"),
        (steps(TO_TENSOR, NORMALIZE, {"name": "Resize", "arguments": {"size": 8}}), "Resize after Normalize"),
        (steps({"name": "ToTensor", "arguments": {"scale": 1}}), "ToTensor takes no arguments, not scale"),
        (steps(TO_TENSOR, {"name": "Normalize"}), "Normalize has the mean None"),
        (steps(TO_TENSOR, {"name": "Normalize", "arguments": {"mean": MEAN, "std": [1, 1]}}), "the std [1"),
        (steps(TO_TENSOR, {"name": "Normalize", "arguments": {"mean": MEAN, "std": [0, 0, 0]}}), "std is"),
        (resize(), "Resize has the size None"),
        (resize(size=0), "Resize has the size 0"),
        (resize(size=[28, 30]), "patches are square"),
        (resize(size=28, interpolation=3), "Resize with interpolation 3 is not supported"),
        (resize(size=28, max_size=90), "Resize with max_size 90"),
        (resize(size=28, antialias=False), "Resize with antialias False"),
        (resize(size=28, fill=1), "Resize has the argument 'fill'"),
    ],
)  # fmt: skip
def test_a_configuration_that_is_damaged_or_asks_for_more_is_refused(said: Any, says: str) -> None:
    text = said if isinstance(said, str) else json.dumps(said)

    with pytest.raises(ModelError) as caught:
        read_wsinfer(text.encode(), Path("config.json"))

    assert str(caught.value).startswith("config.json: ")
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_keys_beyond_the_format_are_named(caplog: pytest.LogCaptureFixture) -> None:
    said = config(stain_normalization=True, license="MIT")

    read_wsinfer(json.dumps(said).encode(), Path("config.json"))

    (record,) = caplog.records
    assert (
        record.getMessage()
        == "config.json: stain_normalization: not part of WSInfer's format, without effect"
    )


@pytest.mark.parametrize(
    ("network", "said", "says"),
    [
        (patch_net(3), config(), "answers [1, 3], its description says [1, 2]"),
        (patch_net(2), config(num_classes=1, class_names=["a"]), "answers [1, 2], its description says"),
        (patch_net(2), resize(size=2), "the network does not take [1, 3, 40, 40]"),
        (PairNet(2), config(), "answers a tuple, not a tensor"),
    ],
)  # fmt: skip
def test_a_network_that_is_not_as_described_is_refused(
    tmp_path: Path, network: nn.Module, said: dict[str, Any], says: str
) -> None:
    folder = write_model(tmp_path, network, said)

    with pytest.raises(ModelError) as caught:
        load_wsinfer(folder, device=CPU, dtype=torch.float32, trust=True)

    assert str(caught.value).startswith(str(folder / "torchscript_model.pt"))
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("keep", [0, 1, 10, 1000, -1])
def test_a_damaged_network_is_refused(tmp_path: Path, keep: int) -> None:
    folder = write_model(tmp_path, patch_net(2), config())
    whole = (folder / "torchscript_model.pt").read_bytes()
    (folder / "torchscript_model.pt").write_bytes(whole[:keep])

    with pytest.raises(ModelError, match=r"torchscript_model\.pt: not a whole TorchScript file"):
        load_wsinfer(folder, device=CPU, dtype=torch.float32, trust=True)


def test_a_missing_network_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config()))

    with pytest.raises(ModelError, match=r"torchscript_model\.pt: no such model file"):
        load_wsinfer(tmp_path, device=CPU, dtype=torch.float32, trust=True)


def test_a_folder_of_something_else_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model of WSInfer, which is a folder with config\.json"):
        load_wsinfer(tmp_path, device=CPU, dtype=torch.float32, trust=True)


def test_a_dense_torchscript_network_runs_with_its_description(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = MapNet()
    (tmp_path / "map.pt").write_bytes(scripted(network))
    spec = ModelSpec(
        name="map",
        task="segmentation",
        architecture="torchscript",
        config={},
        input=InputSpec(channels=("r", "g", "b"), mean=(0.5,) * 3, std=(0.25,) * 3),
        output=OutputSpec(stride=2),
        classes=tuple(ClassInfo(name=name, colour=(0, 0, 0)) for name in "abc"),
    )
    data = read_torchscript(tmp_path / "map.pt", trust=True)
    model = TorchScriptModel(
        data, spec=spec, device=CPU, dtype=torch.float32, sha256="0" * 64, where="map.pt"
    )
    images_BCHW = patches(2)

    got = model.predict(images_BCHW)

    # A convolution of 2 x 2 with stride 2 is one matrix for each block of pixels.
    values = (images_BCHW / 255 - 0.5) / 0.25
    blocks = values.reshape(2, 3, 20, 2, 20, 2).transpose(0, 2, 4, 1, 3, 5)
    weight, bias = network.only.weight.detach().numpy(), network.only.bias.detach().numpy()
    logits = np.einsum("bhwcyx,kcyx->bkhw", blocks, weight) + bias[:, None, None]
    want = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.abs(got - want).max() < 1e-5


def test_torchscript_is_told_from_plain_weights(tmp_path: Path) -> None:
    (tmp_path / "script.pt").write_bytes(scripted(MapNet()))
    torch.save(MapNet().state_dict(), tmp_path / "weights.pt")
    (tmp_path / "text.pt").write_text("PK\x03\x04 no archive")

    names = ("script.pt", "weights.pt", "text.pt", "missing.pt")
    assert [is_torchscript(tmp_path / name) for name in names] == [True, False, False, False]
