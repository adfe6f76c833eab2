"""Writes the model file of a recipe, and counts what its network costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from axialcli.backends.model_file import write_model
from axialcli.backends.spec import FORMAT, ModelSpec
from axialcli.engine.stream import trace
from axialcli.geometry import Size
from axialcli.nn import build_network

COUNTED_PX = 1024


def export(recipe: dict[str, Any], weights: dict[str, Tensor], path: Path) -> None:
    """Writes the model file: the weights and what the recipe says about them."""
    config = dict(recipe["network"])
    said = {
        "format": FORMAT,
        "name": recipe["name"],
        "task": recipe["task"],
        "architecture": {"name": config.pop("architecture"), **config},
        "input": recipe["input"],
        "output": {"activation": "softmax", "stride": 1},
        "classes": recipe["classes"],
        "network_stride": 1,
        **recipe["about"],
    }
    if recipe["task"] == "segmentation":
        network = build_network(**recipe["network"]).eval()
        graph = trace(network, len(recipe["input"]["channels"]), Size(64, 64))
        said |= {"network_stride": graph.period, "receptive_field_px": graph.receptive_field_px()}
    write_model(path, ModelSpec.from_json(json.dumps(said), str(path)), weights)


def flops_per_pixel(recipe: dict[str, Any]) -> float:
    """Floating-point operations of one pixel: of a tile of the model's size, or of a large picture."""
    height, width = recipe["input"].get("size") or (COUNTED_PX, COUNTED_PX)
    network = build_network(**recipe["network"]).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, len(recipe["input"]["channels"]), height, width))
    return counter.get_total_flops() / (height * width)
