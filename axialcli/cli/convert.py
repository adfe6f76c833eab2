"""`axial convert`: a checkpoint of public code as a model file that knows all about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from axialcli.cli.console import printable, say, show_messages
from axialcli.cli.model_options import (
    ClassesOption,
    InputRangeOption,
    ModelMppOption,
    PositionsOption,
    ThresholdOption,
    model_hints,
)
from axialcli.config import ExportDtype, check_choice
from axialcli.errors import ModelError, UsageError


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="The checkpoint: .pth, .pt, or .safetensors.")],
    out: Annotated[Path, typer.Argument(help="The model file to write, .safetensors.")],
    classes: ClassesOption = None,
    model_mpp: ModelMppOption = None,
    input_range: InputRangeOption = None,
    threshold: ThresholdOption = None,
    positions: PositionsOption = None,
    dtype: Annotated[
        str, typer.Option(help="float32, or float16 for half the size: how the weights are stored.")
    ] = "float32",
    force: Annotated[bool, typer.Option("--force", help="Overwrite.")] = False,
) -> None:
    """Write a checkpoint of a network that axial knows as a model file.

    The family is told by the checkpoint's keys and shapes. What the file cannot know, such as the names of
    the classes, is said with the options.
    """
    check_choice("--dtype", dtype, ExportDtype)
    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: a model file ends in .safetensors")
    hints = model_hints(
        classes=classes,
        model_mpp=model_mpp,
        input_range=input_range,
        threshold=threshold,
        positions=positions,
    )
    show_messages()
    import torch

    from axialcli.backends.model_file import carries_code, model_bytes, read_model
    from axialcli.backends.torch_model import TorchModel
    from axialcli.output import check_file, publish_bytes

    if checkpoint.suffix == ".onnx" or carries_code(checkpoint):
        raise ModelError(
            f"{checkpoint}: carries a network of its own, not the weights of one that axial knows"
        )
    check_file(out, inputs=[checkpoint], may_exist=force)
    spec, weights = read_model(checkpoint, hints)
    # Built and tried once: what does not fit is not written.
    TorchModel(
        spec=spec,
        weights=weights,
        device=torch.device("cpu"),
        dtype=torch.float32,
        sha256="",
        where=str(checkpoint),
    )
    data = model_bytes(spec, weights, getattr(torch, dtype))
    publish_bytes(data, out)
    say(f"{printable(str(out))}: {len(data) / 1e6:.2f} MB, {spec.architecture}")
