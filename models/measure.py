"""Measures a nuclei model: python models/measure.py DATA [--model nuclei] [--joined]

Each validation picture is written as a TIFF, predicted by `axialcli.predict`, and its mask read back
from the file. Prints the mean Dice per picture for each modality, for dsb2018 and for tnbc, as JSON.
With --joined the pictures of each modality are also laid out on one large slide, with gutters between
them, and measured there: quality must not depend on the picture's size.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from pictures import Picture, read_pictures

import axialcli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with dsb2018/ and tnbc/")
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--joined", action="store_true", help="also on large slides")
    args = parser.parse_args()
    # dsb2018 has no microns per pixel; that it says so 59 times helps nobody.
    logging.getLogger("axial").setLevel(logging.ERROR)
    pictures, model = read_pictures(args.data, "val"), axialcli.load_model(args.model)
    with tempfile.TemporaryDirectory() as folder:
        found = summary(pictures, [predict_picture(picture, model, Path(folder)) for picture in pictures])
        if args.joined:
            joined = summary(pictures, predict_joined(pictures, model, Path(folder)))
            found = {name: {"single": found[name], "joined": joined[name]} for name in found}
    print(json.dumps(found, indent=1))


def summary(pictures: list[Picture], masks: list[NDArray[np.uint8]]) -> dict[str, dict[str, float]]:
    """Mean and lowest Dice per group of pictures, and how many pictures."""
    scores: dict[str, list[float]] = defaultdict(list)
    for picture, mask_HW in zip(pictures, masks, strict=True):
        score = dice(mask_HW, picture.label_HW)
        scores[picture.modality].append(score)
        if picture.modality != "tnbc":
            scores["dsb2018"].append(score)
    return {
        name: {
            "dice": round(float(np.mean(found)), 4),
            "lowest": round(min(found), 4),
            "pictures": len(found),
        }
        for name, found in sorted(scores.items())
    }


def predict_picture(picture: Picture, model: axialcli.Model, folder: Path) -> NDArray[np.uint8]:
    """The mask that `predict` writes for a picture saved as a tiled TIFF."""
    slide = folder / "slide.tif"
    scale = {"resolution": (1e4 / 0.25, 1e4 / 0.25), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(
        slide,
        picture.image_HWC,
        photometric="rgb",
        tile=(256, 256),
        compression="zlib",
        **(scale if picture.modality == "tnbc" else {}),
    )
    return predict_file(slide, model)


def predict_file(slide: Path, model: axialcli.Model) -> NDArray[np.uint8]:
    """The mask that `predict` writes for a slide."""
    mask = slide.with_name("mask.tif")
    axialcli.predict(slide, mask, model=model, force=True)
    return np.asarray(tifffile.imread(mask, level=0), np.uint8)


GUTTER_PX = 32
SIDE_PX = 4096
"""Width of a joined slide; its height is what the pictures need, at least as much."""


def predict_joined(pictures: list[Picture], model: axialcli.Model, folder: Path) -> list[NDArray[np.uint8]]:
    """The masks of pictures that were predicted on one slide for each modality, in shelves."""
    masks: dict[int, NDArray[np.uint8]] = {}
    for modality in sorted({picture.modality for picture in pictures}):
        group = {index: picture for index, picture in enumerate(pictures) if picture.modality == modality}
        slide_HWC, places = join(list(group.values()))
        tifffile.imwrite(
            folder / "joined.tif", slide_HWC, photometric="rgb", tile=(256, 256), compression="zlib"
        )
        mask_HW = predict_file(folder / "joined.tif", model)
        for index, (y, x) in zip(group, places, strict=True):
            height, width = pictures[index].label_HW.shape
            masks[index] = mask_HW[y : y + height, x : x + width]
    return [masks[index] for index in range(len(pictures))]


def join(pictures: list[Picture]) -> tuple[NDArray[np.uint8], list[tuple[int, int]]]:
    """A slide filled with the pictures, again and again, and where the first of each begins (y, x)."""
    slide_HWC = np.empty((2 * SIDE_PX, SIDE_PX, 3), np.uint8)
    slide_HWC[:] = commonest([picture.image_HWC for picture in pictures])
    places: list[tuple[int, int]] = []
    top, left, height = GUTTER_PX, GUTTER_PX, 0
    for number in itertools.count():
        image_HWC = pictures[number % len(pictures)].image_HWC
        if left + image_HWC.shape[1] + GUTTER_PX > SIDE_PX:
            top, left, height = top + height + GUTTER_PX, GUTTER_PX, 0
        # Every picture is there at least once; then a square is filled.
        if top + image_HWC.shape[0] > (SIDE_PX if number >= len(pictures) else len(slide_HWC)):
            return slide_HWC[: max(SIDE_PX, top + height + GUTTER_PX)], places
        slide_HWC[top : top + image_HWC.shape[0], left : left + image_HWC.shape[1]] = image_HWC
        if number < len(pictures):
            places.append((top, left))
        left, height = left + image_HWC.shape[1] + GUTTER_PX, max(height, image_HWC.shape[0])
    raise AssertionError("a slide is full some time")


def commonest(images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The commonest colour of pictures, to the nearest 8: what lies between the objects of a modality."""
    cells = np.concatenate([image.reshape(-1, 3) // 8 for image in images])
    colours, counts = np.unique(cells, axis=0, return_counts=True)
    return np.asarray(colours[counts.argmax()] * 8 + 4, np.uint8)


def dice(mask_HW: NDArray[np.uint8], label_HW: NDArray[np.uint8]) -> float:
    """2 |A and B| / (|A| + |B|) of the foregrounds; 1 where both are empty."""
    total = np.count_nonzero(mask_HW) + np.count_nonzero(label_HW)
    return 2 * np.count_nonzero(mask_HW & label_HW) / total if total else 1.0


if __name__ == "__main__":
    main()
