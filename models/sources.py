"""Where a recipe's training samples come from: one function that draws a batch, for each kind of data.

Shapes: B batch, H height, W width, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data_landcover import read_landcover
from data_nuclei import classes_of, of_patient, read_nuclei
from data_scenes import draw_tiles, read_tiles
from numpy.typing import NDArray
from pictures import Augmentation, Picture, draw_sample
from torch import Tensor

Draw = Callable[[dict[str, Any], np.random.Generator], tuple[NDArray[Any], NDArray[Any]]]
"""A phase of the recipe and random numbers -> images_BHWC uint8, and what is to be answered: classes
label_BHW uint8 (IGNORE where none is known), or probabilities wanted_BK of whole tiles."""


def source_of(recipe: dict[str, Any], data: Path) -> Draw:
    """What draws the batches of a recipe from the training split in the folder `data`."""
    kind = recipe["data"]
    if kind == "scenes":
        return _tiles(recipe, data)
    if kind == "landcover":
        return _pictures(recipe, read_landcover(data, "train"))
    return _pictures(recipe, pictures_of_nuclei(recipe, data))


def pictures_of_nuclei(recipe: dict[str, Any], data: Path) -> list[Picture]:
    """The training split; where the recipe names `unseen_patients` of tnbc, all pictures of the others."""
    pictures = read_nuclei(data, "train", objects=recipe["data"] == "objects")
    unseen = recipe.get("unseen_patients")
    if unseen is None:
        return pictures
    others = [one for one in read_nuclei(data, "val") if one.modality == "tnbc"]
    return [one for one in pictures + others if not any(of_patient(one, patient) for patient in unseen)]


def batches(recipe: dict[str, Any], draw: Draw, first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches from step `first` on; each depends on the seed and its step alone."""
    step = 0
    for phase in recipe["phase"]:
        for _ in range(phase["steps"]):
            if step >= first:
                images, wanted = draw(phase, np.random.default_rng((recipe["seed"], step)))
                yield torch.from_numpy(images), torch.from_numpy(wanted)
            step += 1


def _tiles(recipe: dict[str, Any], data: Path) -> Draw:
    tiles = read_tiles(data, "train", recipe["folders"])
    classes = len(recipe["classes"])

    def draw(phase: dict[str, Any], rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        return draw_tiles(tiles, phase["batch"], classes, recipe["augmentation"], rng)

    return draw


def _pictures(recipe: dict[str, Any], pictures: list[Picture]) -> Draw:
    shares = np.array(list(recipe["sampling"].values()))
    pools = [[one for one in pictures if one.modality == name] for name in recipe["sampling"]]
    settings = dict(recipe["augmentation"])
    augmentation = Augmentation(scale=tuple(settings.pop("scale")), **settings)

    def draw(phase: dict[str, Any], rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        chosen = rng.choice(len(pools), size=phase["batch"], p=shares / shares.sum())
        samples = [draw_sample(pools[pool], phase["crop"], augmentation, rng) for pool in chosen]
        images, labels = zip(*samples, strict=True)
        if recipe["data"] == "objects":
            labels = tuple(map(classes_of, labels))
        return np.stack(images), np.stack(labels)

    return draw
