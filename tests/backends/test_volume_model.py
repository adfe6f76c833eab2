"""Models of volumes: what their description may say, and who does not run them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from axialcli.backends import load_model
from axialcli.backends.export import export
from axialcli.backends.model_file import read_model, write_model
from axialcli.backends.spec import ModelSpec
from axialcli.errors import ModelError
from axialcli.nn import build_network
from tests.fixtures.graphs import make_model, onnx_spec, save
from tests.fixtures.volumes import stack_of, volume_model, volume_model_file, volume_spec
from tests.networks import small_model, small_spec, small_weights


def test_a_description_of_volumes_is_read_back_and_one_without_layout_takes_pictures() -> None:
    spec = volume_spec()
    read = ModelSpec.from_json(spec.to_json(), "it")
    assert read.input == spec.input
    assert read.to_json() == spec.to_json()
    assert spec.input.takes_volumes

    said = json.loads(small_spec("pixel_classifier").to_json())
    del said["input"]["layout"]
    assert not ModelSpec.from_json(json.dumps(said), "it").input.takes_volumes


@pytest.mark.parametrize(
    ("part", "says", "line"),
    [
        ("", {"task": "classification"}, "of volumes, only segmentation of every voxel is run"),
        ("output", {"stride": 4}, "of volumes, only segmentation of every voxel is run"),
        ("input", {"size": (32, 32)}, "a model of volumes takes any size, or it is not run"),
        ("input", {"multiple": 8}, "a model of volumes takes any size, or it is not run"),
        ("input", {"layout": "NDHWC"}, "layout 'NDHWC' is none of NCHW, NHWC and NCDHW"),
    ],
)
def test_descriptions_of_volumes_that_are_not_run_are_refused(
    part: str, says: dict[str, Any], line: str
) -> None:
    spec = volume_spec()
    if part:
        says = {part: replace(getattr(spec, part), **says)}
    with pytest.raises(ModelError, match=line):
        replace(spec, **says)


def test_a_network_of_volumes_described_as_one_of_pictures_is_refused(tmp_path: Path) -> None:
    path = volume_model_file(tmp_path / "v.safetensors", said={"layout": "NCHW"})
    with pytest.raises(ModelError, match=r"v\.safetensors: the network does not take 1 channels"):
        load_model(path)


def test_a_network_of_pictures_described_as_one_of_volumes_is_refused(tmp_path: Path) -> None:
    spec = small_spec("axial_segmenter", width=(4, 4, 6), heads=2, depth=1)
    described = replace(spec, input=replace(spec.input, layout="NCDHW"))
    write_model(tmp_path / "p.safetensors", described, small_weights(spec))
    with pytest.raises(ModelError, match=r"p\.safetensors: the network does not take 3 channels"):
        load_model(tmp_path / "p.safetensors")


def test_a_model_file_of_volumes_gives_the_numbers_of_the_network(tmp_path: Path) -> None:
    path = volume_model_file(tmp_path / "v.safetensors")
    spec, weights = read_model(path)
    model = load_model(path, device="cpu")
    stack_DHWC = stack_of(5, 12, 18, dtype=np.uint16)
    image_BCDHW = np.ascontiguousarray(stack_DHWC.transpose(3, 0, 1, 2)[None])

    # By hand: normalised, run with the batch norms as they are stored, softmax.

    plain = build_network(spec.architecture, **spec.config)
    plain.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False)
    seen = torch.from_numpy((image_BCDHW / 65535 - 0.5) / 0.25).float()
    with torch.inference_mode():
        want = plain.eval()(seen).softmax(1).numpy()

    np.testing.assert_allclose(model.predict(image_BCDHW), want, atol=1e-5)
    assert not any(isinstance(m, torch.nn.BatchNorm3d) for m in model.network.modules())  # type: ignore[union-attr]


def test_grey_volumes_are_replicated_and_other_channels_refused() -> None:
    model = volume_model(channels=3)
    grey = np.ascontiguousarray(stack_of(3, 10, 12).transpose(3, 0, 1, 2)[None])
    np.testing.assert_allclose(model.predict(grey), model.predict(np.repeat(grey, 3, 1)), atol=1e-6)
    with pytest.raises(ModelError, match=r"wants 3 channels .* the picture has 2"):
        model.predict(np.repeat(grey, 2, 1))


def test_pictures_and_volumes_are_not_taken_for_each_other() -> None:
    with pytest.raises(ModelError, match="'small volume' takes volumes, and not arrays of 4 axes"):
        volume_model().predict(np.zeros((1, 1, 20, 30), np.uint8))
    with pytest.raises(ModelError, match="'small' takes pictures, and not arrays of 5 axes"):
        small_model().predict(np.zeros((1, 3, 2, 20, 30), np.uint8))


def test_a_model_of_volumes_is_not_exported() -> None:
    with pytest.raises(ModelError, match="takes volumes: it is run by torch alone, not exported"):
        export(volume_model())


@pytest.mark.parametrize("shape", [("b", 3, "d", "h", "w"), ("b", 3, "h", "w")], ids=len)
def test_an_onnx_file_that_says_it_takes_volumes_is_refused_by_name(
    shape: tuple[str | int, ...], tmp_path: Path
) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    path = save(tmp_path / "v.onnx", make_model([node], spec=onnx_spec(layout="NCDHW"), shape=shape))

    with pytest.raises(ModelError, match=r"v\.onnx: takes volumes; of \.onnx files, axial runs those that"):
        load_model(path)
