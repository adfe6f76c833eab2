"""Networks: attention, blocks, and the architectures that a model file can name."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from axialcli.errors import ModelError
from axialcli.nn.axial_segmenter import AxialSegmenter, AxialSegmenterConfig
from axialcli.nn.pixel_classifier import PixelClassifier, PixelClassifierConfig

ARCHITECTURES: dict[str, tuple[type, type[nn.Module]]] = {
    "axial_segmenter": (AxialSegmenterConfig, AxialSegmenter),
    "pixel_classifier": (PixelClassifierConfig, PixelClassifier),
}


def build_network(architecture: str, **config: Any) -> nn.Module:
    """A network with fresh weights, from the name and the sizes that a model file gives.

    Raises ModelError for a name or a setting that nobody knows.
    """
    if architecture not in ARCHITECTURES:
        raise ModelError(f"architecture '{architecture}' is not one of {', '.join(ARCHITECTURES)}")
    config_type, network_type = ARCHITECTURES[architecture]
    known = {field.name for field in dataclasses.fields(config_type)}
    if unknown := sorted(set(config) - known):
        raise ModelError(f"architecture '{architecture}' has no setting {', '.join(unknown)}")
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    try:
        return network_type(config_type(**settings))
    except (TypeError, ValueError) as error:
        raise ModelError(f"architecture '{architecture}': {error}") from error
