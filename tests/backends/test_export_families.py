"""Exported networks of the families: any batch, and the same answers as torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from axialcli.backends.export import export
from axialcli.backends.spec import InputSpec, ModelSpec, OutputSpec
from axialcli.backends.torch_model import TorchModel
from axialcli.config import ClassInfo
from tests.networks import COLOURS, small_weights

NETWORKS: dict[str, dict[str, Any]] = {
    "axial_unet": {"classes": 2, "picture_size": 32, "unet_depths": (1, 1, 1, 1)},
    "axial_resnet": {
        "answers": 2,
        "trained_size": (32, 32),
        "stage_planes": (16, 16, 16, 16),
        "stage_depths": (1, 1, 1, 1),
    },
}


def model(architecture: str) -> TorchModel:
    spec = ModelSpec(
        name="small",
        task="classification" if architecture == "axial_resnet" else "segmentation",
        architecture=architecture,
        config=NETWORKS[architecture],
        input=InputSpec(channels=("red", "green", "blue"), mean=(0.5,) * 3, std=(0.25,) * 3, size=(32, 32)),
        output=OutputSpec(),
        classes=tuple(ClassInfo(name=f"class {i}", colour=COLOURS[i]) for i in range(2)),
        network_stride=32,
        receptive_field_px=None,
    )
    return TorchModel(
        spec=spec,
        weights=small_weights(spec),
        device=torch.device("cpu"),
        dtype=torch.float32,
        sha256="",
        where="a test",
    )


@pytest.mark.parametrize("architecture", [pytest.param("axial_unet", marks=pytest.mark.slow), "axial_resnet"])
def test_position_sensitive_attention_takes_any_batch(architecture: str) -> None:
    """`export` itself refuses a file that differs from torch."""
    network = model(architecture)
    session = onnxruntime.InferenceSession(export(network).data, providers=["CPUExecutionProvider"])
    images_BCHW = torch.randn(5, 3, 32, 32)

    with torch.inference_mode():
        expected = network.run(images_BCHW).numpy()
    (found,) = session.run(None, {session.get_inputs()[0].name: images_BCHW.numpy()})

    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
