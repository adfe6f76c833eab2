"""The ONNX backend: every kind of graph answers what plain numpy says that it should."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from axialcli.backends import load_model
from axialcli.backends.model import Model
from axialcli.backends.onnx_load import load_onnx
from axialcli.backends.onnx_model import OnnxModel
from axialcli.errors import UsageError
from tests.fixtures.graphs import (
    convolution,
    make_model,
    naive_convolution,
    normalised,
    onnx_spec,
    random_kernel,
    save,
    softmax,
)
from tests.networks import small_model_file

PIXELS_BCHW = np.random.default_rng(1).integers(0, 256, (3, 3, 19, 24), dtype=np.uint8)
KERNEL = random_kernel(3)


def loaded(path: Path, model: onnx.ModelProto) -> OnnxModel:
    return load_onnx(save(path / "m.onnx", model), device="cpu")


def one_convolution(**more: Any) -> onnx.ModelProto:
    node, weight = convolution(more.pop("kernel", KERNEL), stride=more.pop("stride", 1))
    return make_model([node], [weight], **more)


def close(found: NDArray[Any], wanted: NDArray[Any], tolerance: float = 1e-5) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)


def test_a_fully_convolutional_network_equals_the_naive_loops(tmp_path: Path) -> None:
    hidden, last = random_kernel(5, seed=2), random_kernel(4, 5, 1, seed=3)
    (first, weight_1), (second, weight_2) = convolution(hidden, "x", "a"), convolution(last, "r", "y")
    nodes = [first, helper.make_node("Relu", ["a"], ["r"]), second]
    model = loaded(tmp_path, make_model(nodes, [weight_1, weight_2], spec=onnx_spec(classes=4)))

    logits = naive_convolution(np.maximum(naive_convolution(normalised(PIXELS_BCHW), hidden), 0), last)
    close(model.predict(PIXELS_BCHW, logits=True), logits)
    close(model.predict(PIXELS_BCHW), softmax(logits))
    assert model.network is None
    assert model.describe()["backend"] == "onnx"
    assert model.runtime()["onnxruntime"] == __import__("onnxruntime").__version__
    assert model.runtime()["threads"] == torch.get_num_threads()


def test_axes_in_the_order_nhwc(tmp_path: Path) -> None:
    node, weight = convolution(KERNEL, "a", "b")
    there = helper.make_node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2])
    back = helper.make_node("Transpose", ["b"], ["y"], perm=[0, 2, 3, 1])
    spec, shape = onnx_spec(layout="NHWC"), ("b", "h", "w", 3)
    logits = naive_convolution(normalised(PIXELS_BCHW), KERNEL)

    both = make_model([there, node, back], [weight], spec=spec, shape=shape)
    close(loaded(tmp_path, both).predict(PIXELS_BCHW, logits=True), logits)

    node, weight = convolution(KERNEL, "a", "y")
    only_in = make_model([there, node], [weight], spec=spec, shape=shape)
    close(loaded(tmp_path, only_in).predict(PIXELS_BCHW, logits=True), logits)

    back = helper.make_node("Transpose", ["b"], ["y"], perm=[0, 2, 3, 1])
    node, weight = convolution(KERNEL, "x", "b")
    only_out = make_model([node, back], [weight], spec=onnx_spec())
    close(loaded(tmp_path, only_out).predict(PIXELS_BCHW, logits=True), logits)


@pytest.mark.parametrize("answer", [TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_bytes_in_and_labels_out(tmp_path: Path, answer: int, keepdims: int) -> None:
    node, weight = convolution(KERNEL, "f", "c")
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        node,
        helper.make_node("ArgMax", ["c"], ["n"], axis=1, keepdims=keepdims),
        helper.make_node("Cast", ["n"], ["y"], to=answer),
    ]
    spec = onnx_spec(activation="labels")
    model = loaded(tmp_path, make_model(nodes, [weight], spec=spec, element=TensorProto.UINT8, answer=answer))

    labels_BHW = naive_convolution(PIXELS_BCHW.astype(float), KERNEL).argmax(1)
    wanted_BKHW = np.moveaxis(np.eye(3)[labels_BHW], 3, 1)
    close(model.predict(PIXELS_BCHW), wanted_BKHW, 0)
    for probs_KHW, labels_HW in zip(model.predict(torch.from_numpy(PIXELS_BCHW)), labels_BHW, strict=True):
        assert np.array_equal(model.decide(probs_KHW), labels_HW)


def test_a_network_of_bytes_sees_the_pixels_themselves(tmp_path: Path) -> None:
    """All 256 values, through a mean and a std that no float holds exactly."""
    pixels_BCHW = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3).transpose(0, 3, 1, 2)
    cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    spec = onnx_spec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    model = loaded(tmp_path, make_model([cast], spec=spec, element=TensorProto.UINT8))

    assert np.array_equal(model.predict(pixels_BCHW, logits=True), pixels_BCHW)
    wide = pixels_BCHW.astype(np.uint16) * 257
    assert np.array_equal(model.predict(wide, logits=True), pixels_BCHW)


def test_one_logit_one_probability_and_many_probabilities(tmp_path: Path) -> None:
    one = random_kernel(1)
    logit = naive_convolution(normalised(PIXELS_BCHW), one)
    p = 1 / (1 + np.exp(-logit))
    both = np.concatenate([1 - p, p], 1)

    raw = one_convolution(kernel=one, spec=onnx_spec(classes=2, activation="sigmoid"))
    close(loaded(tmp_path, raw).predict(PIXELS_BCHW), both)

    node, weight = convolution(one, "x", "c")
    inside = [node, helper.make_node("Sigmoid", ["c"], ["y"])]
    sure = make_model(inside, [weight], spec=onnx_spec(classes=2, activation="none"))
    close(loaded(tmp_path, sure).predict(PIXELS_BCHW), both)

    node, weight = convolution(KERNEL, "x", "c")
    inside = [node, helper.make_node("Softmax", ["c"], ["y"], axis=1)]
    many = make_model(inside, [weight], spec=onnx_spec(activation="none"))
    close(
        loaded(tmp_path, many).predict(PIXELS_BCHW),
        softmax(naive_convolution(normalised(PIXELS_BCHW), KERNEL)),
    )


def test_an_answer_at_a_quarter_of_the_resolution(tmp_path: Path) -> None:
    kernel = random_kernel(3, side=4)
    model = loaded(tmp_path, one_convolution(kernel=kernel, stride=4, spec=onnx_spec(stride=4)))

    pixels_BCHW = PIXELS_BCHW[:, :, :16]
    close(
        model.predict(pixels_BCHW, logits=True),
        naive_convolution(normalised(pixels_BCHW), kernel, stride=4),
    )


@pytest.mark.parametrize("flat", [True, False])
def test_a_classifier_of_a_fixed_size_and_batch(tmp_path: Path, flat: bool) -> None:
    node, weight = convolution(KERNEL, "x", "c")
    nodes = [node, helper.make_node("GlobalAveragePool", ["c"], ["p" if flat else "y"])]
    nodes += [helper.make_node("Flatten", ["p"], ["y"])] * flat
    spec = onnx_spec(task="classification", size=(19, 24))
    model = loaded(tmp_path, make_model(nodes, [weight], spec=spec, shape=(2, 3, 19, 24)))

    # Three pictures in batches of two: the last one is filled up.
    logits_BK = naive_convolution(normalised(PIXELS_BCHW), KERNEL).mean((2, 3))
    close(model.predict(PIXELS_BCHW), softmax(logits_BK))


def test_half_precision_is_the_dtype_of_its_file(tmp_path: Path) -> None:
    half = KERNEL.astype(np.float16)
    halves = {"element": TensorProto.FLOAT16, "answer": TensorProto.FLOAT16}
    path = save(tmp_path / "m.onnx", one_convolution(kernel=half, spec=onnx_spec(), **halves))

    model = load_model(path, device="cpu")

    assert model.dtype == torch.float16
    images_BCHW = normalised(PIXELS_BCHW).astype(np.float16)
    close(model.predict(PIXELS_BCHW, logits=True), naive_convolution(images_BCHW, half), 1e-2)
    with pytest.raises(UsageError, match=r"--dtype is float32: .*m\.onnx computes in float16"):
        load_model(path, dtype="float32")


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    model = one_convolution(spec=onnx_spec())
    (tmp_path / "plain").mkdir()
    plain = load_model(save(tmp_path / "plain/m.onnx", model), device="cpu")
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert (tmp_path / "w.bin").stat().st_size == KERNEL.nbytes

    apart = load_model(tmp_path / "m.onnx", device="cpu")

    assert np.array_equal(apart.predict(PIXELS_BCHW), plain.predict(PIXELS_BCHW))


def test_layouts_of_memory_do_not_change_the_answer(tmp_path: Path) -> None:
    model = loaded(tmp_path, one_convolution(spec=onnx_spec()))
    wanted = model.predict(PIXELS_BCHW)

    last = torch.from_numpy(PIXELS_BCHW).contiguous(memory_format=torch.channels_last)
    assert np.array_equal(model.predict(last).numpy(), wanted)
    assert np.array_equal(model.predict(np.asfortranarray(PIXELS_BCHW)), wanted)
    assert np.array_equal(model.predict(PIXELS_BCHW[..., ::-1])[..., ::-1].shape, wanted.shape)
    # The answer is memory of its own: a later run does not write over it.
    first = model.run(torch.zeros(1, 3, 19, 24))
    kept = first.clone()
    model.run(torch.ones(1, 3, 19, 24))
    assert torch.equal(first, kept)


def test_several_outputs_the_first_counts(tmp_path: Path) -> None:
    model = one_convolution(spec=onnx_spec())
    model.graph.node.append(helper.make_node("Neg", ["y"], ["z"]))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))

    close(
        loaded(tmp_path, model).predict(PIXELS_BCHW, logits=True),
        naive_convolution(normalised(PIXELS_BCHW), KERNEL),
    )


def test_backends_run_the_files_that_are_theirs(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", one_convolution(spec=onnx_spec()))
    other = small_model_file(tmp_path / "m.safetensors")

    def name(path: Path, backend: Any) -> str:
        model: Model = load_model(path, backend=backend, device="cpu")
        return model.backend

    assert name(path, "auto") == name(path, "onnx") == "onnx"
    assert name(other, "auto") == name(other, "torch") == "torch"
    with pytest.raises(UsageError, match=r"backend is 'torch', which does not run .*m\.onnx"):
        name(path, "torch")
    with pytest.raises(UsageError, match=r"backend is 'onnx', which does not run .*m\.safetensors"):
        name(other, "onnx")
    with pytest.raises(UsageError, match="choose one of auto, torch, onnx, tensorrt"):
        name(path, "caffe")


def test_loading_says_nothing(tmp_path: Path, capfd: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Not on a machine whose ONNX Runtime was built for GPUs that are not there, either."""
    with caplog.at_level(logging.DEBUG, logger="axial"):
        loaded(tmp_path, one_convolution(spec=onnx_spec())).predict(PIXELS_BCHW)

    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.name == "axial"] == []
