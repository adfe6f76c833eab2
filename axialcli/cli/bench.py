"""`axial bench`: throughput, memory and stages beside their ceilings, and what changed."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from axialcli.cli.bench_tables import changes_text, report_text
from axialcli.cli.console import say
from axialcli.cli.progress import progress_bar
from axialcli.errors import UsageError

COMMAND = ("axialcli.cli.app",)
"""What `axial predict` loads before anything else; its start-up is measured with it."""

OF_A_MODEL = ("model", "resolutions", "engines", "backends", "dtype")
"""Settings that --attention does not look at."""


def bench(
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="A name from 'axial models list', or a model file that says all."),
    ] = "nuclei",
    resolution: Annotated[
        str, typer.Option(help="Sides of the pictures in pixels, such as 4096 or 1024,2048.")
    ] = "1024,2048,4096",
    engine: Annotated[str, typer.Option(help="stream, tiles, or both.")] = "stream,tiles",
    backend: Annotated[
        str,
        typer.Option(
            help="torch, compiled (by torch.compile), onnx (exported first), or several; a stream has torch."
        ),
    ] = "torch,compiled,onnx",
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    seconds: Annotated[float, typer.Option(help="Time for all measurements together.")] = 240.0,
    attention: Annotated[
        bool, typer.Option("--attention", help="Measure kinds of attention at growing grids instead.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write every repeat to a file, for --compare.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw a PNG; needs matplotlib.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Measure nothing; say what changed between two files of --json.", metavar="A B"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
) -> None:
    """Measure a model on this machine: each engine and backend, end to end by stage, and the ceilings.

    Every measurement runs in a process of its own, on synthetic slides in a temporary folder.
    """
    from axialcli.bench.settings import BenchSettings

    settings = BenchSettings(
        model=model,
        resolutions=_numbers("--resolution", resolution),
        engines=_words(engine),  # type: ignore[arg-type] # checked by BenchSettings, as the next ones
        backends=_words(backend),  # type: ignore[arg-type]
        device=device,  # type: ignore[arg-type]
        dtype=dtype,  # type: ignore[arg-type]
        seconds=seconds,
        attention=attention,
    )
    if compare is not None:
        if json_file is not None or plot is not None:
            raise UsageError("--compare measures nothing: leave out --json and --plot")
        say(_compared(*compare))
        return
    _check(settings, json_file, plot, force)
    report = _measured(settings)
    # Files first: a figure that took minutes is not lost with a terminal.
    if json_file is not None:
        from axialcli.output import publish_bytes

        publish_bytes(json.dumps(report, indent=1).encode(), json_file)
    say(report_text(report))
    if plot is not None:
        from axialcli.bench.plot import draw
        from axialcli.output import publish_bytes

        publish_bytes(draw(report), plot)


def _check(settings: Any, json_file: Path | None, plot: Path | None, force: bool) -> None:
    """Refuses what could not be kept, before minutes are spent on it."""
    from axialcli.bench.plot import check_plotting
    from axialcli.output import check_file

    if plot is not None and plot.suffix.lower() != ".png":
        raise UsageError(f"{plot}: --plot draws a PNG; give a name that ends in .png")
    for path in (json_file, plot):
        if path is not None:
            check_file(path, inputs=[Path(settings.model)], may_exist=force)
    if plot is not None:
        check_plotting()
        if json_file is not None and plot.resolve() == json_file.resolve():
            raise UsageError("--json and --plot name the same file")
    if not settings.attention:
        return
    defaults = {field.name: field.default for field in fields(settings)}
    idle = [name for name in OF_A_MODEL if getattr(settings, name) != defaults[name]]
    if idle:
        options = ", ".join("--" + name.removesuffix("s") for name in idle)
        typer.echo(f"axial: warning: {options}: no effect with --attention", err=True)


def _measured(settings: Any) -> dict[str, Any]:
    from axialcli.bench.run import Bench

    with progress_bar("measuring") as bar:
        return Bench(
            settings, command=COMMAND, say=lambda text, share: bar.update(share, label=text)
        ).report()


def _compared(before: Path, after: Path) -> str:
    from axialcli.bench.compare import compare, differences
    from axialcli.bench.report import read_report

    old, new = read_report(before), read_report(after)
    return changes_text(compare(old, new), list(differences(old, new)))


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"{option} is '{text}': write numbers such as 1024,2048") from None
