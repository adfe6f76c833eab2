"""Trainings of equal cost: so many steps as fit into a time of the processor."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from export import export
from train import train

FEW, MANY = 4, 20
"""Steps of the two trials whose difference tells what a step costs."""


def train_for(recipe: dict[str, Any], minutes: float, data: Path, run: Path, zoo: Path) -> dict[str, Any]:
    """Trains a recipe's first phase alone for about so many minutes of the processor, all threads added up.

    Leaves run/model.safetensors; says how many steps it took and what they really cost. A run that has its
    model already is not repeated.
    """
    if (run / "model.safetensors").exists():
        return {}
    step_s = cost_of_a_step(recipe, data, zoo)
    steps = max(MANY, round(60 * minutes / step_s))
    shortened = with_steps(recipe, steps)
    run.mkdir(parents=True, exist_ok=True)
    (run / "last.pt").unlink(missing_ok=True)
    started = time.process_time()
    train(shortened, data, run, zoo)
    minutes = (time.process_time() - started) / 60
    export(shortened, torch.load(run / "weights.pt", weights_only=True), run / "model.safetensors")
    return {"steps": steps, "minutes": round(minutes, 2)}


def cost_of_a_step(recipe: dict[str, Any], data: Path, zoo: Path) -> float:
    """Seconds of the processor that one step takes, its samples included."""
    spent = []
    for steps in (FEW, MANY):
        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            train(with_steps(recipe, steps), data, Path(folder), zoo)
            spent.append(time.process_time() - started)
    return (spent[1] - spent[0]) / (MANY - FEW)


def with_steps(recipe: dict[str, Any], steps: int) -> dict[str, Any]:
    """The recipe with so many steps of its first phase, the first tenth of them to warm up.

    The weights are those of the last step: so few steps would leave a moving average far behind.
    """
    optimiser = recipe["optimiser"] | {
        "warmup_steps": max(2, steps // 10),
        "frozen_norm_steps": 0,
        "ema_decay": 0.0,
    }
    return recipe | {"phase": [recipe["phase"][0] | {"steps": steps}], "optimiser": optimiser}
