"""Networks: attention, blocks, and the architectures that a model file can name."""

from __future__ import annotations

import typing
from typing import Any

from torch import nn

from axialcli.errors import ModelError
from axialcli.nn.axial_classifier import AxialClassifier, AxialClassifierConfig
from axialcli.nn.axial_segmenter import AxialSegmenter, AxialSegmenterConfig
from axialcli.nn.axialize import axialize
from axialcli.nn.families import ARCHITECTURES as OF_FAMILIES
from axialcli.nn.pixel_classifier import PixelClassifier, PixelClassifierConfig
from axialcli.nn.resnet import ResNet, ResNetConfig
from axialcli.nn.settings import describe, fits
from axialcli.nn.unet import UNet, UNetConfig
from axialcli.nn.volume_segmenter import AxialVolumeSegmenter, AxialVolumeSegmenterConfig

ARCHITECTURES: dict[str, tuple[type, type[nn.Module]]] = {
    "axial_classifier": (AxialClassifierConfig, AxialClassifier),
    "axial_segmenter": (AxialSegmenterConfig, AxialSegmenter),
    "axial_volume_segmenter": (AxialVolumeSegmenterConfig, AxialVolumeSegmenter),
    "pixel_classifier": (PixelClassifierConfig, PixelClassifier),
    "resnet": (ResNetConfig, ResNet),
    "unet": (UNetConfig, UNet),
    **OF_FAMILIES,
}


def build_network(architecture: str, **config: Any) -> nn.Module:
    """A network with fresh weights, from the name and the settings that a model file gives.

    Raises ModelError for a name or a setting that nobody knows, and for settings that make no network.
    """
    if architecture not in ARCHITECTURES:
        raise ModelError(f"architecture '{architecture}' is not one of {', '.join(ARCHITECTURES)}")
    config_type, network_type = ARCHITECTURES[architecture]
    kinds = typing.get_type_hints(config_type)
    if unknown := sorted(config.keys() - kinds.keys()):
        raise ModelError(f"architecture '{architecture}' has no setting {', '.join(unknown)}")
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    for key, value in settings.items():
        if not fits(key, value, kinds[key]):
            raise ModelError(
                f"architecture '{architecture}': {key} is {value!r:.40}; it takes {describe(key, kinds[key])}"
            )
    try:
        return network_type(config_type(**settings))
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"architecture '{architecture}': {reason}") from error


__all__ = ["ARCHITECTURES", "axialize", "build_network"]
