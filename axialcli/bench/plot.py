"""A report as a picture: throughput by resolution, or the time of attention by tokens."""

from __future__ import annotations

import importlib.util
import io
from typing import Any

from axialcli.bench.figures import Measurement, quartiles
from axialcli.bench.report import of_kind
from axialcli.errors import UsageError

INSTALL = "pip install 'axialcli[plot]'"


def check_plotting() -> None:
    """Raises UsageError where the library that draws is not there."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(f"--plot needs matplotlib: {INSTALL}")


def draw(report: dict[str, Any]) -> bytes:
    """A PNG of the report. Raises UsageError where matplotlib is missing or nothing was measured."""
    check_plotting()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    rows = of_kind(report, "attention")
    if rows:
        _attention(axes, rows)
    elif rows := of_kind(report, "engine"):
        _throughput(axes, rows)
    else:
        raise UsageError("--plot: no engine was measured in the time; give more --seconds")
    axes.grid(alpha=0.3)
    axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()


def _lines(rows: list[Measurement]) -> dict[str, list[Measurement]]:
    """The rows by what they measure, which is the name without its last word, the size."""
    lines: dict[str, list[Measurement]] = {}
    for row in rows:
        lines.setdefault(row.name.rpartition(" ")[0], []).append(row)
    return lines


def _attention(axes: Any, rows: list[Measurement]) -> None:
    for name, line in _lines(rows).items():
        tokens = [row.facts["tokens"] for row in line]
        axes.plot(tokens, [row.median_s for row in line], marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="seconds")


def _throughput(axes: Any, rows: list[Measurement]) -> None:
    for name, line in _lines(rows).items():
        sides = [row.facts["px"] ** 0.5 for row in line]
        rates = [row.facts["px"] / row.median_s / 1e6 for row in line]
        ends = [[row.facts["px"] / s / 1e6 for s in quartiles(row.seconds)] for row in line]
        below = [rate - low for rate, (_, low) in zip(rates, ends, strict=True)]
        above = [high - rate for rate, (high, _) in zip(rates, ends, strict=True)]
        axes.errorbar(sides, rates, yerr=[below, above], marker="o", capsize=3, label=name)
    axes.set(xlabel="side of the picture (pixels)", ylabel="Mpx/s (median, quartiles)", ylim=(0, None))
