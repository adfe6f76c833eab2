"""`axial models`: which models there are, and what a model file says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from axialcli.cli.console import as_text, printable, say

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
            printable(", ".join(entry.name for entry in spec.classes)),
            "any" if spec.input.mpp is None else f"{spec.input.mpp:g}",
            printable(spec.licence),
        )
    say(as_text(table))


@models.command()
def show(
    model: Annotated[str, typer.Argument(help="A name from 'axial models list', or a model file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the model's description alone.")] = False,
) -> None:
    """Show what a model file says about its model."""
    from axialcli.backends.model_file import count_parameters, file_hash, read_spec
    from axialcli.backends.zoo import find_model

    path = find_model(model)
    spec = read_spec(path)
    if as_json:
        say(spec.to_json())
        return
    # All is found out before the first line is printed: a file that is refused has no description.
    facts = {
        "file": printable(str(path)),
        "sha256": file_hash(path),
        "size": f"{path.stat().st_size / 1e6:.2f} MB",
        "parameters": f"{count_parameters(path) / 1e6:.3f} million",
        "stream": _stream(path),
    }
    for key, value in facts.items():
        say(f"{key:<11} {value}")
    for key, value in json.loads(spec.to_json()).items():
        say(f"{key:<19} {json.dumps(value)}")


def _stream(path: Path) -> str:
    """Whether the model can be streamed, and the memory that it takes."""
    from axialcli.backends import load_model
    from axialcli.engine.stream import NotStreamable, stream_facts

    model = load_model(path, device="cpu")
    if model.network is None:
        return f"no, backend '{model.backend}' does not show its operators"
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
