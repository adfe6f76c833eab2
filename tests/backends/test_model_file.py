"""Model files: what was written is read; what is damaged, unsafe or foreign is refused in one line."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from axialcli.backends import load_model
from axialcli.backends.model_file import read_model, read_spec, write_model
from axialcli.backends.spec import ModelSpec
from axialcli.backends.zoo import find_model, model_names
from axialcli.errors import ModelError
from tests.networks import small_model_file, small_spec, small_weights


def test_a_written_file_reads_back_as_float16(tmp_path: Path) -> None:
    spec = small_spec("axial_segmenter", width=[4, 4, 6], depth=1, heads=1, span=3)
    weights = small_weights(spec)
    write_model(tmp_path / "m.safetensors", spec, weights)

    again, stored = read_model(tmp_path / "m.safetensors")

    assert again == spec == read_spec(tmp_path / "m.safetensors")
    for name, tensor in stored.items():
        assert torch.equal(tensor, weights[name].half())


def test_plain_weights_with_a_sidecar_are_a_model(tmp_path: Path) -> None:
    spec = small_spec("pixel_classifier")
    torch.save(small_weights(spec), tmp_path / "m.pth")
    (tmp_path / "m.pth.json").write_text(spec.to_json())

    assert load_model(tmp_path / "m.pth").spec == spec


class Evil:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_file_that_carries_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"weight": Evil(tmp_path / "ran")}, tmp_path / "evil.pth")

    with pytest.raises(ModelError, match=r"evil\.pth: refused, it carries code"):
        load_model(tmp_path / "evil.pth")

    assert not (tmp_path / "ran").exists()


def test_a_missing_model_names_those_that_there_are() -> None:
    names = ", ".join(model_names())
    assert "nuclei" in names
    with pytest.raises(ModelError, match=f"no model 'nuclie': neither a file nor one of the names {names}"):
        load_model("nuclie")


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 100, 500, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    whole = small_model_file(tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:keep])

    with pytest.raises(ModelError, match=r"cut\.safetensors: not a whole safetensors file"):
        load_model(tmp_path / "cut.safetensors")


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    spec = small_spec("pixel_classifier")
    weights = small_weights(spec)

    write_model(tmp_path / "a.safetensors", spec, {"head.weight": weights["head.weight"]})
    with pytest.raises(ModelError, match=r"lacks the weights head\.bias"):
        load_model(tmp_path / "a.safetensors")

    write_model(tmp_path / "b.safetensors", spec, {**weights, "tail": torch.zeros(1)})
    with pytest.raises(ModelError, match="unknown weights tail"):
        load_model(tmp_path / "b.safetensors")

    write_model(tmp_path / "c.safetensors", spec, {**weights, "head.bias": torch.zeros(3)})
    with pytest.raises(ModelError, match=r"head\.bias has shape \(3,\), the network wants \(2,\)"):
        load_model(tmp_path / "c.safetensors")


def test_a_safetensors_file_without_a_description_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")

    with pytest.raises(ModelError, match=r"says nothing about its model"):
        load_model(tmp_path / "x.safetensors")


BLACK = {"name": "a", "colour": "#000000"}
RGB = {"channels": ["r", "g", "b"], "mean": [0, 0, 0], "std": [1, 1, 1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "model format 99 is not known"),
        ({"classes": []}, "0 classes"),
        ({"classes": [{"name": "a", "colour": "red"}] * 2}, "description is damaged"),
        ({"task": "detection"}, "neither segmentation nor classification"),
        ({"architecture": {"name": "unheard_of"}}, "architecture 'unheard_of' is not one of"),
        ({"architecture": {"name": "pixel_classifier", "depth": 3}}, "has no setting depth"),
        ({"input": None}, "description is damaged"),
        ({"output": {"activation": "relu", "stride": 1}}, "activation 'relu' is not known"),
        ({"name": "two\nlines"}, "description is damaged"),
        ({"name": {}}, "description is damaged"),
        ({"network_stride": 1.5}, "description is damaged"),
        ({"network_stride": 10**7}, "strides are whole numbers from 1 to 4096"),
        ({"receptive_field_px": math.inf}, "description is damaged"),
        ({"architecture": {"name": "pixel_classifier", "architecture": "x"}}, "no setting 'architecture'"),
        ({"classes": [BLACK] * 3}, "answers 2 logits a pixel, 3 classes with softmax need 3"),
        (
            {"output": {"activation": "sigmoid", "stride": 1}},
            "2 logits a pixel, 2 classes with sigmoid need 1",
        ),
        (
            {"output": {"activation": "sigmoid", "stride": 1}, "classes": [BLACK] * 3},
            "sigmoid needs two classes, not 3",
        ),
        (
            {"input": {"channels": ["x"], "mean": [0], "std": [1]}},
            "m.safetensors: the network does not take 1 channels",
        ),
        ({"input": {"channels": [], "mean": [], "std": []}}, "need one value per channel"),
        ({"input": {**RGB, "mean": [math.nan, 0, 0]}}, "mean is"),
        ({"input": {**RGB, "std": [1, math.nan, 1]}}, "std is"),
        ({"input": {**RGB, "std": [1, math.inf, 1]}}, "std is"),
        ({"input": {**RGB, "std": [1, 10**400, 1]}}, "description is damaged"),
        ({"input": {**RGB, "mpp": math.nan}}, "mpp is nan"),
        ({"input": {**RGB, "mpp": math.inf}}, "mpp is inf"),
        ({"input": {**RGB, "mpp": 0}}, "mpp is 0"),
        ({"input": {**RGB, "mpp": 1, "mpp_range": [2, 0.5]}}, "mpp_range is"),
        ({"input": {**RGB, "mpp": 1, "mpp_range": [2, 3]}}, "mpp_range is"),
        ({"input": {**RGB, "mpp_range": [0.1, math.nan]}}, "mpp_range is"),
        ({"input": {**RGB, "mpp_range": [1, 2, 3]}}, "description is damaged"),
        ({"output": {"activation": "softmax", "stride": 1, "threshold": math.nan}}, "threshold is nan"),
        ({"output": {"activation": "softmax", "stride": 1, "threshold": 1.5}}, "threshold is 1.5"),
    ],
)
def test_a_wrong_description_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    spec = small_spec("pixel_classifier")
    said = {**json.loads(spec.to_json()), **change}
    save_file(small_weights(spec), tmp_path / "m.safetensors", metadata={"axial": json.dumps(said)})

    with pytest.raises(ModelError, match=message):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "config",
    [
        {"heads": 0},
        {"heads": 5},
        {"heads": True},
        {"width": [-4, 4, 6]},
        {"width": [4, 4]},
        {"width": 4},
        {"depth": 10**7},
        {"depth": "3"},
        {"span": 4},
        {"span": 10**6 + 1},
        {"classes": 2.0},
        {"mlp_ratio": [1] * 1000},
        {"in_channels": None},
        {"width": [4096, 4096, 4096], "mlp_ratio": 4096},
    ],
)
def test_sizes_that_make_no_network_are_refused(tmp_path: Path, config: dict[str, object]) -> None:
    spec = small_spec("axial_segmenter", width=[4, 4, 6], depth=1, heads=1, span=3)
    said = json.loads(spec.to_json())
    said["architecture"] |= config
    save_file(small_weights(spec), tmp_path / "m.safetensors", metadata={"axial": json.dumps(said)})

    with pytest.raises(ModelError, match=r"m\.safetensors: [^\n]*$"):
        load_model(tmp_path / "m.safetensors")


def test_a_nested_description_is_refused(tmp_path: Path) -> None:
    weights = small_weights(small_spec("pixel_classifier"))
    nested = "[" * 200_000 + "]" * 200_000
    save_file(weights, tmp_path / "m.safetensors", metadata={"axial": nested})
    torch.save(weights, tmp_path / "m.pth")
    (tmp_path / "m.pth.json").write_text(nested)

    for name in ("m.safetensors", "m.pth"):
        with pytest.raises(ModelError, match="nested too deeply"):
            load_model(tmp_path / name)


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        (torch.tensor([0, math.nan]), "head.bias holds NaN or infinity"),
        (torch.tensor([0, math.inf]), "head.bias holds NaN or infinity"),
        (torch.tensor([0, 1e300], dtype=torch.float64), "head.bias holds NaN or infinity"),
        (torch.tensor([0, 1]), "head.bias is stored as torch.int64"),
        (torch.zeros(2).to_sparse(), "head.bias is no plain tensor of numbers"),
        (torch.zeros(2, device="meta"), "head.bias is no plain tensor of numbers"),
    ],
)
def test_weights_that_are_no_finite_floats_are_named(
    tmp_path: Path, bias: torch.Tensor, message: str
) -> None:
    spec = small_spec("pixel_classifier")
    torch.save({**small_weights(spec), "head.bias": bias}, tmp_path / "m.pth")
    (tmp_path / "m.pth.json").write_text(spec.to_json())

    with pytest.raises(ModelError, match=message):
        load_model(tmp_path / "m.pth")


def test_statistics_that_make_nan_are_refused(tmp_path: Path) -> None:
    spec = small_spec("axial_segmenter", width=[4, 4, 6], depth=1, heads=1, span=3)
    weights = small_weights(spec)
    weights["down8.1.running_var"].fill_(-5)
    write_model(tmp_path / "m.safetensors", spec, weights)

    with pytest.raises(ModelError, match="answers NaN or infinity to a blank picture"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_pytorch_file_is_refused(tmp_path: Path, zipped: bool) -> None:
    spec = small_spec("pixel_classifier")
    torch.save(small_weights(spec), tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "m.pth").read_bytes()
    (tmp_path / "bad.pth.json").write_text(spec.to_json())
    noise = np.random.default_rng(0)

    for _ in range(150):
        damaged = bytearray(whole)
        for place in noise.integers(0, len(whole), 8):
            damaged[place] = noise.integers(0, 256)
        (tmp_path / "bad.pth").write_bytes(damaged[: noise.integers(1, len(whole) + 1)])
        # Damage within the numbers alone leaves a file that is whole.
        with contextlib.suppress(ModelError):
            load_model(tmp_path / "bad.pth")


@pytest.mark.parametrize(
    "error", [AssertionError(), struct.error("cut"), IndexError("pop"), RecursionError()]
)
def test_whatever_torch_raises_is_one_kind_of_error(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    torch.save({}, tmp_path / "m.pth")
    monkeypatch.setattr(torch, "load", fail)

    with pytest.raises(ModelError, match=r"m\.pth: not a whole PyTorch file \(\w+\)"):
        load_model(tmp_path / "m.pth")


@pytest.mark.parametrize("locked", ["m.safetensors", "m.pth", "m.pth.json"])
def test_a_file_without_permission_says_so(
    tmp_path: Path, locked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_model_file(tmp_path / "m.safetensors")
    torch.save(small_weights(small_spec("pixel_classifier")), tmp_path / "m.pth")
    (tmp_path / "m.pth.json").write_text("{}")
    opened = Path.open

    def guarded(self: Path, *args: Any, **kwargs: Any) -> Any:
        # Permissions do not bind root, who may be running this.
        if self.name == locked:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", guarded)

    with pytest.raises(ModelError, match=re.escape(f"{locked}: cannot be read (Permission denied)")):
        load_model(tmp_path / locked.removesuffix(".json"))


def test_a_folder_is_no_model_and_no_description(tmp_path: Path) -> None:
    (tmp_path / "d.safetensors").mkdir()
    torch.save(small_weights(small_spec("pixel_classifier")), tmp_path / "m.pth")
    (tmp_path / "m.pth.json").mkdir()

    with pytest.raises(ModelError, match=r"d\.safetensors: a folder without the config\.json"):
        load_model(tmp_path / "d.safetensors")
    for read in (read_model, read_spec):
        with pytest.raises(ModelError, match=r"d\.safetensors: not a file"):
            read(tmp_path / "d.safetensors")
    with pytest.raises(ModelError, match=r"m\.pth\.json: not a file"):
        load_model(tmp_path / "m.pth")


def test_paths_that_cannot_be_are_no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("x" * 300, "/" + "y/" * 5000, "a\0b", "file.tif/model.safetensors", "two\nlines"):
        with pytest.raises(ModelError, match=r"\A[^\n\0]*\Z"):
            load_model(path)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "stat", denied)
    with pytest.raises(ModelError, match=r"m\.safetensors: cannot be read \(Permission denied\)"):
        find_model(tmp_path / "m.safetensors")


def test_the_description_survives_its_json() -> None:
    spec = small_spec("pixel_classifier", classes=4)

    assert ModelSpec.from_json(spec.to_json(), "here") == spec
