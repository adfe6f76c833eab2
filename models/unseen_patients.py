"""How nuclei are found in a patient never seen: python models/unseen_patients.py models/nuclei DATA --run DIR

Leaves out each patient of tnbc in turn; all other patients, training and validation split alike, are trained
on beside dsb2018. What trainings have in common is done once: a network on dsb2018 alone; from it two, each
without one half of the patients; from the one without a patient's half, the one without this patient, who is
in none of the three. Each is measured on the patient left out. None of them is shipped. Prints a table.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from data_nuclei import of_patient, read_nuclei
from measure import TNBC_MPP, nuclei_score
from predicting import predict_image
from timed import train_for
from train import read_recipe

import axialcli

FIRST = "dsb2018"
"""The folder of the network that all others start from."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of the model, with its recipe.toml")
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("--run", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--first-minutes", type=float, default=12, help="of the processor, on dsb2018 alone")
    parser.add_argument("--half-minutes", type=float, default=22, help="of the processor, without each half")
    parser.add_argument("--minutes", type=float, default=8, help="of the processor, without each patient")
    args = parser.parse_args()
    logging.getLogger("axial").setLevel(logging.ERROR)
    recipe = read_recipe(args.model)
    first = recipe | {"sampling": {k: v for k, v in recipe["sampling"].items() if k != "tnbc"}}
    train_for(first, args.first_minutes, args.data, args.run / FIRST, args.model.parent)
    every_patient = patients(args.data)
    scores = {}
    for name, half in {"half-1": every_patient[::2], "half-2": every_patient[1::2]}.items():
        train_without(half, after(recipe, FIRST), args.half_minutes, args, name)
        for patient in half:
            scores[patient] = one_patient(patient, after(recipe, name), args)
    print("| patient | pictures | mean Dice | lowest |\n|---|---|---|---|")
    for patient, found in sorted(scores.items()):
        print(f"| {patient} | {len(found)} | {np.mean(found):.3f} | {min(found):.3f} |")
    every = [score for found in scores.values() for score in found]
    print(f"| mean of pictures | {len(every)} | {np.mean(every):.3f} | {min(every):.3f} |")
    means = [float(np.mean(found)) for found in scores.values()]
    print(f"| mean of patients | {len(every)} | {np.mean(means):.3f} | {min(means):.3f} |")


def patients(data: Path) -> list[str]:
    """The patients of tnbc."""
    with (data / "tnbc" / "index.csv").open(newline="") as file:
        return sorted({row["patient"] for row in csv.DictReader(file)})


def after(recipe: dict[str, Any], start: str) -> dict[str, Any]:
    """The recipe, from another run's weights and with other samples than that run's."""
    return recipe | {"start": start, "seed": recipe["seed"] + (1 if start == FIRST else 2)}


def train_without(
    unseen: list[str], recipe: dict[str, Any], minutes: float, args: argparse.Namespace, name: str
) -> None:
    """Trains on all but some patients; leaves DIR/name/model.safetensors."""
    train_for(recipe | {"unseen_patients": unseen}, minutes, args.data, args.run / name, args.run)


def one_patient(patient: str, recipe: dict[str, Any], args: argparse.Namespace) -> list[float]:
    """Dice of each picture of a patient whom the network has not seen."""
    folder = args.run / f"without-{patient}"
    if not (folder / "figures.json").exists():
        train_without([patient], recipe, args.minutes, args, folder.name)
        model = axialcli.load_model(folder / "model.safetensors", device="cpu")
        (folder / "figures.json").write_text(json.dumps(measured(recipe, model, patient, args.data)))
    return list(json.loads((folder / "figures.json").read_text()))


def measured(recipe: dict[str, Any], model: axialcli.Model, patient: str, data: Path) -> list[float]:
    """Dice of each picture of a patient."""
    pictures = [
        one for split in ("train", "val") for one in read_nuclei(data, split) if of_patient(one, patient)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        return [
            nuclei_score(recipe, one, predict_image(one.image_HWC, model, folder, mpp=TNBC_MPP))["dice"]
            for one in pictures
        ]


if __name__ == "__main__":
    main()
