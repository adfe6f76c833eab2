"""What measurements need before they begin: synthetic slides, and the model as an .onnx file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from axialcli.backends import load_model
from axialcli.backends.export import export
from axialcli.backends.torch_model import TorchModel
from axialcli.bench.flops import flops_per_px
from axialcli.bench.jobs import Send
from axialcli.errors import ModelError
from axialcli.geometry import Size
from axialcli.image.sample import write_sample

MPP = 0.25
"""Microns per pixel of the slides, where the model says nothing."""


def measure_slides(given: dict[str, Any], seconds: float, send: Send) -> None:
    """Loads the model once and writes a slide of each size, at the model's own resolution.

    given: model, device, dtype; folder; sides. Sends the model's description and the operations of its
    network per pixel. Raises what loading raises.
    """
    model = load_model(given["model"], device=given["device"], dtype=given["dtype"])
    channels = len(model.spec.input.channels)
    flops = None if model.network is None else flops_per_px(model.network, channels)
    send({"facts": {"model": model.describe(), "flops_per_px": flops}})
    mpp = model.spec.input.mpp or MPP
    for side in given["sides"]:
        write_sample(Path(given["folder"]) / f"{side}.tif", Size(side, side), mpp=mpp)


def measure_export(given: dict[str, Any], seconds: float, send: Send) -> None:
    """Writes the model as `path`, as `axial export-onnx` does. Raises ModelError where it cannot be."""
    model = load_model(given["model"], device="cpu", dtype="float32")
    if not isinstance(model, TorchModel):
        raise ModelError(f"{given['model']}: only networks of axial's own are exported")
    Path(given["path"]).write_bytes(export(model).data)
