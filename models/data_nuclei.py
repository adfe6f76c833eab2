"""Labelled pictures of nuclei: the sets dsb2018 and tnbc, as classes or as objects.

Shapes: H height, W width, C channels. Classes are 0 = background, 1 = nucleus. Objects are numbered from 1;
UNCLEAR is nucleus, but nobody says which one.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pictures import IGNORE, Picture
from PIL import Image
from scipy import ndimage

UNCLEAR = 65535
SURE = 0.6
"""Where nuclei may have merged, the middle of a region is that of one nucleus: pixels so deep as this
share of the deepest one's distance from the edge."""

INTERIOR, BORDER = 1, 2


def read_nuclei(data: Path, split: str, *, objects: bool = False) -> list[Picture]:
    """All pictures of one split ("train" or "val"), labelled with classes, or with objects (uint16).

    modality: fluo, he, brightfield (dsb2018) or tnbc.
    """
    pictures = []
    for set_name in ("dsb2018", "tnbc"):
        with (data / set_name / "index.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
        for row in rows:
            image = Image.open(data / set_name / "images" / f"{row['id']}.png").convert("RGB")
            mask_HW = np.asarray(Image.open(data / set_name / "labels" / f"{row['id']}.png"))
            if not objects:
                label_HW = (mask_HW > 0).astype(np.uint8)
            elif set_name == "tnbc":
                label_HW = merged_objects(mask_HW > 0)
            else:
                label_HW = mask_HW.astype(np.uint16)
            pictures.append(
                Picture(
                    name=row["id"],
                    modality=row.get("modality", set_name),
                    image_HWC=np.asarray(image),
                    label_HW=label_HW,
                )
            )
    return pictures


def of_patient(picture: Picture, patient: str) -> bool:
    """Whether a picture of tnbc, named PATIENT_number, is of that patient."""
    return picture.modality == "tnbc" and picture.name.startswith(f"{patient}_")


def merged_objects(mask_HW: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Objects of a mask in which touching nuclei have merged: only the middle of a region is sure.

    The neck between two nuclei is narrower than they are, so that it is no part of the middle.
    """
    regions_HW, _ = ndimage.label(mask_HW)
    depth_HW = ndimage.distance_transform_edt(mask_HW)
    deepest = ndimage.maximum(depth_HW, regions_HW, np.arange(regions_HW.max() + 1))
    middle_HW = depth_HW > SURE * np.asarray(deepest)[regions_HW]
    return np.where(mask_HW & ~middle_HW, UNCLEAR, regions_HW).astype(np.uint16)


def classes_of(objects_HW: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Background, interior, border, or IGNORE: what of an object shows where it ends.

    The border is the outermost pixel of an object, and the two outermost ones where it meets another.
    It is found after resizing, so that it is equally thin at every scale.
    """
    inside_HW, unclear_HW = objects_HW > 0, objects_HW == UNCLEAR
    rim_HW = inside_HW & ~ndimage.binary_erosion(inside_HW, np.ones((3, 3)), border_value=1)
    # An object next to an unclear pixel may be next to itself.
    low_HW = np.where(inside_HW & ~unclear_HW, objects_HW, UNCLEAR)
    high_HW = np.where(unclear_HW, 0, objects_HW)
    lowest_HW, highest_HW = ndimage.minimum_filter(low_HW, 5), ndimage.maximum_filter(high_HW, 5)
    meets_HW = inside_HW & ~unclear_HW & (lowest_HW < highest_HW)
    classes_HW = np.where(inside_HW, INTERIOR, 0).astype(np.uint8)
    classes_HW[unclear_HW] = IGNORE
    classes_HW[rim_HW | meets_HW] = BORDER
    return classes_HW
