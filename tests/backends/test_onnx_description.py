"""An ONNX network and its description have to agree; where they do not, one line says in what."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from axialcli.backends.onnx_load import load_onnx
from axialcli.backends.onnx_model import OnnxModel
from axialcli.errors import ModelError
from axialcli.hints import ModelHints
from tests.fixtures.graphs import (
    convolution,
    make_model,
    onnx_spec,
    random_kernel,
    save,
    weights,
)

PIXELS_BCHW = np.random.default_rng(1).integers(0, 256, (3, 3, 19, 24), dtype=np.uint8)
KERNEL = random_kernel(3)


def loaded(path: Path, model: onnx.ModelProto) -> OnnxModel:
    return load_onnx(save(path / "m.onnx", model), device="cpu")


def one_convolution(**more: Any) -> onnx.ModelProto:
    node, weight = convolution(more.pop("kernel", KERNEL), stride=more.pop("stride", 1))
    return make_model([node], [weight], **more)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"classes": 4}, r"answers \[1, 3, 64, 64\] to 64 x 64 pixels, .* needs \[1, 4, 64, 64\]"),
        ({"stride": 2}, r"answers \[1, 3, 64, 64\] .*needs \[1, 3, 32, 32\]"),
        ({"task": "classification"}, r".*needs \[1, 3\]"),
        ({"layout": "NHWC"}, r"does not take a picture of \[64, 64, 3\], which its description promises"),
        ({"activation": "none"}, "its description says that it answers probabilities"),
        ({"activation": "labels"}, r".*needs \[1, 1, 64, 64\]"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(ModelError, match=rf"m\.onnx: {says}"):
        loaded(tmp_path, one_convolution(spec=onnx_spec(**fields)))


def test_numbers_that_are_no_probabilities_and_no_labels(tmp_path: Path) -> None:
    clip = helper.make_node("Clip", ["x", "low", "high"], ["y"])
    bounds = [weights("low", np.array(-0.5, np.float32)), weights("high", np.array(1.5, np.float32))]
    far = make_model([clip], bounds, spec=onnx_spec(activation="none"))
    with pytest.raises(ModelError, match=r"says that it answers probabilities .* from -0\.5 to 1\.5"):
        loaded(tmp_path, far)

    crooked = one_convolution(kernel=random_kernel(1), spec=onnx_spec(activation="labels", classes=2))
    with pytest.raises(ModelError, match="says that it answers labels, but they are no whole numbers"):
        loaded(tmp_path, crooked)


def test_labels_beyond_the_classes_are_refused_when_they_come(tmp_path: Path) -> None:
    maximum = helper.make_node("ReduceMax", ["x"], ["y"], axes=[1], keepdims=1)
    spec = onnx_spec(activation="labels")
    model = loaded(tmp_path, make_model([maximum], spec=spec, element=TensorProto.UINT8, answer=2))

    with pytest.raises(ModelError, match=r"answers the labels 9 to 9, its description has 3 classes from 0"):
        model.predict(np.full((1, 3, 4, 4), 9, np.uint8))


def test_a_size_that_the_network_does_not_take_is_one_line(tmp_path: Path) -> None:
    model = loaded(tmp_path, one_convolution(spec=onnx_spec(size=(19, 24)), shape=("b", 3, 19, 24)))

    model.predict(PIXELS_BCHW)
    with pytest.raises(
        ModelError, match=r"\A\S*m\.onnx: does not take pictures of \[3, 3, 19, 23\] [^\n]*\Z"
    ):
        model.predict(PIXELS_BCHW[..., :23])


@pytest.mark.parametrize(
    "fields",
    [{"size": (16384, 16384)}, {"multiple": 4095, "stride": 4096}, {"multiple": 4096, "stride": 4093}],
)
def test_a_trial_too_large_for_the_memory_is_not_begun(tmp_path: Path, fields: dict[str, Any]) -> None:
    tracemalloc.start()
    with pytest.raises(ModelError, match=r"its description asks for pictures of \d+ x \d+ pixels"):
        loaded(tmp_path, one_convolution(spec=onnx_spec(**fields)))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 64 << 20


def test_a_graph_too_large_for_the_memory_is_not_tried(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", one_convolution(shape=("b", 3, 16384, 16384)))
    with pytest.raises(ModelError, match=r"does not take 16384x16384 pixels \(not tried, .* is too large\)"):
        load_onnx(path, device="cpu", hints=ModelHints(range="0-1"))


@pytest.mark.parametrize("batch", ["abc", 0, -1, 4097, 1.5, [1]])
def test_a_batch_that_cannot_be_is_refused(tmp_path: Path, batch: object) -> None:
    spec = replace(onnx_spec(), config={"batch": batch})
    with pytest.raises(ModelError, match=r"its description has the batch .*; it goes from 1 to 4096"):
        loaded(tmp_path, one_convolution(spec=spec))
