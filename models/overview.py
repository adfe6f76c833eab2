"""Draws the picture of a model's card: python models/overview.py models/NAME DATA

One large slide that no training has seen, with the classes in colour as `axial predict --overlay` draws
them: the validation pictures of nuclei laid out side by side, the held-out tile of land cover, or a row of
validation tiles for each class of scenes. Leaves overview.jpg in the model's folder.

Shapes: H height, W width, C channels, N tiles.
"""

from __future__ import annotations

import argparse
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from data_landcover import read_landcover
from data_nuclei import read_nuclei
from data_scenes import SIDE_PX, read_tiles
from joined import join
from numpy.typing import NDArray
from PIL import Image

import axialcli

TILES = 16
"""Of each class of scenes."""

WIDTH_PX, QUALITY = 1100, 82


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of the model, with its recipe.toml")
    parser.add_argument("data", type=Path, help="folder of the data sets")
    args = parser.parse_args()
    recipe = tomllib.loads((args.model / "recipe.toml").read_text())
    with tempfile.TemporaryDirectory() as folder:
        slide, overlay = Path(folder) / "slide.tif", Path(folder) / "overlay.png"
        tifffile.imwrite(slide, picture_of(recipe, args.data), photometric="rgb", tile=(256, 256))
        model = str(args.model / "model.safetensors")
        axialcli.predict(slide, slide.with_name("mask.tif"), model=model, overlay=overlay)
        drawn = Image.open(overlay).convert("RGB")
    height = round(drawn.height * WIDTH_PX / drawn.width)
    drawn.resize((WIDTH_PX, height), Image.Resampling.LANCZOS).save(
        args.model / "overview.jpg", quality=QUALITY
    )


def picture_of(recipe: dict[str, Any], data: Path) -> NDArray[np.uint8]:
    """The picture that is predicted."""
    if recipe["data"] == "landcover":
        return read_landcover(data, "val")[0].image_HWC
    if recipe["data"] == "scenes":
        return rows_of_tiles(recipe, data)
    # Stained tissue first, so that the many fluorescent pictures do not hide it.
    order = {"he": 0, "tnbc": 1, "brightfield": 2, "fluo": 3}
    pictures = sorted(read_nuclei(data, "val"), key=lambda one: order[one.modality])
    return join(pictures)[0]


def rows_of_tiles(recipe: dict[str, Any], data: Path) -> NDArray[np.uint8]:
    """The first tiles of each class, a row for each."""
    tiles = read_tiles(data, "val", recipe["folders"])
    rows = [
        np.concatenate(list(tiles.images_NHWC[tiles.labels_N == number][:TILES]), axis=1)
        for number in range(len(recipe["folders"]))
    ]
    assert all(row.shape == (SIDE_PX, TILES * SIDE_PX, 3) for row in rows)
    return np.concatenate(rows)


if __name__ == "__main__":
    main()
