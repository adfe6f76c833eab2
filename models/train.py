"""Trains a model of the zoo: python models/train.py models/NAME DATA [--run DIR] [--baseline] [--start FILE]

Leaves models/NAME/model.safetensors, in place of the one that is there; of a baseline RUN/model.safetensors.
DATA holds the data sets' folders. Settings are read from the model's recipe.toml; --baseline takes the
recipe's plain convolutional network of equal cost instead and leaves it in the run's folder; --start goes
through the recipe once more, with other samples, from the weights of a model file, and --seed names samples
for a third time. A run that was stopped goes on from its last checkpoint (RUN/last.pt); samples are drawn
from (seed, step), so that they do not depend on where it stopped. A checkpoint holds its recipe and is
refused by any other. Nothing is chosen by the validation split: the weights are the moving average at the
last step.
"""

from __future__ import annotations

import argparse
import json
import time
import tomllib
from pathlib import Path
from typing import Any

import torch
from cost import attend_at_once, flops_per_pixel
from export import export
from losses import classification_loss, segmentation_loss
from sources import batches, source_of
from torch import Tensor

from axialcli.backends.model_file import read_model
from axialcli.engine.ahead import ahead
from axialcli.nn import build_network

SAVED_STEPS = 250
"""How many steps lie between two checkpoints."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of the model, with its recipe.toml")
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("--run", type=Path, default=None, help="checkpoints; default runs/NAME")
    parser.add_argument("--baseline", action="store_true", help="the recipe's convolutional network")
    parser.add_argument("--start", type=Path, help="model file whose weights to start from")
    parser.add_argument(
        "--seed", type=int, help="of the samples; default the recipe's, or with --start the next"
    )
    args = parser.parse_args()
    recipe = read_recipe(args.model, baseline=args.baseline)
    if args.start:
        recipe |= {"start": str(args.start.resolve()), "seed": recipe["seed"] + 1}
    if args.seed is not None:
        recipe["seed"] = args.seed
    run = args.run or Path("runs") / recipe["name"]
    run.mkdir(parents=True, exist_ok=True)
    print(f"{recipe['name']}: {flops_per_pixel(recipe):.0f} FLOP per pixel", flush=True)
    train(recipe, args.data, run, args.model.parent)
    folder = run if args.baseline else args.model
    export(recipe, torch.load(run / "weights.pt", weights_only=True), folder / "model.safetensors")


def read_recipe(model: Path, *, baseline: bool = False) -> dict[str, Any]:
    """The settings in a model's folder. baseline: with the convolutional network, from fresh weights."""
    recipe = tomllib.loads((model / "recipe.toml").read_text())
    convolutional = recipe.pop("baseline", None)
    recipe.pop("unseen", None)
    if baseline:
        if convolutional is None:
            raise SystemExit(f"{model}: the recipe has no baseline")
        recipe |= {"network": convolutional, "name": recipe["name"] + "-baseline"}
        recipe.pop("start", None)
    return recipe


def train(recipe: dict[str, Any], data: Path, run: Path, zoo: Path) -> None:
    """Trains to the last step; leaves run/last.pt and run/weights.pt (the moving average)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(recipe["seed"])
    parts = make_parts(recipe, device, zoo)
    network, average = parts["network"], parts["average"]
    step = resume(run / "last.pt", recipe, parts)
    mean, std = (torch.tensor(recipe["input"][key], device=device).view(3, 1, 1) for key in ("mean", "std"))
    started, running = time.perf_counter(), 0.0
    steps = sum(phase["steps"] for phase in recipe["phase"])
    freeze_from = steps - recipe["optimiser"].get("frozen_norm_steps", 0)
    with ahead(batches(recipe, source_of(recipe, data), step), depth=4) as ready:
        for image_BHWC, wanted in ready:
            network.train()
            if step >= freeze_from:
                freeze_batch_norms(network)
            image_BCHW = image_BHWC.to(device).permute(0, 3, 1, 2) / 255
            with torch.autocast(device, torch.bfloat16):
                logits = network((image_BCHW - mean) / std)
            loss = loss_of(recipe, logits.float(), wanted.to(device))
            parts["optimiser"].zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            parts["optimiser"].step()
            parts["schedule"].step()
            average.update_parameters(network)
            step += 1
            running += (loss.item() - running) * max(0.01, 1 / step)
            if step % 100 == 0 or step == steps:
                spent = time.perf_counter() - started
                print(f"step {step}/{steps} loss {running:.4f} {spent:.0f} s", flush=True)
            if step % SAVED_STEPS == 0 or step == steps:
                save(run / "last.pt", recipe, parts, step)
    torch.save(average.module.state_dict(), run / "weights.pt")


def make_parts(recipe: dict[str, Any], device: str, zoo: Path) -> dict[str, Any]:
    """What a checkpoint holds: network, moving average, optimiser, schedule."""
    settings = recipe["optimiser"]
    network = build_network(**recipe["network"])
    if "start" in recipe:
        start = zoo / recipe["start"]
        start_from(network, start / "model.safetensors" if start.is_dir() else start)
    attend_at_once(network.to(device, memory_format=torch.channels_last))
    average = torch.optim.swa_utils.AveragedModel(
        network,
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(settings["ema_decay"]),
        use_buffers=True,
    )
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=settings["learning_rate"], weight_decay=settings["weight_decay"]
    )
    steps = sum(phase["steps"] for phase in recipe["phase"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=settings["learning_rate"],
        total_steps=steps,
        pct_start=settings["warmup_steps"] / steps,
        final_div_factor=100,
    )
    return {"network": network, "average": average, "optimiser": optimiser, "schedule": schedule}


def start_from(network: torch.nn.Module, path: Path) -> None:
    """Takes from another model of the zoo all weights that fit; what differs, as the head, stays fresh."""
    weights = {name: tensor.float() for name, tensor in read_model(path)[1].items()}
    own = network.state_dict()
    fitting = {name: t for name, t in weights.items() if name in own and own[name].shape == t.shape}
    print(f"{len(fitting)} of {len(own)} tensors start from {path}", flush=True)
    network.load_state_dict(fitting, strict=False)


def loss_of(recipe: dict[str, Any], logits: Tensor, wanted: Tensor) -> Tensor:
    if recipe["task"] == "classification":
        return classification_loss(logits, wanted)
    # Nuclei have a background, whose Dice says nothing; land has none.
    first = 0 if recipe["data"] == "landcover" else 1
    return segmentation_loss(logits, wanted, first=first, each=recipe.get("dice_of_each_sample", False))


def resume(last: Path, recipe: dict[str, Any], parts: dict[str, Any]) -> int:
    """Loads the checkpoint `last` into `parts`; returns its step, 0 where there is none.

    Raises SystemExit where it was trained with another recipe: its weights are not this recipe's.
    """
    if not last.exists():
        return 0
    state = torch.load(last, weights_only=True, map_location="cpu")
    if state.get("recipe") != _text(recipe):
        raise SystemExit(f"{last}: trained with another recipe; delete it, or give another folder with --run")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])


def save(last: Path, recipe: dict[str, Any], parts: dict[str, Any], step: int) -> None:
    """Replaces the checkpoint `last` with the state of `parts` and the recipe that they follow."""
    state = {name: part.state_dict() for name, part in parts.items()}
    new = last.with_name("new.pt")
    torch.save({**state, "step": step, "recipe": _text(recipe)}, new)
    new.replace(last)


def _text(recipe: dict[str, Any]) -> str:
    """What a checkpoint must have been trained with: all of the recipe but what a model's file says of it."""
    return json.dumps({key: value for key, value in recipe.items() if key != "about"}, sort_keys=True)


def freeze_batch_norms(network: torch.nn.Module) -> None:
    """Lets the batch norms use what they have gathered: two large samples make poor statistics."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()


if __name__ == "__main__":
    main()
