"""The families: axial networks, and those that they are compared with, as their public codes save them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from axialcli.nn.families import (
    axial_deeplab,
    axial_resnet,
    axial_transformer,
    lucidrains,
    medt,
    swin,
    vit,
    vminet,
    vminet_segmenter,
)
from axialcli.nn.families.found import Beyond, Found, Recognise

ARCHITECTURES: dict[str, tuple[type, type[nn.Module]]] = {
    **axial_deeplab.ARCHITECTURES,
    **axial_resnet.ARCHITECTURES,
    **axial_transformer.ARCHITECTURES,
    **medt.ARCHITECTURES,
    **swin.ARCHITECTURES,
    **vit.ARCHITECTURES,
    **vminet.ARCHITECTURES,
    **vminet_segmenter.ARCHITECTURES,
}
"""What a model file may name, of all families."""

RECOGNISE: tuple[Recognise, ...] = (
    axial_deeplab.recognise,
    axial_resnet.recognise,
    lucidrains.recognise,
    medt.recognise,
    swin.recognise,
    vit.recognise,
    vminet.recognise,
)


def recognise(weights: Mapping[str, Tensor]) -> Found | None:
    """What family a checkpoint is of, by its keys and shapes; None where none knows it. Raises ModelError."""
    for ask in RECOGNISE:
        found = ask(weights)
        if found is not None:
            return found
    return None


__all__ = ["ARCHITECTURES", "Beyond", "Found", "recognise"]
