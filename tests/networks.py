"""Small models with random weights, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from axialcli.backends.model_file import write_model
from axialcli.backends.spec import InputSpec, ModelSpec, OutputSpec
from axialcli.backends.torch_model import TorchModel
from axialcli.config import ClassInfo
from axialcli.engine.stream import NotStreamable, trace
from axialcli.geometry import Size
from axialcli.nn import build_network

COLOURS = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]


def small_spec(architecture: str, *, channels: int = 3, **config: Any) -> ModelSpec:
    """The description of a small segmentation model of that architecture."""
    network = build_network(architecture, in_channels=channels, **config)
    try:
        graph = trace(network.eval(), channels, Size(64, 64))
        stride, field = graph.period, graph.receptive_field_px()
    except NotStreamable:
        stride, field = int(network.network_stride), None  # type: ignore[arg-type] # ours say it
    return ModelSpec(
        name="small",
        task="segmentation",
        architecture=architecture,
        config={"in_channels": channels, **config},
        input=InputSpec(
            channels=tuple(f"channel {i}" for i in range(channels)),
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
        ),
        output=OutputSpec(),
        classes=tuple(
            ClassInfo(name=f"class {i}", colour=COLOURS[i]) for i in range(config.get("classes", 2))
        ),
        network_stride=stride,
        receptive_field_px=field,
    )


def small_weights(spec: ModelSpec, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights with lively batch norms and biases, so that nothing cancels by accident."""
    torch.manual_seed(seed)
    weights = build_network(spec.architecture, **spec.config).state_dict()
    for name, tensor in weights.items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif name.endswith(("running_mean", "bias", "bias_AS")):
            tensor.normal_(0, 0.3)
    return weights


def small_model(architecture: str = "pixel_classifier", *, seed: int = 0, **config: Any) -> TorchModel:
    """Such a model on the CPU in float32."""
    spec = small_spec(architecture, **config)
    return TorchModel(
        spec=spec,
        weights=small_weights(spec, seed),
        device=torch.device("cpu"),
        dtype=torch.float32,
        sha256="0" * 64,
        where="small",
    )


def small_model_file(path: Path, architecture: str = "pixel_classifier", **config: Any) -> Path:
    """Such a model as a model file."""
    spec = small_spec(architecture, **config)
    write_model(path, spec, small_weights(spec))
    return path
