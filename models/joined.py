"""Lays pictures out on one large slide, with gutters between them, and predicts that.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from pictures import Picture
from predicting import predict_file

import axialcli

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
