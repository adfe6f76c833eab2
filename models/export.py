"""Writes the model file of a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from axialcli.backends.model_file import write_model
from axialcli.backends.spec import FORMAT, ModelSpec
from axialcli.engine.stream import NotStreamable, trace
from axialcli.geometry import Size
from axialcli.nn import build_network


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
        try:
            graph = trace(network, len(recipe["input"]["channels"]), Size(64, 64))
            said |= {"network_stride": graph.period, "receptive_field_px": graph.receptive_field_px()}
        except NotStreamable:
            # It looks at the whole picture, as separable attention does.
            said["network_stride"] = network.network_stride
    write_model(path, ModelSpec.from_json(json.dumps(said), str(path)), weights)
