"""`axial models`: which models there are, and what a model file says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from axialcli.cli.console import MOST_CLASSES, as_text, printable, say
from axialcli.cli.model_options import (
    MODEL_HELP,
    ActivationOption,
    ClassesOption,
    InputChannelsOption,
    InputRangeOption,
    InputSizeOption,
    LayoutInOption,
    ModelMppOption,
    OutputStrideOption,
    PositionsOption,
    TaskOption,
    ThresholdOption,
    model_hints,
)
from axialcli.config import first_names

if TYPE_CHECKING:
    from axialcli.backends import Model

models = typer.Typer(
    name="models", help="The models that axial ships, and model files.", no_args_is_help=True
)


@models.command("list")
def list_models() -> None:
    """List the models that axial ships."""
    from axialcli.backends.model_file import read_spec
    from axialcli.backends.zoo import DEFAULT_MODEL, find_model, model_names

    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("name", "task", "classes", "mpp", "licence"):
        table.add_column(heading)
    for name in model_names():
        spec = read_spec(find_model(name))
        table.add_row(
            name + (" (default)" if name == DEFAULT_MODEL else ""),
            spec.task,
            printable(first_names([entry.name for entry in spec.classes])),
            "any" if spec.input.mpp is None else f"{spec.input.mpp:g}",
            printable(spec.licence),
        )
    say(as_text(table))


@models.command()
def show(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the model's description alone.")] = False,
    input_range: InputRangeOption = None,
    input_size: InputSizeOption = None,
    input_channels: InputChannelsOption = None,
    layout_in: LayoutInOption = None,
    classes: ClassesOption = None,
    activation: ActivationOption = None,
    task: TaskOption = None,
    model_mpp: ModelMppOption = None,
    output_stride: OutputStrideOption = None,
    threshold: ThresholdOption = None,
    positions: PositionsOption = None,
) -> None:
    """Show what a model file says about its model, or what was found out about it.

    Code in a model file is not run. The JSON of --json, saved as MODEL.onnx.json beside a MODEL.onnx that
    does not describe itself, stands for the options.
    """
    hints = model_hints(
        input_range=input_range,
        input_size=input_size,
        input_channels=input_channels,
        layout_in=layout_in,
        classes=classes,
        activation=activation,
        task=task,
        model_mpp=model_mpp,
        output_stride=output_stride,
        threshold=threshold,
        positions=positions,
    )
    from axialcli.backends import load_model
    from axialcli.backends.model_file import carries_code, count_parameters, file_hash, read_spec
    from axialcli.backends.zoo import find_model, model_files

    path = find_model(model)
    if as_json:
        say(read_spec(path, hints).to_json())
        return
    # All is found out before the first line is printed: a file that is refused has no description.
    loaded = None if carries_code(path) else load_model(path, device="cpu", hints=hints)
    spec = loaded.spec if loaded else read_spec(path, hints)
    parameters = count_parameters(path)
    facts = {
        "file": printable(str(path)),
        "sha256": file_hash(path),
        "size": f"{sum(file.stat().st_size for file in model_files(path) if file.exists()) / 1e6:.2f} MB",
        "parameters": "not known" if parameters is None else f"{parameters / 1e6:.3f} million",
        "stream": _stream(loaded),
    }
    for key, value in facts.items():
        say(f"{key:<11} {value}")
    for key, value in json.loads(spec.to_json()).items():
        many = key == "classes" and len(value) > MOST_CLASSES
        say(f"{key:<19} {_first_of(value) if many else json.dumps(value)}")


def _first_of(classes: list[dict[str, str]]) -> str:
    """How many classes there are, and what the first are called."""
    names = [entry["name"] for entry in classes]
    return f"{len(names)}: {printable(first_names(names))} (--json lists them)"


def _stream(model: Model | None) -> str:
    """Whether the model can be streamed, and the memory that it takes. None: it carries code."""
    from axialcli.engine.stream import NotStreamable, not_dense, stream_facts

    if model is None:
        return "no, code of its own (run with --trust-model) does not show its operators"
    if model.spec.input.takes_volumes:
        return "no, it takes volumes, which run in overlapping blocks"
    if model.network is None:
        return f"no, backend '{model.backend}' does not show its operators"
    if said := not_dense(model.spec):
        return f"no, {said}"
    try:
        facts = stream_facts(model.network, len(model.spec.input.channels))
    except NotStreamable as refused:
        return f"no, {refused}"
    field = facts.receptive_field_px
    return (
        f"yes, {facts.state_bytes_per_px / 1e3:.1f} kB of state per pixel of width (float32, steps of "
        f"{facts.rows_px} rows), receptive field "
        + ("the whole picture" if field is None else f"{field} pixels to each side")
    )
