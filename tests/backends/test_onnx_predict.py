"""An ONNX file through the commands: a slide in, a mask out, the same as the whole picture at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from onnx import helper
from PIL import Image

from axialcli.backends import load_model
from axialcli.backends.onnx_load import load_onnx
from axialcli.backends.spec import ModelSpec
from tests.backends.conftest import Axial
from tests.fixtures.graphs import (
    convolution,
    make_model,
    naive_convolution,
    normalised,
    onnx_spec,
    random_kernel,
    save,
)

KERNEL = random_kernel(3)
PICTURE_HWC = np.random.default_rng(5).integers(0, 256, (90, 130, 3), dtype=np.uint8)


@pytest.fixture
def slide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PICTURE_HWC).save(tmp_path / "slide.png")
    return tmp_path / "slide.png"


def model_file(path: Path, spec: ModelSpec | None) -> Path:
    node, weight = convolution(KERNEL)
    return save(path, make_model([node], [weight], spec=spec))


def test_a_slide_becomes_the_mask_of_the_whole_picture(slide: Path, axial: Axial) -> None:
    model = model_file(slide.parent / "m.onnx", onnx_spec())

    code, out, err = axial(
        "predict", slide, "--out", "mask.tif", "--model", model, "--device", "cpu", "--json",
        "--tile", 48, "--overlap", 8, "--blend", "crop",
    )  # fmt: skip

    assert code == 0, err
    report = json.loads(out)
    assert report["model"]["backend"] == "onnx"
    assert report["model"]["sha256"] == load_model(model).sha256
    assert report["engine"] == "tiles"
    assert report["engine_reason"] == "backend 'onnx' does not show its operators"
    assert "cannot be streamed, tiles are used: backend 'onnx' does not show its operators" in err
    logits_KHW = naive_convolution(normalised(PICTURE_HWC.transpose(2, 0, 1)[None]), KERNEL)[0]
    ordered_KHW = np.sort(logits_KHW, 0)
    sure_HW = ordered_KHW[-1] - ordered_KHW[-2] > 1e-4
    assert sure_HW.mean() > 0.99
    mask_HW = tifffile.imread("mask.tif", level=0)
    assert np.array_equal(mask_HW[sure_HW], logits_KHW.argmax(0)[sure_HW])


def test_a_stream_is_refused_by_name(slide: Path, axial: Axial) -> None:
    model = model_file(slide.parent / "m.onnx", onnx_spec())

    code, _, err = axial("predict", slide, "--out", "mask.tif", "--model", model, "--engine", "stream")

    assert code == 4
    assert "backend 'onnx' does not show its operators; use --engine tiles" in err


def test_another_dtype_is_a_wrong_option(slide: Path, axial: Axial) -> None:
    model = model_file(slide.parent / "m.onnx", onnx_spec())

    code, _, err = axial("predict", slide, "--out", "m.tif", "--model", model, "--dtype", "float16")

    assert code == 2
    assert "computes in float32" in err
    assert not (slide.parent / "m.tif").exists()


def test_show_says_what_the_file_says(tmp_path: Path, axial: Axial) -> None:
    inside = model_file(tmp_path / "inside.onnx", onnx_spec())
    beside = model_file(tmp_path / "beside.onnx", None)
    (tmp_path / "beside.onnx.json").write_text(onnx_spec(classes=3, multiple=8).to_json())

    code, out, err = axial("models", "show", inside)
    assert (code, err) == (0, "")
    assert f"sha256      {load_model(inside).sha256}" in out
    assert "stream      no, backend 'onnx' does not show its operators" in out
    assert "parameters  0.000 million" in out
    code, out, _ = axial("models", "show", beside, "--json")
    assert (code, json.loads(out)["input"]["multiple"]) == (0, 8)


def test_pictures_are_laid_out_as_the_network_reads_them(tmp_path: Path) -> None:
    """So that nothing is copied between normalisation and network."""
    pixels = torch.zeros((2, 3, 16, 20), dtype=torch.uint8)
    chw = load_onnx(model_file(tmp_path / "m.onnx", onnx_spec()), device="cpu")
    node, weight = convolution(KERNEL, "a", "y")
    turn = helper.make_node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2])
    nhwc = make_model([turn, node], [weight], spec=onnx_spec(layout="NHWC"), shape=("b", "h", "w", 3))
    hwc = load_onnx(save(tmp_path / "n.onnx", nhwc), device="cpu")

    assert chw.normalise(pixels).is_contiguous()
    assert hwc.normalise(pixels).permute(0, 2, 3, 1).is_contiguous()
