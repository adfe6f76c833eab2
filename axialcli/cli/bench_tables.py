"""The tables of `axial bench`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from axialcli.bench.compare import Change
from axialcli.bench.figures import Measurement, best_rate, exponent, rate, spread
from axialcli.bench.report import alone, bound, of_kind, one_of_kind, share_of_matmul
from axialcli.cli.console import as_text, printable

WIDTH = 132
"""Columns where nobody looks: what a file of results is read with."""

LAST = 3
"""Of the grids of attention, those at the large end, where overhead no longer counts."""


def report_text(report: dict[str, Any]) -> str:
    """All that a report says, as text: tables with a heading each."""
    parts = [_heading(report), _ceilings(report)]
    if of_kind(report, "end_to_end"):
        parts.append(_end_to_end(report))
    if of_kind(report, "engine"):
        parts.append(_engines(report))
    if of_kind(report, "attention"):
        parts += [_attention(report), _exponents(report)]
    if report["failures"]:
        rows = [(failure["name"], printable(failure["reason"])) for failure in report["failures"]]
        parts.append(_table("Not measured", ("what", "why"), rows))
    parts.append(f"{report['seconds']:.0f} s in all")
    return "\n\n".join(part for part in parts if part)


def changes_text(changes: Sequence[Change], differences: Sequence[str]) -> str:
    """What changed between two reports."""
    lines = [f"not the same: {printable(line)}" for line in differences]
    rows = [
        (
            printable(change.name),
            _seconds(change.before_s),
            _seconds(change.after_s),
            f"{change.ratio:.3f}",
            change.verdict,
        )
        for change in changes
    ]
    if not rows:
        return "\n".join([*lines, "the two files have no measurement in common"])
    table = _table("Seconds, medians", ("what", "before", "after", "ratio", "beyond the noise"), rows)
    return "\n".join([*lines, table])


def _heading(report: dict[str, Any]) -> str:
    machine, model = report["machine"] or {}, report["model"]
    processor, cores, memory = (machine.get(name) for name in ("processor", "cores", "memory_bytes"))
    gpu = machine.get("gpu")
    where = ", ".join(
        [
            *([printable(str(processor))] if processor else []),
            *([f"{cores} cores"] if cores else []),
            *([f"{memory / 2**30:.0f} GiB"] if memory else []),
            *([printable(gpu["name"])] if gpu else []),
            *(f"{name} {number}" for name, number in machine.get("versions", {}).items()),
        ]
    )
    if model is None:
        return where
    flops = report["flops_per_px"]
    counted = f", {flops / 1e3:.1f} kFLOP per pixel" if flops else ""
    what = f"model {printable(model['name'])} on {model['device']} in {model['dtype']}{counted}"
    return f"{where}\n{what}" if where else what


def _ceilings(report: dict[str, Any]) -> str:
    rows = []
    for ceiling in of_kind(report, "ceiling"):
        unit = "GFLOP/s" if ceiling.facts["unit"] == "flop" else "GB/s"
        figures = (f(ceiling.facts["amount"], ceiling) / 1e9 for f in (best_rate, rate))
        rows.append((ceiling.name, *(f"{figure:.1f} {unit}" for figure in figures), _repeats(ceiling)))
    if decode := one_of_kind(report, "decode"):
        figures = (f(decode.facts["px"], decode) / 1e6 for f in (best_rate, rate))
        name = f"decoding, {decode.facts['threads']} threads"
        rows.append((name, *(f"{figure:.0f} Mpx/s" for figure in figures), _repeats(decode)))
    return _table("Ceilings of this device", ("what", "best", "median", "repeats"), rows)


def _engines(report: dict[str, Any]) -> str:
    headings = (
        "engine and backend",
        "pixels",
        "Mpx/s",
        "spread",
        "picture s",
        "tile s",
        "memory MB",
        "GPU MB",
        "of matmul",
        "compile s",
        "repeats",
    )
    rows = [
        (
            engine.name.rpartition(" ")[0],
            f"{engine.facts['px'] ** 0.5:.0f}²",
            f"{rate(engine.facts['px'], engine) / 1e6:.2f}",
            f"{100 * spread(engine.seconds):.0f} %",
            _seconds(engine.median_s),
            _median(engine.facts.get("tile_s")),
            f"{engine.facts['peak_resident_bytes'] / 1e6:.0f}",
            _number(engine.facts["gpu_bytes"], 1e-6),
            _number(share_of_matmul(report, engine), 100, " %"),
            _number(engine.facts.get("compile_s")),
            str(len(engine.seconds)),
        )
        for engine in sorted(of_kind(report, "engine"), key=lambda row: row.facts["px"])
    ]
    return _table("Engines, from the slide's file to finished blocks", headings, rows)


def _end_to_end(report: dict[str, Any]) -> str:
    measured = of_kind(report, "end_to_end")[0]
    runs = measured.facts["runs"]
    start = {name: _median([run["start_up"][name] for run in runs]) for name in runs[0]["start_up"]}
    memory = max(run["peak_resident_bytes"] for run in runs) / 1e6
    speed = f"{rate(measured.facts['px'], measured) / 1e6:.2f} Mpx/s"
    lines = [
        f"{measured.name}: {_seconds(measured.median_s)} s ({speed}, "
        f"spread {100 * spread(measured.seconds):.0f} %, {_repeats(measured)}), {memory:.0f} MB; "
        f"before it {start['imports']} s of imports and {start['model']} s of loading the model, "
        f"after it {_median([run['end'] for run in runs])} s to end the process"
    ]
    stages: dict[str, list[float]] = {}
    for run in runs:
        for name, seconds in run["stages"].items():
            stages.setdefault(name, []).append(seconds)
    for run in runs:
        for name, seconds in run["thread_seconds"].items():
            stages.setdefault(f"  {name}, summed over threads", []).append(seconds)
    by_itself = alone(report)
    rows = [(name, _median(seconds), "") for name, seconds in stages.items()]
    rows += [(f"{name} alone", "", _seconds(seconds)) for name, seconds in by_itself.items()]
    lines.append(_table("Stages, which overlap", ("stage", "busy s", "alone s"), rows))
    if found := bound(report):
        lines.append(f"bound by the {found[0]}: the whole takes {found[1]:.2f} times as long as that alone")
    return "\n".join(lines)


def _attention(report: dict[str, Any]) -> str:
    rows = [
        (
            measured.name.rpartition(" ")[0],
            f"{measured.facts['tokens'] ** 0.5:.0f}²",
            _seconds(measured.median_s),
            f"{100 * spread(measured.seconds):.0f} %",
            f"{measured.facts['extra_bytes'] / 1e6:.0f}",
            str(len(measured.seconds)),
        )
        for measured in of_kind(report, "attention")
    ]
    return _table("Attention", ("kind", "tokens", "s", "spread", "extra MB", "repeats"), sorted_by_kind(rows))


def sorted_by_kind(rows: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Rows of one kind together, each in its order."""
    return sorted(rows, key=lambda row: row[0])


def _exponents(report: dict[str, Any]) -> str:
    kinds: dict[str, list[Measurement]] = {}
    for measured in of_kind(report, "attention"):
        kinds.setdefault(measured.name.rpartition(" ")[0], []).append(measured)
    rows = []
    for kind, line in sorted(kinds.items()):
        fits = (
            exponent([one.facts["tokens"] for one in part], [one.median_s for one in part])
            for part in (line, line[-LAST:])
        )
        rows.append((kind, *(_number(fit, 1, digits=2) for fit in fits)))
    return _table(
        "Seconds = a x tokens ^ b, least squares of logarithms", ("kind", "b", f"b, largest {LAST}"), rows
    )


def _table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index > 0 and heading != "why" else "left")
    for row in rows:
        table.add_row(*row)
    return f"{title}\n{as_text(table, WIDTH)}"


def _seconds(value: float) -> str:
    return f"{value:.4f}" if value < 0.1 else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _median(values: list[float] | None) -> str:
    return "" if not values else _seconds(statistics.median(values))


def _number(value: float | None, scale: float = 1.0, unit: str = "", digits: int = 0) -> str:
    return "" if value is None else f"{value * scale:.{digits}f}{unit}"


def _repeats(measured: Measurement) -> str:
    count = len(measured.seconds)
    return f"{count} repeat{'s' * (count > 1)}"
