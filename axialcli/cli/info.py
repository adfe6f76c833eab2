"""`axial info`: what a picture is, and which image in it was chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from axialcli.cli.console import as_text, printable, say
from axialcli.image import describe, open_slide


def info(
    file: Annotated[Path, typer.Argument(help="The picture.", readable=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a picture is: format, levels, resolution, and which image was chosen and why."""
    with open_slide(file) as slide:
        found = describe(slide)
    if as_json:
        say(json.dumps(found, indent=1))
    else:
        say(as_text(_table(found)))


def _table(found: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for key, value in found.items():
        if isinstance(value, list) and any(isinstance(entry, dict | str) for entry in value):
            for index, entry in enumerate(value):
                table.add_row(key if index == 0 else "", _text(entry))
        elif value is not None:
            table.add_row(key, _text(value))
    return table


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(entry)}" for key, entry in value.items() if entry is not None)
    if isinstance(value, list | tuple):
        return " x ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else printable(str(value))
