"""Labelled aerial pictures of dubai: nine parts of a tile are one picture.

Shapes: H height, W width, C channels. Labels are uint8: the class's place in the recipe, or IGNORE.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from pictures import IGNORE, Picture
from PIL import Image

CLASS_OF = np.array([IGNORE, 1, 0, 2, 3, 4], np.uint8)
"""The class of the set's 0 (unlabelled), 1 building, 2 land, 3 road, 4 vegetation, 5 water. Open land
comes first: overlays and outlines leave class 0 as it is, and it is the ground on which all else lies."""


def read_landcover(data: Path, split: str) -> list[Picture]:
    """The joined tiles of one split ("train" or "val") of the set dubai; a tile's modality is its name.

    The set's 0 is unlabelled and becomes IGNORE; the others become classes as CLASS_OF says.
    """
    with (data / "dubai" / "index.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    pictures = []
    for tile in sorted({row["tile"] for row in rows}):
        parts = {(int(row["row"]), int(row["col"])): row["id"] for row in rows if row["tile"] == tile}
        joined = {}
        for folder, ending in (("images", "jpg"), ("labels", "png")):
            grid = [
                [
                    np.asarray(Image.open(data / "dubai" / folder / f"{parts[y, x]}.{ending}"))
                    for x in range(3)
                ]
                for y in range(3)
            ]
            joined[folder] = np.concatenate([np.concatenate(row, axis=1) for row in grid])
        pictures.append(
            Picture(
                name=f"tile{tile}",
                modality=f"tile{tile}",
                image_HWC=joined["images"],
                label_HW=CLASS_OF[joined["labels"]],
            )
        )
    return pictures
