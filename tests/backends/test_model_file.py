"""Model files: what was written is read; what is damaged, unsafe or foreign is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from axialcli.backends import load_model
from axialcli.backends.model_file import read_model, read_spec, write_model
from axialcli.backends.spec import ModelSpec
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
    with pytest.raises(ModelError, match="no model 'nuclie': neither a file nor one of the names nuclei"):
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
    ],
)
def test_a_wrong_description_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    spec = small_spec("pixel_classifier")
    said = {**json.loads(spec.to_json()), **change}
    save_file(small_weights(spec), tmp_path / "m.safetensors", metadata={"axial": json.dumps(said)})

    with pytest.raises(ModelError, match=message):
        load_model(tmp_path / "m.safetensors")


def test_the_description_survives_its_json() -> None:
    spec = small_spec("pixel_classifier", classes=4)

    assert ModelSpec.from_json(spec.to_json(), "here") == spec
