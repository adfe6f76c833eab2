"""The overlay: a small picture of the slide with the mask's regions in colour.

Shapes: H height, W width, C channels (red, green, blue).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from axialcli.config import ClassInfo
from axialcli.output.files import write_file
from axialcli.output.reduce import nearest

OVERLAY_MAX_PX = 2048
_EDGE_ALPHA = 0.9


def overlay(
    thumbnail_HWC: NDArray[np.uint8],
    labels_HW: NDArray[Any],
    classes: tuple[ClassInfo, ...],
    *,
    alpha: float = 0.45,
    covered: tuple[float, float] = (1.0, 1.0),
) -> NDArray[np.uint8]:
    """The thumbnail, tinted with the colours of its classes; class 0 stays as it is.

    thumbnail_HWC: uint8, one or three channels. labels_HW: indices into `classes`, uint8 or uint16, of the
    same picture at any size. covered: the share of their height and width that lies on the picture; its
    top left corner is theirs. alpha: strength of the tint, 0..1; outlines of regions are stronger.
    Returns uint8 [H, W, 3].
    """
    height, width, channels = thumbnail_HWC.shape
    picture_HWC = np.broadcast_to(thumbnail_HWC, (height, width, 3)) if channels == 1 else thumbnail_HWC
    fitted_HW = nearest(labels_HW, height, width, covered=covered)
    # A label without a class is black.
    colours = np.zeros((np.iinfo(labels_HW.dtype).max + 1, 3), np.float32)
    colours[: len(classes)] = [entry.colour for entry in classes]
    strength = np.where(outlines(fitted_HW), np.float32(max(alpha, _EDGE_ALPHA)), np.float32(alpha))
    strength[fitted_HW == 0] = 0
    tinted_HWC = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        plain = picture_HWC[:, :, channel].astype(np.float32)
        mixed = plain + (colours[fitted_HW, channel] - plain) * strength
        tinted_HWC[:, :, channel] = np.rint(mixed)
    return tinted_HWC


def outlines(labels_HW: NDArray[Any]) -> NDArray[np.bool_]:
    """The pixels of a region, not of class 0, that touch another label above, below or beside them."""
    edge_HW = np.zeros(labels_HW.shape, np.bool_)
    down = labels_HW[1:] != labels_HW[:-1]
    across = labels_HW[:, 1:] != labels_HW[:, :-1]
    edge_HW[1:] |= down
    edge_HW[:-1] |= down
    edge_HW[:, 1:] |= across
    edge_HW[:, :-1] |= across
    edge_HW &= labels_HW != 0
    return edge_HW


def write_overlay(path: Path, picture_HWC: NDArray[np.uint8]) -> Path:
    """Writes a PNG, its longer side made 2048 px at most. Returns `path`; raises OutputError."""
    image = Image.fromarray(picture_HWC)
    if max(image.size) > OVERLAY_MAX_PX:
        image.thumbnail((OVERLAY_MAX_PX, OVERLAY_MAX_PX))
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return write_file(path, encoded.getvalue())
