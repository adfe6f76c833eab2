"""Networks: attention, blocks, and the architectures that a model file can name."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from axialcli.errors import ModelError
from axialcli.nn.axial_segmenter import AxialSegmenter, AxialSegmenterConfig
from axialcli.nn.pixel_classifier import PixelClassifier, PixelClassifierConfig

LARGEST = {
    "in_channels": 64,
    "classes": 256,
    "width": 512,
    "depth": 32,
    "heads": 64,
    "span": 1025,
    "mlp_ratio": 8,
}
"""Of each setting: far above what runs, and together under 1 GB of weights, so that a description of a
few bytes cannot ask for more."""

ARCHITECTURES: dict[str, tuple[type, type[nn.Module]]] = {
    "axial_segmenter": (AxialSegmenterConfig, AxialSegmenter),
    "pixel_classifier": (PixelClassifierConfig, PixelClassifier),
}


def build_network(architecture: str, **config: Any) -> nn.Module:
    """A network with fresh weights, from the name and the sizes that a model file gives.

    Raises ModelError for a name or a setting that nobody knows, and for sizes that make no network.
    """
    if architecture not in ARCHITECTURES:
        raise ModelError(f"architecture '{architecture}' is not one of {', '.join(ARCHITECTURES)}")
    config_type, network_type = ARCHITECTURES[architecture]
    defaults = {field.name: field.default for field in dataclasses.fields(config_type)}
    if unknown := sorted(config.keys() - defaults.keys()):
        raise ModelError(f"architecture '{architecture}' has no setting {', '.join(unknown)}")
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    for key, value in settings.items():
        if not _is_size(value, defaults[key], LARGEST[key]):
            raise ModelError(
                f"architecture '{architecture}': {key} is {value!r:.40}; "
                f"it takes whole numbers from 1 to {LARGEST[key]}, shaped like {defaults[key]}"
            )
    try:
        return network_type(config_type(**settings))
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"architecture '{architecture}': {reason}") from error


def _is_size(value: object, default: object, largest: int) -> bool:
    if isinstance(default, tuple):
        return (
            isinstance(value, tuple)
            and len(value) == len(default)
            and all(_is_size(part, 1, largest) for part in value)
        )
    # True is an int as well, and is no size.
    return type(value) is int and 1 <= value <= largest
