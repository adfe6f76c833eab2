"""Lays pictures out on one large slide, with gutters between them, and predicts that.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from pictures import Picture
from PIL import Image
from predicting import predict_image

import axialcli

GUTTER_PX = 32
SIDE_PX = 4096
"""Width of a joined slide; its height is what the pictures need, at least as much."""


def predict_joined(pictures: list[Picture], model: axialcli.Model, folder: Path) -> Iterator[Path]:
    """The masks of pictures that were predicted on one slide for each modality, in shelves.

    Each is cut out when it is asked for, in `folder`, over the one before.
    """
    slides: dict[str, tuple[NDArray[np.uint8], list[tuple[int, int]]]] = {}
    for modality in sorted({picture.modality for picture in pictures}):
        slide_HWC, places = join([picture for picture in pictures if picture.modality == modality])
        mask = predict_image(slide_HWC, model, folder)
        slides[modality] = np.asarray(tifffile.imread(mask, level=0), np.uint8), places
    cut = folder / "cut.png"
    for picture in pictures:
        mask_HW, places = slides[picture.modality]
        (y, x), (height, width) = places.pop(0), picture.label_HW.shape
        Image.fromarray(mask_HW[y : y + height, x : x + width]).save(cut)
        yield cut


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
