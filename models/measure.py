"""Measures a model of the zoo: python models/measure.py models/NAME DATA [--weights FILE] [--joined]

What is measured follows from the recipe's data: Dice of nuclei, F1 of objects, IoU of land cover, accuracy
of whole tiles. Each validation picture is written as a TIFF, predicted by `axial predict` with its
defaults, and the mask compared by `axial evaluate`; the figures are printed as JSON. --weights measures
another model file, such as a run's baseline. --split train is for choices that validation must not make.
With --joined the pictures of nuclei of each modality are also laid out on one large slide, with gutters
between them, and measured there: quality must not depend on the picture's size. --tta predicts with test-time
augmentation, but for pictures on a large slide. --coarser 2 measures pictures of nuclei as half the
magnification gives them, all of which are taken to have had 0.25 microns per pixel; with --level 0 they are
predicted as they are then. --keep writes the figures into the model file,
and what the recipe says of the model.

Shapes: H height, W width, C channels, N pictures.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import numpy as np
from data_landcover import read_landcover
from data_nuclei import BORDER, INTERIOR, read_nuclei
from data_scenes import SIDE_PX, read_tiles
from export import export
from joined import predict_joined
from numpy.typing import NDArray
from pictures import IGNORE, Picture
from PIL import Image
from predicting import compare, predict_image
from train import read_recipe

import axialcli
from axialcli.backends.model_file import read_model
from axialcli.config import Augmentation

TNBC_MPP = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of the model, with its recipe.toml")
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("--weights", type=Path, help="another model file; default model.safetensors there")
    parser.add_argument("--split", default="val", choices=("val", "train"))
    parser.add_argument("--joined", action="store_true", help="nuclei: also on large slides")
    parser.add_argument("--tta", choices=get_args(Augmentation), default="off", help="as of axial predict")
    parser.add_argument("--coarser", type=float, default=1.0, help="nuclei: how much larger pixels are")
    parser.add_argument("--level", type=int, help="as of axial predict")
    parser.add_argument("--keep", action="store_true", help="write the figures into the model file")
    args = parser.parse_args()
    how: dict[str, Any] = {"tta": args.tta, "level": args.level}
    told = (args.weights, args.split, args.joined, args.coarser, how)
    if args.keep and told != (None, "val", False, 1.0, {"tta": "off", "level": None}):
        raise SystemExit(
            "--keep is for the model's own figures, as `axial predict` is by default: give it alone"
        )
    # dsb2018 has no microns per pixel; that it says so 59 times helps nobody.
    logging.getLogger("axial").setLevel(logging.ERROR)
    if args.joined and (args.coarser, args.level) != (1.0, None):
        raise SystemExit("--joined lays out pictures as they are: leave out --coarser and --level")
    recipe, file = read_recipe(args.model), args.weights or args.model / "model.safetensors"
    if args.coarser != 1 and recipe["data"] not in ("nuclei", "objects"):
        raise SystemExit(f"--coarser is for pictures of nuclei, not for {recipe['name']}")
    model = axialcli.load_model(file)
    with tempfile.TemporaryDirectory() as folder:
        found = measured(
            recipe,
            args.data,
            model,
            Path(folder),
            split=args.split,
            joined=args.joined,
            coarser=args.coarser,
            **how,
        )
    print(json.dumps(found, indent=1))
    if args.keep:
        export(recipe | {"about": recipe["about"] | {"quality": found}}, read_model(file)[1], file)


def measured(
    recipe: dict[str, Any],
    data: Path,
    model: axialcli.Model,
    folder: Path,
    *,
    split: str = "val",
    joined: bool = False,
    coarser: float = 1.0,
    **how: Any,
) -> dict[str, Any]:
    """The figures of a model on one split of its recipe's data. how: settings of axialcli.predict."""
    if recipe["data"] == "scenes":
        return scenes(read_tiles(data, split, recipe["folders"]), recipe, model, folder, how)
    if recipe["data"] == "landcover":
        return {one.name: land_cover(one, recipe, model, folder, how) for one in read_landcover(data, split)}
    pictures = read_nuclei(data, split, objects=recipe["data"] == "objects")
    masks = (
        predict_image(shrunk(one.image_HWC, coarser), model, folder, mpp=mpp, **how)
        for one in pictures
        for mpp in [TNBC_MPP * coarser if one.modality == "tnbc" or coarser != 1 else None]
    )
    found = nuclei(recipe, pictures, masks)
    if joined:
        on_slides = nuclei(recipe, pictures, predict_joined(pictures, model, folder))
        found = {name: {"single": found[name], "joined": on_slides[name]} for name in found}
    return found


def shrunk(image_HWC: NDArray[np.uint8], by: float) -> NDArray[np.uint8]:
    """The picture with pixels so many times as large, each the mean of what it covers."""
    height, width = (round(side / by) for side in image_HWC.shape[:2])
    return np.asarray(Image.fromarray(image_HWC).resize((width, height), Image.Resampling.BOX))


def nuclei(
    recipe: dict[str, Any], pictures: list[Picture], masks: Iterable[Path]
) -> dict[str, dict[str, float]]:
    """Mean and lowest Dice per group of pictures, and how many; of labelled objects also their F1."""
    scores: dict[str, list[dict[str, float]]] = defaultdict(list)
    for picture, mask in zip(pictures, masks, strict=True):
        score = nuclei_score(recipe, picture, mask)
        scores[picture.modality].append(score)
        if picture.modality != "tnbc":
            scores["dsb2018"].append(score)
    return {name: summary(found) for name, found in sorted(scores.items())}


def nuclei_score(recipe: dict[str, Any], picture: Picture, mask: Path) -> dict[str, float]:
    """Dice of all that is nucleus, and F1 of the objects where both mask and labels tell them apart."""
    if recipe["data"] != "objects":
        return {"dice": compare(mask, picture.label_HW)["classes"][1]["dice"]}
    whole = {"instances": True, "classes": f"0=0,1={INTERIOR}+{BORDER}"}
    if picture.modality == "tnbc":
        return {"dice": compare(mask, picture.label_HW, **whole)["classes"][1]["dice"]}
    said = {"objects": str(INTERIOR), "border": str(BORDER), "min_object_px": recipe["smallest_object_px"]}
    found = compare(mask, picture.label_HW, **whole, **said)
    objects = found["objects"]
    return {
        "dice": found["classes"][1]["dice"],
        "f1_at_0.5": objects["f1"],
        "f1_mean": objects["mean_f1"],
    }


def summary(scores: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure, the lowest Dice, the number of pictures."""
    means = {key: round(float(np.mean([score[key] for score in scores])), 4) for key in scores[0]}
    return {**means, "lowest": round(min(score["dice"] for score in scores), 4), "pictures": len(scores)}


def land_cover(
    picture: Picture, recipe: dict[str, Any], model: axialcli.Model, folder: Path, how: dict[str, Any]
) -> dict[str, Any]:
    """IoU per class and their mean, and the share of right pixels; unlabelled ones count nowhere."""
    mask = predict_image(picture.image_HWC, model, folder, **how)
    found = compare(mask, picture.label_HW, ignore=(str(IGNORE),))
    names = [entry["name"] for entry in recipe["classes"]]
    iou = {names[min(one["truth_values"])]: round(one["iou"], 4) for one in found["classes"]}
    return {
        "mean_iou": round(found["mean_iou"], 4),
        "iou": iou,
        "accuracy": round(found["agreement"], 4),
    }


def scenes(
    tiles: Any, recipe: dict[str, Any], model: axialcli.Model, folder: Path, how: dict[str, Any]
) -> dict[str, Any]:
    """Accuracy, in all and per class, on one picture that is made of all tiles."""
    count = len(tiles.labels_N)
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    image_NHWC = np.zeros((rows * columns, SIDE_PX, SIDE_PX, 3), np.uint8)
    image_NHWC[:count] = tiles.images_NHWC
    grid = image_NHWC.reshape(rows, columns, SIDE_PX, SIDE_PX, 3).swapaxes(1, 2)
    label_N = np.full(rows * columns, IGNORE, np.uint8)
    label_N[:count] = tiles.labels_N
    mask = predict_image(grid.reshape(rows * SIDE_PX, columns * SIDE_PX, 3), model, folder, **how)
    found = compare(mask, label_N.reshape(rows, columns), ignore=(str(IGNORE),))
    names = [entry["name"] for entry in recipe["classes"]]
    return {
        "accuracy": round(found["agreement"], 4),
        "tiles": found["pixels"],
        "recall": {
            names[min(one["truth_values"])]: round(one["both_px"] / one["truth_px"], 4)
            for one in found["classes"]
            if one["truth_px"]
        },
    }


if __name__ == "__main__":
    main()
