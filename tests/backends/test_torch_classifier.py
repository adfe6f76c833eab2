"""A classifier of our own as a model file: loaded, run, refused where it is described wrongly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

import axialcli
from axialcli.backends.model_file import write_model
from axialcli.backends.spec import InputSpec, ModelSpec, OutputSpec
from axialcli.config import ClassInfo
from axialcli.errors import ModelError
from axialcli.nn import build_network

CONFIG = {"in_channels": 3, "classes": 3, "width": (4, 6, 8), "depth": 1, "heads": 2}
SPEC = ModelSpec(
    name="three",
    task="classification",
    architecture="axial_classifier",
    config=CONFIG,
    input=InputSpec(channels=("red", "green", "blue"), mean=(0.5,) * 3, std=(0.25,) * 3, size=(32, 32)),
    output=OutputSpec(),
    classes=tuple(ClassInfo(name=name, colour=(9, 9, 9)) for name in ("a", "b", "c")),
)


def written(path: Path, spec: ModelSpec = SPEC) -> Path:
    write_model(path, spec, lively_weights())
    return path


def lively_weights() -> dict[str, torch.Tensor]:
    """Weights that tell tiles apart: on average over colours no class is the likelier one."""
    torch.manual_seed(1)
    network = build_network("axial_classifier", **CONFIG).eval()
    with torch.no_grad():
        network.head.bias -= network(torch.randn(50, 3, 1, 1).expand(-1, -1, 32, 32)).mean(0)
    return network.state_dict()


def test_each_tile_gets_the_networks_own_answer(tmp_path: Path) -> None:
    model = axialcli.load_model(written(tmp_path / "m.safetensors"))
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 200, (3, 4, 1, 1, 3))
    tiles = (colours + rng.integers(0, 56, (3, 4, 32, 32, 3))).astype(np.uint8)
    image_HWC = tiles.swapaxes(1, 2).reshape(96, 128, 3)
    tifffile.imwrite(tmp_path / "scene.tif", image_HWC, photometric="rgb", tile=(64, 64))

    axialcli.predict(tmp_path / "scene.tif", tmp_path / "classes.tif", model=model)

    stored = {k: v.half().float() for k, v in lively_weights().items() if v.is_floating_point()}
    network = build_network("axial_classifier", **CONFIG).eval()
    network.load_state_dict(stored, strict=False)
    with torch.inference_mode():
        pixels = torch.from_numpy(tiles.reshape(12, 32, 32, 3)).permute(0, 3, 1, 2).float()
        want = network((pixels / 255 - 0.5) / 0.25).argmax(1).reshape(3, 4)
    mask_HW = tifffile.imread(tmp_path / "classes.tif", level=0)
    assert mask_HW.tolist() == want.tolist()
    assert len(np.unique(want)) > 1


def test_a_classifier_described_as_segmentation_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "m.safetensors", replace(SPEC, task="segmentation"))

    with pytest.raises(ModelError, match="answers for every picture, and not as segmentation at 1/1"):
        axialcli.load_model(path)


def test_a_segmenter_described_as_a_classifier_is_refused(tmp_path: Path) -> None:
    spec = replace(
        SPEC, architecture="pixel_classifier", config={"in_channels": 3, "classes": 3}, task="classification"
    )
    weights = build_network("pixel_classifier", **spec.config).state_dict()
    write_model(tmp_path / "m.safetensors", spec, weights)

    with pytest.raises(ModelError, match="answers for every pixel, and not as classification at 1/1"):
        axialcli.load_model(tmp_path / "m.safetensors")


def test_a_classifier_of_too_few_logits_is_refused(tmp_path: Path) -> None:
    said = json.loads(SPEC.to_json())
    said["classes"].append({"name": "d", "colour": "#123456"})
    path = written(tmp_path / "m.safetensors", ModelSpec.from_json(json.dumps(said), "m"))

    with pytest.raises(ModelError, match="answers 3 logits a picture, 4 classes with softmax need 4"):
        axialcli.load_model(path)
