"""Exported models: any shape, any block, the same answers as torch, and nothing written where they differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from axialcli.backends import load_model
from axialcli.backends.export import Exported, export
from axialcli.backends.onnx_model import OnnxModel
from axialcli.backends.parity import PARITY_KEY, compare, trial_images
from axialcli.backends.spec import METADATA_KEY
from axialcli.backends.torch_model import TorchModel
from axialcli.errors import ModelError, UsageError
from axialcli.geometry import Size
from tests.backends.conftest import Axial
from tests.backends.test_torch_classifier import written
from tests.networks import small_model, small_model_file

SMALL: dict[str, Any] = {"width": (4, 4, 8), "heads": 2, "depth": 1, "span": 5}

BLOCKS: dict[str, dict[str, Any]] = {
    "span": {},
    "rotary within a span": {"positions": "rotary"},
    "no positions": {"positions": "none"},
    "no span": {"span": None},
    "columns first, a feed-forward after each": {"order": "height_width", "feed_forward": "each"},
    "parallel, shared": {"order": "parallel", "shared": True},
    "one axis": {"skip": ("width",)},
    "windows": {"depth": 2, "window": 3},
    "separable": {"attention": "separable"},
    "split heads": {"attention": "split_heads"},
    "global, stride 16": {"global_blocks": 1, "width": (4, 4, 8, 8)},
}


@pytest.fixture(scope="module")
def exports() -> dict[str, Exported]:
    """What was exported already, by the block's name: an export takes seconds."""
    return {}


def exported(block: str, exports: dict[str, Exported]) -> tuple[TorchModel, Exported]:
    model = small_model("axial_segmenter", **{**SMALL, **BLOCKS[block]})
    if block not in exports:
        exports[block] = export(model)
    return model, exports[block]


def ran(data: bytes, image_BCHW: np.ndarray) -> np.ndarray:
    """The answer of a session of our own making."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image_BCHW})[0]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_is_the_same_at_shapes_that_nobody_traced(
    block: str, exports: dict[str, Exported]
) -> None:
    model, made = exported(block, exports)

    for shape in [(1, 3, 8, 8), (2, 3, 1, 77), (1, 3, 203, 90), (4, 3, 33, 64)]:
        image_BCHW = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            want = model.network(image_BCHW).numpy()
        got = ran(made.data, image_BCHW.numpy())
        assert got.shape == want.shape
        assert np.abs(got - want).max() < 1e-4 * max(1, np.abs(want).max())
    assert len(made.parities) >= 5
    assert all(parity.agreement == 1 for parity in made.parities)


def test_the_file_is_a_complete_model_by_itself(tmp_path: Path, exports: dict[str, Exported]) -> None:
    model, made = exported("span", exports)
    path = tmp_path / "small.onnx"
    path.write_bytes(made.data)
    images_BCHW = np.random.default_rng(0).integers(0, 256, (2, 3, 41, 30), dtype=np.uint8)

    loaded = load_model(path, device="cpu")

    assert loaded.backend == "onnx"
    assert loaded.spec.to_json() == model.spec.to_json()
    assert np.abs(loaded.predict(images_BCHW) - model.predict(images_BCHW)).max() < 1e-5
    texts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert texts[METADATA_KEY] == model.spec.to_json()
    assert len(json.loads(texts[PARITY_KEY])) == len(made.parities)
    assert str(Path.cwd()).encode() not in made.data


def test_pixels_are_normalised_inside_the_file_by_choice() -> None:
    model = small_model()
    images_BCHW = np.random.default_rng(0).integers(0, 256, (1, 3, 24, 40), dtype=np.uint8)

    made = export(model, pixels=True)

    got = ran(made.data, images_BCHW.astype(np.float32))
    assert np.abs(got - model.predict(images_BCHW, logits=True)).max() < 1e-4
    assert made.spec.input.mean == (0.0, 0.0, 0.0)


def test_a_static_file_takes_one_size_and_any_batch() -> None:
    model = small_model("axial_segmenter", **SMALL)

    made = export(model, static=Size(40, 64))

    assert made.spec.input.size == (40, 64)
    assert ran(made.data, np.zeros((7, 3, 40, 64), np.float32)).shape == (7, 2, 40, 64)
    with pytest.raises(Exception, match=r"(?i)dimension|invalid"):
        ran(made.data, np.zeros((1, 3, 48, 64), np.float32))


def test_half_precision_is_close() -> None:
    model = small_model("axial_segmenter", **SMALL)

    made = export(model, dtype="float16")

    image_BCHW = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float16)
    got = ran(made.data, image_BCHW)
    with torch.inference_mode():
        want = model.network(torch.from_numpy(image_BCHW).float()).numpy()
    assert got.dtype == np.float16
    assert 0 < np.abs(got - want).max() < 5e-2 * max(1, np.abs(want).max())


@pytest.mark.parametrize("opset", [18, 23])
def test_opsets_are_what_was_asked_for(opset: int) -> None:
    made = export(small_model("axial_segmenter", **SMALL, attention="separable"), opset=opset)

    versions = {entry.domain: entry.version for entry in onnx.load_from_string(made.data).opset_import}
    assert versions[""] == opset


def test_an_unknown_opset_is_refused() -> None:
    with pytest.raises(UsageError, match="--opset is 9: choose 18 to 23"):
        export(small_model(), opset=9)


class Off(OnnxModel):
    """A backend that is wrong in one number: the last column of pictures of odd width."""

    def run(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        logits_BKHW = super().run(images_BCHW).clone()
        if images_BCHW.shape[3] % 2:
            logits_BKHW[..., -1] += 0.1
        return logits_BKHW


def test_a_failed_gate_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, axial: Axial
) -> None:
    source = small_model_file(tmp_path / "m.safetensors")
    (tmp_path / "m.onnx").write_bytes(b"before")
    monkeypatch.setattr("axialcli.backends.export.OnnxModel", Off)

    code, out, err = axial("export-onnx", "--model", source, "--out", tmp_path / "m.onnx", "--force")

    assert (code, out) == (4, "")
    assert err.startswith("axial: error: the export is wrong: on 1 x 193 x 131 pixels")
    assert err.count("\n") == 1
    assert (tmp_path / "m.onnx").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.safetensors"]


def test_a_classifier_of_three_classes_is_exported_and_answers_the_same(tmp_path: Path) -> None:
    path = written(tmp_path / "m.safetensors")
    model = load_model(path, device="cpu", dtype="float32")
    assert isinstance(model, TorchModel)
    images_BCHW = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)

    made = export(model)
    (tmp_path / "m.onnx").write_bytes(made.data)

    assert all(parity.agreement == 1 for parity in made.parities)
    found = load_model(tmp_path / "m.onnx", device="cpu").predict(images_BCHW)
    assert np.abs(found - model.predict(images_BCHW)).max() < 1e-5


class Turned(OnnxModel):
    """A backend whose answer to a picture of three classes has them in another order."""

    def run(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return super().run(images_BCHW).roll(1, 1)


def test_the_gate_sees_the_classes_of_a_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(written(tmp_path / "m.safetensors"), device="cpu", dtype="float32")
    assert isinstance(model, TorchModel)
    monkeypatch.setattr("axialcli.backends.export.OnnxModel", Turned)
    monkeypatch.setattr("axialcli.backends.parity.LARGEST", 1e9)

    with pytest.raises(ModelError, match=r"and 1e\+02 % of the classes"):
        export(model)


def test_the_gate_sees_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("axial_segmenter", **SMALL)
    other = small_model("axial_segmenter", **SMALL)
    monkeypatch.setattr(other, "run", lambda images: model.run(images) * float("nan"))
    monkeypatch.setattr(other, "runtime", lambda: {"provider": "none"})

    with pytest.raises(ModelError, match="logits differ by up to nan"):
        compare(model, other, trial_images(model.spec), half=False)


def test_the_command_says_what_it_compared(tmp_path: Path, axial: Axial) -> None:
    source = small_model_file(tmp_path / "m.safetensors", "axial_segmenter", **SMALL)

    code, out, _ = axial("export-onnx", "--model", source, "--out", tmp_path / "m.onnx", "--static", "64x96")

    assert code == 0
    assert "any batch of 64 x 96 pixels, no other size" in out
    assert "3 x 64 x 96" in out
    assert (tmp_path / "m.onnx").stat().st_size > 0


def test_what_is_there_is_not_overwritten(tmp_path: Path, axial: Axial) -> None:
    source = small_model_file(tmp_path / "m.safetensors")
    (tmp_path / "m.onnx").write_bytes(b"before")

    code, _, err = axial("export-onnx", "--model", source, "--out", tmp_path / "m.onnx")

    assert code == 5
    assert "exists already; --force overwrites it" in err
    assert axial("export-onnx", "--model", source, "--out", source, "--force")[0] == 2


def test_a_model_without_a_network_of_ours_is_not_exported(tmp_path: Path, axial: Axial) -> None:
    made = export(small_model())
    (tmp_path / "m.onnx").write_bytes(made.data)

    code, _, err = axial("export-onnx", "--model", tmp_path / "m.onnx", "--out", tmp_path / "n.onnx")

    assert code == 4
    assert "is an ONNX file already" in err


def test_the_model_that_is_exported_is_a_torch_model() -> None:
    assert isinstance(load_model(device="cpu"), TorchModel)
