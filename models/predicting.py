"""The masks that `axialcli.predict` writes for labelled pictures, read back from the file.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

import axialcli


def predict_image(
    image_HWC: NDArray[np.uint8], model: axialcli.Model, folder: Path, *, mpp: float | None = None
) -> NDArray[np.uint8]:
    """The mask of a picture saved as a tiled TIFF, which says its microns per pixel where they are given."""
    slide = folder / "slide.tif"
    scale = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(slide, image_HWC, photometric="rgb", tile=(256, 256), compression="zlib", **scale)
    return predict_file(slide, model)


def predict_file(slide: Path, model: axialcli.Model) -> NDArray[np.uint8]:
    """The mask of a slide."""
    mask = slide.with_name("mask.tif")
    axialcli.predict(slide, mask, model=model, force=True)
    return np.asarray(tifffile.imread(mask, level=0), np.uint8)
