"""Every command takes every kind of model, and says in one line what it cannot do with it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from onnx import external_data_helper

import axialcli
from axialcli.backends import load_model
from axialcli.backends.zoo import DEFAULT_MODEL, find_model
from axialcli.cli.model_options import model_hints
from axialcli.errors import UsageError
from axialcli.hints import ModelHints
from tests.backends.conftest import Axial
from tests.backends.test_wsinfer import config, patch_net, scripted, write_model
from tests.fixtures.foreign_models import fcn
from tests.fixtures.graphs import onnx_spec
from tests.fixtures.slides import write_tiled
from tests.networks import small_model, small_model_file
from tests.test_pipeline import interrupt_at_the_second_block


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with one model of each kind that was made elsewhere, and a slide."""
    monkeypatch.chdir(tmp_path)
    Path("plain.onnx").write_bytes(fcn().SerializeToString())
    Path("wsi").mkdir()
    write_model(Path("wsi"), patch_net(2), config())
    Path("script.pt").write_bytes(scripted(patch_net(3)))
    spec = onnx_spec(classes=3, task="classification", size=(64, 64))
    Path("script.pt.json").write_text(spec.to_json())
    write_tiled(Path("slide.tif"), np.random.default_rng(0).integers(0, 256, (150, 170, 3), np.uint8))
    return tmp_path


def test_what_was_found_out_is_shown_and_kept(folder: Path, axial: Axial) -> None:
    options = ("--input-range", "imagenet", "--classes", "a,b,c=#010203")

    code, out, err = axial("models", "show", "plain.onnx", *options)
    asked, nothing, question = axial("models", "show", "plain.onnx")
    _, text, _ = axial("models", "show", "plain.onnx", *options, "--json")
    hinted = load_model("plain.onnx", hints=model_hints(input_range="imagenet", classes="a,b,c=#010203")).spec

    assert (code, err) == (0, "")
    assert "stream      no, backend 'onnx' does not show its operators" in out
    assert '"name": "c", "colour": "#010203"' in out
    assert (asked, nothing, question.count("\n")) == (4, "", 1)
    assert "say it with --input-range" in question
    Path("plain.onnx.json").write_text(text)
    assert axial("models", "show", "plain.onnx", "--json") == (0, text, "")
    assert load_model("plain.onnx").spec == hinted


@pytest.mark.parametrize("model", ["wsi", "wsi/config.json", "wsi/torchscript_model.pt", "script.pt"])
def test_code_is_shown_without_being_run(
    folder: Path, axial: Axial, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.setattr(torch.jit, "load", lambda *given, **more: pytest.fail("it was loaded"))

    code, out, err = axial("models", "show", model)

    assert (code, err) == (0, "")
    assert "parameters  not known" in out
    assert "stream      no, code of its own" in out
    assert ('"Tumor"' in out) == model.startswith("wsi")
    assert axial("models", "show", model, "--json")[0] == 0


def test_the_hash_that_is_shown_is_the_one_of_the_report(folder: Path, axial: Axial) -> None:
    for model in ("wsi", "script.pt"):
        said = axial("models", "show", model)[1]
        assert f"sha256      {load_model(model, trust=True).sha256}\n" in said


class HalfRed(torch.nn.Module):
    """The probability of class 1 alone, at half resolution."""

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images_BCHW[:, :1], 2)


def test_a_script_may_answer_the_probability_of_class_1_alone(folder: Path) -> None:
    Path("half.pt").write_bytes(scripted(HalfRed()))
    said = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "activation": "none", "stride": 2, "multiple": 3}
    Path("half.pt.json").write_text(onnx_spec(classes=2, **said).to_json())
    pixels_BCHW = np.random.default_rng(0).integers(0, 256, (1, 3, 6, 12), np.uint8)

    probs_BKHW = load_model("half.pt", device="cpu", trust=True).predict(pixels_BCHW)

    red_HW = pixels_BCHW[0, 0].reshape(3, 2, 6, 2).mean((1, 3)) / 255
    assert probs_BKHW.shape == (1, 2, 3, 6)
    assert np.abs(probs_BKHW[0, 1] - red_HW).max() < 1e-6
    assert np.abs(probs_BKHW.sum(1) - 1).max() < 1e-6


@pytest.mark.parametrize("model", ["wsi", "script.pt", DEFAULT_MODEL])
@pytest.mark.parametrize(
    "command", [("models", "show"), ("predict", "slide.tif", "--out", "m.tif", "--model")]
)
def test_options_that_nothing_needs_are_refused(
    folder: Path, axial: Axial, command: tuple[str, ...], model: str
) -> None:
    code, out, err = axial(*command, model, "--input-range", "0-1", "--classes", "2")

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "leave out --input-range, --classes" in err


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("plain.onnx", "is an ONNX file already"),
        ("wsi", "TorchScript cannot be exported"),
        ("script.pt", "TorchScript cannot be exported"),
    ],
)
def test_what_cannot_be_exported_is_one_line(folder: Path, axial: Axial, model: str, reason: str) -> None:
    before = sorted(folder.rglob("*"))

    code, out, err = axial("export-onnx", "--model", model)

    assert (code, out, err.count("\n")) == (4, "", 1)
    assert reason in err
    assert sorted(folder.rglob("*")) == before


def test_a_backend_that_does_not_run_a_model_is_refused(folder: Path, axial: Axial) -> None:
    for model, backend in (("wsi", "onnx"), ("script.pt", "tensorrt"), ("plain.onnx", "torch")):
        code, _, err = axial(
            "predict", "slide.tif", "--out", "m.tif", "--model", model, "--backend", backend, "--trust-model"
        )
        assert code == 2
        assert f"--backend is '{backend}', which does not run {model}" in err


def test_trust_that_nothing_needs_is_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_model(small_model_file(Path("own.safetensors")), trust=True)
    load_model("wsi", trust=True)

    assert caplog.messages == ["--trust-model: no effect, own.safetensors carries no code"]


def test_a_name_of_the_zoo_is_never_a_folder(folder: Path) -> None:
    Path("wsi").rename(DEFAULT_MODEL)

    assert find_model(DEFAULT_MODEL).suffix == ".safetensors"
    assert load_model(DEFAULT_MODEL).backend == "torch"
    assert find_model(f"./{DEFAULT_MODEL}") == Path(DEFAULT_MODEL, "config.json")


@pytest.mark.parametrize("option", ["--out", "--probs", "--overlay"])
@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("wsi", "wsi/config.json"),
        ("wsi", "wsi/torchscript_model.pt"),
        ("script.pt", "script.pt.json"),
        ("plain.onnx", "plain.onnx"),
        ("outside.onnx", "outside.bin"),
    ],
)
def test_no_output_overwrites_a_part_of_the_model(
    folder: Path, axial: Axial, option: str, model: str, file: str
) -> None:
    graph = fcn()
    external_data_helper.convert_model_to_external_data(graph, location="outside.bin", size_threshold=0)
    external_data_helper.write_external_data_tensors(graph, str(folder))
    Path("outside.onnx").write_bytes(graph.SerializeToString())
    before = Path(file).read_bytes()
    outputs = {"--out": "mask.tif", option: file}

    code, _, err = axial(
        "predict", "slide.tif", "--model", model, "--trust-model", "--force",
        *(word for pair in outputs.items() for word in pair),
    )  # fmt: skip

    assert code == 2, err
    assert "is an input; choose another output" in err
    assert Path(file).read_bytes() == before


def test_a_run_of_onnx_goes_on_to_the_same_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (1300, 90, 3), np.uint8)
    write_tiled(Path("tall.tif"), pixels, factors=())

    def predict(name: str) -> dict[str, Any]:
        return axialcli.predict(
            "tall.tif", name, model="plain.onnx", device="cpu", hints=ModelHints(range="0-1"), tile=128
        )

    predict("want.tif")
    with monkeypatch.context() as patch:
        interrupt_at_the_second_block(patch)
        with pytest.raises(KeyboardInterrupt):
            predict("mask.tif")
    report = predict("mask.tif")

    assert report["resumed_blocks"] == 1
    assert Path("mask.tif").read_bytes() == Path("want.tif").read_bytes()


def test_work_under_other_hints_is_not_continued(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (1300, 90, 3), np.uint8)
    write_tiled(Path("tall.tif"), pixels, factors=())

    def predict(**hints: Any) -> dict[str, Any]:
        return axialcli.predict(
            "tall.tif", "mask.tif", model="plain.onnx", device="cpu", hints=ModelHints(**hints)
        )

    with monkeypatch.context() as patch:
        interrupt_at_the_second_block(patch)
        with pytest.raises(KeyboardInterrupt):
            predict(range="0-1")
    report = predict(range="imagenet")

    assert report["resumed_blocks"] == 0
    assert "starting over, the earlier run differed in: description" in caplog.text


def test_the_report_says_what_the_model_was_taken_for(folder: Path) -> None:
    report = axialcli.predict(
        "slide.tif", "mask.tif", model="plain.onnx", device="cpu", hints=ModelHints(range="imagenet", mpp=0.5)
    )

    model = report["model"]
    assert (model["backend"], model["device"], model["dtype"]) == ("onnx", "cpu", "float32")
    assert model["sha256"] == hashlib.sha256(Path("plain.onnx").read_bytes()).hexdigest()
    assert model["task"] == "segmentation"
    assert (model["input"]["mean"], model["input"]["mpp"]) == ([0.485, 0.456, 0.406], 0.5)
    assert model["output"] == {"activation": "softmax", "threshold": None, "stride": 1}
    assert report["runtime"]["provider"] == "CPUExecutionProvider"
    assert json.loads(Path("mask.tif.json").read_text())["model"] == model


def test_masks_of_one_file_under_two_descriptions_have_two_uuids(folder: Path) -> None:
    uuids = set()
    for name in ("imagenet", "0-1", "imagenet"):
        axialcli.predict(
            "slide.tif", "mask.tif", model="plain.onnx", device="cpu", force=True, layout="ome",
            hints=ModelHints(range=name),
        )  # fmt: skip
        with tifffile.TiffFile("mask.tif") as file:
            uuids.add(str(file.ome_metadata).partition('UUID="')[2].partition('"')[0])

    assert len(uuids) == 2
    assert all(uuid.startswith("urn:uuid:") for uuid in uuids)


@pytest.mark.parametrize(
    "given",
    [{"hints": ModelHints(range="0-1")}, {"trust_model": True}, {"backend": "torch"}, {"dtype": "float32"}],
)
def test_how_to_load_is_no_matter_of_a_loaded_model(folder: Path, given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="belong to load_model, done already"):
        axialcli.predict("slide.tif", "mask.tif", model=small_model(), **given)
    assert not Path("mask.tif").exists()


def test_a_model_of_our_own_loads_no_library_of_others(folder: Path) -> None:
    small_model_file(Path("own.safetensors"))
    for engine in ("stream", "tiles"):
        command = f"predict slide.tif --out {engine}.tif --model own.safetensors --engine {engine}"
        code = (
            "import sys\n"
            "from axialcli.cli.app import run\n"
            f"code = run({command.split()!r})\n"
            "sys.exit(code or repr([m for m in ('onnx', 'onnxruntime', 'onnxscript') if m in sys.modules]))\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
        assert done.stderr.splitlines()[-1] == "[]"
