"""Labelled pictures as `axialcli.predict` answers them, compared by `axialcli.evaluate`.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

import axialcli
from axialcli.evaluate import evaluate


def predict_image(
    image_HWC: NDArray[np.uint8],
    model: axialcli.Model,
    folder: Path,
    *,
    mpp: float | None = None,
    **settings: Any,
) -> Path:
    """The mask of a picture saved as a tiled TIFF, which says its microns per pixel where they are given.

    Written in `folder`, over that of the picture before. settings: of axialcli.predict.
    """
    slide = folder / "slide.tif"
    scale = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(slide, image_HWC, photometric="rgb", tile=(256, 256), compression="zlib", **scale)
    mask = folder / "mask.tif"
    axialcli.predict(slide, mask, model=model, force=True, **settings)
    return mask


def compare(mask: Path, label_HW: NDArray[np.uint8] | NDArray[np.uint16], **settings: Any) -> dict[str, Any]:
    """The figures of `axial evaluate` for a mask and the labels of its picture."""
    truth = mask.with_name("truth.png")
    Image.fromarray(label_HW).save(truth)
    pooled: dict[str, Any] = evaluate(mask, truth, by_size=True, **settings)["pooled"]
    return pooled
