"""Trains a model of the zoo: python models/train.py models/nuclei DATA

DATA holds the folders dsb2018 and tnbc, each with index.csv, images/ and labels/. Settings are read
from the model's recipe.toml. A run that was stopped goes on from its last checkpoint (RUN/last.pt);
samples are drawn from (seed, step), so that the result does not depend on where it stopped. A
checkpoint holds its recipe and is refused by any other. Nothing is chosen by the validation split:
the weights are the moving average at the last step.
"""

from __future__ import annotations

import argparse
import json
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pictures import Augmentation, Picture, draw_sample, read_pictures
from torch import Tensor

from axialcli.backends.model_file import write_model
from axialcli.backends.spec import FORMAT, ModelSpec
from axialcli.engine.ahead import ahead
from axialcli.engine.stream import trace
from axialcli.geometry import Size
from axialcli.nn import build_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of the model, with its recipe.toml")
    parser.add_argument("data", type=Path, help="folder with dsb2018/ and tnbc/")
    parser.add_argument("--run", type=Path, default=None, help="checkpoints; default runs/NAME")
    args = parser.parse_args()
    recipe = tomllib.loads((args.model / "recipe.toml").read_text())
    run = args.run or Path("runs") / recipe["name"]
    run.mkdir(parents=True, exist_ok=True)
    train(recipe, args.data, run)
    export(recipe, torch.load(run / "weights.pt", weights_only=True), args.model / "model.safetensors")


def train(recipe: dict[str, Any], data: Path, run: Path) -> None:
    """Trains to the last step; leaves run/last.pt and run/weights.pt (the moving average)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(recipe["seed"])
    network = build_network(**recipe["network"]).to(device, memory_format=torch.channels_last)
    average = torch.optim.swa_utils.AveragedModel(
        network,
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe["optimiser"]["ema_decay"]),
        use_buffers=True,
    )
    settings = recipe["optimiser"]
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
    parts = {"network": network, "average": average, "optimiser": optimiser, "schedule": schedule}
    step = resume(run / "last.pt", recipe, parts)

    mean, std = (torch.tensor(recipe["input"][key], device=device).view(3, 1, 1) for key in ("mean", "std"))
    started, running = time.perf_counter(), 0.0
    freeze_from = steps - settings["frozen_norm_steps"]
    with ahead(batches(recipe, read_pictures(data, "train"), step), depth=4) as ready:
        for image_BHWC, label_BHW in ready:
            network.train()
            if step >= freeze_from:
                freeze_batch_norms(network)
            image_BCHW = image_BHWC.to(device).permute(0, 3, 1, 2) / 255
            with torch.autocast(device, torch.bfloat16):
                logits_BKHW = network((image_BCHW - mean) / std)
            loss = segmentation_loss(logits_BKHW.float(), label_BHW.to(device).long())
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            average.update_parameters(network)
            step += 1
            running += (loss.item() - running) * max(0.01, 1 / step)
            if step % 100 == 0 or step == steps:
                print(
                    f"step {step}/{steps} loss {running:.4f} {time.perf_counter() - started:.0f} s",
                    flush=True,
                )
            if step % 250 == 0 or step == steps:
                save(run / "last.pt", recipe, parts, step)
    torch.save(average.module.state_dict(), run / "weights.pt")


def resume(last: Path, recipe: dict[str, Any], parts: dict[str, Any]) -> int:
    """Loads the checkpoint `last` into `parts`; returns its step, 0 where there is none.

    Raises SystemExit where it was trained with another recipe: its weights are not this recipe's.
    """
    if not last.exists():
        return 0
    state = torch.load(last, weights_only=True)
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
    return json.dumps(recipe, sort_keys=True)


def export(recipe: dict[str, Any], weights: dict[str, Tensor], path: Path) -> None:
    """Writes the model file: the weights and what the recipe says about them."""
    config = dict(recipe["network"])
    graph = trace(build_network(**config).eval(), len(recipe["input"]["channels"]), Size(64, 64))
    said = {
        "format": FORMAT,
        "name": recipe["name"],
        "task": "segmentation",
        "architecture": {"name": config.pop("architecture"), **config},
        "input": recipe["input"],
        "output": {"activation": "softmax", "stride": 1},
        "classes": recipe["classes"],
        "network_stride": graph.period,
        "receptive_field_px": graph.receptive_field_px(),
        **recipe["about"],
    }
    write_model(path, ModelSpec.from_json(json.dumps(said), str(path)), weights)


def freeze_batch_norms(network: torch.nn.Module) -> None:
    """Lets the batch norms use what they have gathered: two large samples make poor statistics."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()


def segmentation_loss(logits_BKHW: Tensor, label_BHW: Tensor) -> Tensor:
    """Cross-entropy plus one minus the soft Dice of the foreground classes, over the batch."""
    probs_BKHW = logits_BKHW.softmax(1)
    target_BKHW = F.one_hot(label_BHW, logits_BKHW.shape[1]).permute(0, 3, 1, 2)
    overlap_K = (probs_BKHW * target_BKHW).sum((0, 2, 3))
    total_K = (probs_BKHW + target_BKHW).sum((0, 2, 3))
    dice_K = (2 * overlap_K + 1) / (total_K + 1)
    return F.cross_entropy(logits_BKHW, label_BHW) + 1 - dice_K[1:].mean()


def batches(recipe: dict[str, Any], pictures: list[Picture], first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (image_BHWC uint8, label_BHW uint8) from step `first` on; each depends on its step alone."""
    modalities = list(recipe["sampling"])
    share = np.array([recipe["sampling"][name] for name in modalities])
    pools = [[p for p in pictures if p.modality == name] for name in modalities]
    settings = dict(recipe["augmentation"])
    augmentation = Augmentation(scale=tuple(settings.pop("scale")), **settings)
    step = 0
    for phase in recipe["phase"]:
        for _ in range(phase["steps"]):
            if step >= first:
                rng = np.random.default_rng((recipe["seed"], step))
                chosen = rng.choice(len(pools), size=phase["batch"], p=share / share.sum())
                samples = [draw_sample(pools[pool], phase["crop"], augmentation, rng) for pool in chosen]
                images, labels = zip(*samples, strict=True)
                yield torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels))
            step += 1


if __name__ == "__main__":
    main()
