"""How nuclei are found in a patient never seen: python models/unseen_patients.py models/nuclei DATA --run DIR

Leaves out each patient of tnbc in turn; all other patients, training and validation split alike, are trained
on beside dsb2018. What trainings have in common is done once: a network on dsb2018 alone; from it two, each
without one half of the patients; from the one without a patient's half, the one without this patient, who is
in none of the three. This last one may be trained several times, each from the mean of the weights that the
time before began with and came to; the mean of the last time is measured on the patient left out, with
`axial predict --tta` where that is asked for. None of them is shipped. The first follows the model's own
recipe, the others that with the changes of its section `unseen`. Prints a table of all that DIR holds; what
is done is not repeated.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data_nuclei import of_patient, read_nuclei
from measure import TNBC_MPP, nuclei_score
from predicting import predict_image
from timed import train_for
from train import read_recipe

import axialcli
from axialcli.backends.model_file import read_model, write_model

FIGURES = {"off": "figures.json", "turns": "figures-turns.json", "full": "figures-full.json"}
"""Of each test-time augmentation the file of a patient's figures."""

FIRST = "dsb2018"
"""The folder of the network that all others start from."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of the model, with its recipe.toml")
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("--run", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--first-minutes", type=float, default=10, help="of the processor, on dsb2018 alone")
    parser.add_argument("--half-minutes", type=float, default=50, help="of the processor, without each half")
    parser.add_argument(
        "--minutes",
        type=float,
        nargs="+",
        default=[5.0],
        help="of the processor, each time, without each patient",
    )
    parser.add_argument("--tta", choices=FIGURES, default="off", help="as of axial predict")
    parser.add_argument("--half", type=int, choices=(1, 2), help="only the patients of this half")
    args = parser.parse_args()
    logging.getLogger("axial").setLevel(logging.ERROR)
    recipe = recipe_for_unseen(args.model)
    own = read_recipe(args.model)
    first = own | {"sampling": {name: share for name, share in own["sampling"].items() if name != "tnbc"}}
    train_for(first, args.first_minutes, args.data, args.run / FIRST, args.model.parent)
    every_patient = patients(args.data)
    for number in (args.half,) if args.half else (1, 2):
        half = every_patient[number - 1 :: 2]
        train_without(half, recipe, FIRST, args.half_minutes, args, f"half-{number}")
        for patient in half:
            one_patient(patient, recipe, f"half-{number}", args)
    print(table(args.run, args.tta))


def recipe_for_unseen(model: Path) -> dict[str, Any]:
    """The recipe in a model's folder with the changes of its section `unseen`."""
    recipe = read_recipe(model)
    changes = tomllib.loads((model / "recipe.toml").read_text())["unseen"]
    changed = {key: recipe[key] | new if isinstance(new, dict) else new for key, new in changes.items()}
    return recipe | changed


def table(run: Path, tta: str) -> str:
    """The figures of all patients measured so far, with that test-time augmentation."""
    scores = {
        path.parent.name.removeprefix("without-"): json.loads(path.read_text())
        for path in sorted(run.glob(f"without-*/{FIGURES[tta]}"))
    }
    rows = [(patient, found, np.mean(found)) for patient, found in scores.items()]
    every = [score for found in scores.values() for score in found]
    rows.append(("mean of pictures", every, np.mean(every)))
    rows.append(("mean of patients", every, np.mean([mean for _, _, mean in rows[:-1]])))
    lines = [f"| {name} | {len(found)} | {mean:.3f} | {min(found):.3f} |" for name, found, mean in rows]
    return "\n".join(["| patient | pictures | mean Dice | lowest |", "|---|---|---|---|", *lines])


def patients(data: Path) -> list[str]:
    """The patients of tnbc."""
    with (data / "tnbc" / "index.csv").open(newline="") as file:
        return sorted({row["patient"] for row in csv.DictReader(file)})


def train_without(
    unseen: list[str],
    recipe: dict[str, Any],
    start: str,
    minutes: float,
    args: argparse.Namespace,
    name: str,
    times: int = 0,
) -> None:
    """Trains on all but some patients, from the weights in DIR/start; leaves DIR/name/model.safetensors.

    times: how often the networks of single patients were trained before; each time sees other samples.
    """
    seed = recipe["seed"] + (1 if start == FIRST else 2 + times)
    changed = recipe | {"start": start, "seed": seed, "unseen_patients": unseen}
    train_for(changed, minutes, args.data, args.run / name, args.run)


def one_patient(patient: str, recipe: dict[str, Any], start: str, args: argparse.Namespace) -> None:
    """Leaves Dice of each picture of an unseen patient in one of the FIGURES of DIR/without-PATIENT.

    Means of the weights at both ends of a training do better where the pictures are of another kind than
    those that it has seen: Wortsman et al. 2022 (arXiv 2109.01903).
    """
    name = f"without-{patient}"
    figures = args.run / name / FIGURES[args.tta]
    if figures.exists():
        return
    for times, minutes in enumerate(args.minutes):
        trained, mean = f"time-{times + 1}/{name}", f"mean-{times + 1}/{name}"
        train_without([patient], recipe, start, minutes, args, trained, times)
        write_mean([args.run / folder / "model.safetensors" for folder in (start, trained)], args.run / mean)
        start = mean
    model = axialcli.load_model(args.run / start / "model.safetensors", device="cpu")
    figures.parent.mkdir(parents=True, exist_ok=True)
    figures.write_text(json.dumps(measured(recipe, model, patient, args.data, args.tta)))


def write_mean(files: Sequence[Path], folder: Path) -> None:
    """A model file of the mean weights of models of one kind: folder/model.safetensors."""
    (spec, first), *others = (read_model(file) for file in files)
    weights = {
        name: torch.stack([tensor.float(), *(other[name].float() for _, other in others)])
        .mean(0)
        .to(tensor.dtype)
        for name, tensor in first.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / "model.safetensors", spec, weights)


def measured(
    recipe: dict[str, Any], model: axialcli.Model, patient: str, data: Path, tta: str
) -> list[float]:
    """Dice of each picture of a patient."""
    pictures = [
        one for split in ("train", "val") for one in read_nuclei(data, split) if of_patient(one, patient)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        masks = (predict_image(one.image_HWC, model, folder, mpp=TNBC_MPP, tta=tta) for one in pictures)
        return [nuclei_score(recipe, one, mask)["dice"] for one, mask in zip(pictures, masks, strict=True)]


if __name__ == "__main__":
    main()
