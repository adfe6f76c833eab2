"""The command `axial`: its commands, and the one place where an exception becomes text and an exit code."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from axialcli import __version__
from axialcli.cli.bench import bench
from axialcli.cli.console import printable
from axialcli.cli.convert import convert
from axialcli.cli.evaluate import evaluate
from axialcli.cli.export_onnx import export_onnx
from axialcli.cli.info import info
from axialcli.cli.models import models
from axialcli.cli.predict import predict
from axialcli.cli.sample import sample
from axialcli.cli.start import Stopped
from axialcli.errors import AxialError

MAX_LINE = 200

app = typer.Typer(
    name="axial",
    help="Vision networks over pictures too large for any memory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(predict)
app.command()(evaluate)
app.command()(bench)
app.command()(convert)
app.command("export-onnx")(export_onnx)
app.command()(info)
app.add_typer(models)
app.command()(sample)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"axial {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


def run(arguments: list[str]) -> int:
    """Runs one command; returns its exit code. Errors are one line on stderr."""
    try:
        code = app(arguments, prog_name="axial", standalone_mode=False)
        return int(code or 0)
    except AxialError as error:
        return _fail(str(error), error.exit_code, arguments)
    except typer.TyperException as error:
        if not error.format_message():
            # No arguments at all: the help has been printed and is all there is to say.
            return error.exit_code
        return _fail(error.format_message(), error.exit_code, arguments)
    except Stopped as stop:
        return _fail(stop.text, stop.exit_code, arguments)
    except MemoryError:
        return _fail("out of memory: use a smaller --batch, --tile or --max-ram", 6, arguments)
    except Exception as error:  # noqa: BLE001 - the outermost edge: a bug becomes one line and code 1
        return _fail(f"a bug in axial ({error!r}); --debug before the command shows where", 1, arguments)


def _fail(message: str, code: int, arguments: list[str]) -> int:
    if "--debug" in arguments:
        traceback.print_exc()
    line = "axial: error: " + printable(message)
    if len(line) > MAX_LINE:
        line = line[: MAX_LINE - 2] + " …"
    print(line, file=sys.stderr)
    return code
