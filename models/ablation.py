"""What attention is worth: python models/ablation.py models/NAME DATA --run DIR [--minutes M] [--only NAME]

Trains variants of a model's network, each for the same time of the processor, from fresh weights and with
the first phase of the recipe, and measures each as measure.py does. One folder of DIR for each variant and
seed; those that are done are not repeated. Prints a table of all that DIR holds.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from cost import flops_per_pixel
from measure import measured
from timed import train_for
from train import read_recipe

import axialcli

VARIANTS: dict[str, dict[str, Any]] = {
    "span 17": {"span": 17},
    "span 33": {"span": 33},
    "span 65": {"span": 65},
    "no span": {"span": None},
    "separable attention": {"attention": "separable"},
    "attention removed": {"attention": "none"},
    "U-Net": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a segmentation model, with its recipe.toml")
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("--run", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--minutes", type=float, default=6, help="of the processor, for each training")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=VARIANTS, action="append", help="this variant; more than once")
    args = parser.parse_args()
    logging.getLogger("axial").setLevel(logging.ERROR)
    for name in args.only or VARIANTS:
        folder = args.run / f"{name.replace(' ', '-')}.{args.seed}"
        if not (folder / "figures.json").exists():
            recipe = variant(args.model, name) | {"seed": args.seed}
            found = one_variant(recipe, args.minutes, args.data, folder, args.model.parent)
            text = json.dumps({"variant": name, "seed": args.seed, **found}, indent=1)
            (folder / "figures.json").write_text(text)
    print(table(args.run))


def variant(model: Path, name: str) -> dict[str, Any]:
    """The recipe of a model with another network, from fresh weights."""
    recipe = read_recipe(model, baseline=name == "U-Net")
    recipe.pop("start", None)
    return recipe | {"network": recipe["network"] | VARIANTS[name]}


def one_variant(
    recipe: dict[str, Any], minutes: float, data: Path, folder: Path, zoo: Path
) -> dict[str, Any]:
    """Cost, length of the training and figures of one variant."""
    cost = flops_per_pixel(recipe)
    trained = train_for(recipe, minutes, data, folder, zoo)
    model = axialcli.load_model(folder / "model.safetensors", device="cpu")
    with tempfile.TemporaryDirectory() as scratch:
        figures = measured(recipe, data, model, Path(scratch))
    return {"flop_per_px": round(cost), **trained, "figures": figures}


def table(run: Path) -> str:
    """All figures of a folder of runs, one line for each variant and seed."""
    found = [json.loads(path.read_text()) for path in sorted(run.glob("*/figures.json"))]
    found.sort(key=lambda one: (list(VARIANTS).index(one["variant"]), one["seed"]))
    lines = []
    for one in found:
        scores = {name: group.get("mean_iou", group.get("dice")) for name, group in one["figures"].items()}
        if not lines:
            lines.append(f"| variant | seed | kFLOP per pixel | steps | minutes | {' | '.join(scores)} |")
            lines.append("|---" * (5 + len(scores)) + "|")
        start = (
            f"| {one['variant']} | {one['seed']} | {one['flop_per_px'] / 1e3:.1f} | {one.get('steps', '')}"
        )
        numbers = " | ".join(f"{score:.3f}" for score in scores.values())
        lines.append(f"{start} | {one.get('minutes', '')} | {numbers} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
