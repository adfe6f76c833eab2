"""Measures a model of the zoo: python models/measure.py models/NAME DATA [--weights FILE] [--joined]

What is measured follows from the recipe's data: Dice of nuclei, F1 of objects, IoU of land cover, accuracy
of whole tiles. Each validation picture is written as a TIFF, predicted by `axialcli.predict` with its
defaults, and the mask read back from the file; the figures are printed as JSON. --weights measures another
model file, such as a run's baseline. With --joined the pictures of nuclei of each modality are also laid out
on one large slide, with gutters between them, and measured there: quality must not depend on the
picture's size.

Shapes: H height, W width, C channels, K classes, N pictures.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from data_landcover import read_landcover
from data_nuclei import read_nuclei
from data_scenes import SIDE_PX, read_tiles
from joined import predict_joined
from numpy.typing import NDArray
from objects import object_f1, objects_of
from pictures import IGNORE, Picture
from predicting import predict_image

import axialcli

TNBC_MPP = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of the model, with its recipe.toml")
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("--weights", type=Path, help="another model file; default model.safetensors there")
    parser.add_argument("--joined", action="store_true", help="nuclei: also on large slides")
    args = parser.parse_args()
    # dsb2018 has no microns per pixel; that it says so 59 times helps nobody.
    logging.getLogger("axial").setLevel(logging.ERROR)
    recipe = tomllib.loads((args.model / "recipe.toml").read_text())
    model = axialcli.load_model(args.weights or args.model / "model.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measured(recipe, args.data, model, Path(folder), args.joined), indent=1))


def measured(
    recipe: dict[str, Any], data: Path, model: axialcli.Model, folder: Path, joined: bool
) -> dict[str, Any]:
    """The figures of a model on the validation split that its recipe's data has."""
    if recipe["data"] == "scenes":
        return scenes(read_tiles(data, "val", recipe["folders"]), recipe, model, folder)
    if recipe["data"] == "landcover":
        names = [entry["name"] for entry in recipe["classes"]]
        return {
            picture.name: land_cover(predict_image(picture.image_HWC, model, folder), picture, names)
            for picture in read_landcover(data, "val")
        }
    pictures = read_nuclei(data, "val", objects=recipe["data"] == "objects")
    masks = [
        predict_image(one.image_HWC, model, folder, mpp=TNBC_MPP if one.modality == "tnbc" else None)
        for one in pictures
    ]
    found = nuclei(pictures, masks)
    if joined:
        on_slides = nuclei(pictures, predict_joined(pictures, model, folder))
        found = {name: {"single": found[name], "joined": on_slides[name]} for name in found}
    return found


def nuclei(pictures: list[Picture], masks: list[NDArray[np.uint8]]) -> dict[str, dict[str, float]]:
    """Mean and lowest Dice per group of pictures, and how many; of labelled objects also their F1."""
    scores: dict[str, list[dict[str, float]]] = defaultdict(list)
    for picture, mask_HW in zip(pictures, masks, strict=True):
        score = {"dice": dice(mask_HW > 0, picture.label_HW > 0)}
        if picture.label_HW.dtype == np.uint16 and picture.modality != "tnbc":
            f1 = object_f1(objects_of(mask_HW), picture.label_HW.astype(np.int32))
            score |= {"f1_at_0.5": f1[0], "f1_mean": f1.mean()}
        scores[picture.modality].append(score)
        if picture.modality != "tnbc":
            scores["dsb2018"].append(score)
    return {name: summary(found) for name, found in sorted(scores.items())}


def summary(scores: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure, the lowest Dice, the number of pictures."""
    means = {key: round(float(np.mean([score[key] for score in scores])), 4) for key in scores[0]}
    return {**means, "lowest": round(min(score["dice"] for score in scores), 4), "pictures": len(scores)}


def dice(mask_HW: NDArray[np.bool_], label_HW: NDArray[np.bool_]) -> float:
    """2 |A and B| / (|A| + |B|) of the foregrounds; 1 where both are empty."""
    total = np.count_nonzero(mask_HW) + np.count_nonzero(label_HW)
    return 2 * np.count_nonzero(mask_HW & label_HW) / total if total else 1.0


def land_cover(mask_HW: NDArray[np.uint8], picture: Picture, names: list[str]) -> dict[str, Any]:
    """IoU per class and their mean, and the share of right pixels; unlabelled ones count nowhere."""
    known_HW = picture.label_HW != IGNORE
    found_N, label_N = mask_HW[known_HW], picture.label_HW[known_HW]
    iou_K = []
    for number in range(len(names)):
        either = np.count_nonzero((found_N == number) | (label_N == number))
        iou_K.append(np.count_nonzero((found_N == number) & (label_N == number)) / either)
    return {
        "mean_iou": round(float(np.mean(iou_K)), 4),
        "iou": {name: round(iou, 4) for name, iou in zip(names, iou_K, strict=True)},
        "accuracy": round(float(np.mean(found_N == label_N)), 4),
    }


def scenes(tiles: Any, recipe: dict[str, Any], model: axialcli.Model, folder: Path) -> dict[str, Any]:
    """Accuracy, in all and per class, on one picture that is made of all tiles."""
    columns = int(np.ceil(np.sqrt(len(tiles.labels_N))))
    rows = -(-len(tiles.labels_N) // columns)
    image_NHWC = np.zeros((rows * columns, SIDE_PX, SIDE_PX, 3), np.uint8)
    image_NHWC[: len(tiles.labels_N)] = tiles.images_NHWC
    grid = image_NHWC.reshape(rows, columns, SIDE_PX, SIDE_PX, 3).swapaxes(1, 2)
    mask_HW = predict_image(grid.reshape(rows * SIDE_PX, columns * SIDE_PX, 3), model, folder)
    right_N = mask_HW.ravel()[: len(tiles.labels_N)] == tiles.labels_N
    return {
        "accuracy": round(float(right_N.mean()), 4),
        "tiles": len(right_N),
        "recall": {
            entry["name"]: round(float(right_N[tiles.labels_N == number].mean()), 4)
            for number, entry in enumerate(recipe["classes"])
        },
    }


if __name__ == "__main__":
    main()
