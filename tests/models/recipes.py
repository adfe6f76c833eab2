"""A recipe as small as it goes."""

from __future__ import annotations

import tomllib
from typing import Any

RECIPE = """
name = "small"
task = "segmentation"
data = "{data}"
seed = 3
[network]
architecture = "axial_segmenter"
classes = {classes}
width = [4, 4, 4]
depth = 1
heads = 1
span = 5
[input]
channels = ["red", "green", "blue"]
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
[sampling]
fluo = 0.5
tnbc = 0.5
[augmentation]
scale = [0.8, 1.2]
blank = 0.1
mosaic = 0.3
stain = 0.5
invert = 0.1
grey = 0.1
blur = 0.2
jpeg = 0.2
[[phase]]
steps = 4
crop = 32
batch = 2
[[phase]]
steps = 2
crop = 48
batch = 1
[optimiser]
learning_rate = 1e-2
weight_decay = 0.05
warmup_steps = 2
ema_decay = 0.5
frozen_norm_steps = 2
[about]
licence = "Apache-2.0"
training_data = ["none"]
"""


def small_recipe(data: str = "nuclei", classes: int = 2) -> dict[str, Any]:
    recipe = tomllib.loads(RECIPE.format(data=data, classes=classes))
    recipe["classes"] = [{"name": f"class {i}", "colour": "#000000"} for i in range(classes)]
    return recipe
