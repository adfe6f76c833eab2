"""The report of a bench: read, checked, and the figures that follow from it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from axialcli.bench.figures import Measurement, best_rate
from axialcli.errors import UsageError

FORMAT = 1


def read_report(path: Path) -> dict[str, Any]:
    """A report that `axial bench --json` wrote. Raises UsageError where it is missing, or something else."""
    try:
        text = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{path}: cannot be read ({reason}); give a file that --json wrote") from error
    try:
        report = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no JSON; give a file that axial bench --json wrote") from error
    if not isinstance(report, dict) or "axial_bench" not in report:
        raise UsageError(f"{path}: is no report of axial bench; give a file that its --json wrote")
    if report["axial_bench"] != FORMAT:
        raise UsageError(f"{path}: another version of axial wrote it (format {report['axial_bench']!r:.20})")
    try:
        measurements(report)
        _check_circumstances(report)
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: is damaged; measure again with --json") from error
    return report


def measurements(report: dict[str, Any]) -> list[Measurement]:
    """What was measured. Raises KeyError, TypeError, ValueError or OverflowError of a damaged report."""
    return [_measurement(entry) for entry in report["measurements"]]


def _measurement(entry: dict[str, Any]) -> Measurement:
    if any(isinstance(each, (str, bool)) for each in entry["seconds"]):
        raise TypeError("no numbers")
    seconds = tuple(float(each) for each in entry["seconds"])
    if not seconds or not all(math.isfinite(each) and each > 0 for each in seconds):
        raise ValueError("no seconds")
    return Measurement(
        name=str(entry["name"]), kind=str(entry["kind"]), seconds=seconds, facts=dict(entry["facts"])
    )


def _check_circumstances(report: dict[str, Any]) -> None:
    """Raises TypeError where what is said of machine, model and settings has another form."""
    machine, model, settings = (_part(report, name, dict) for name in ("machine", "model", "settings"))
    _part(machine, "versions", dict)
    _part(model, "sha256", str)
    for name in ("resolutions", "engines"):
        _part(settings, name, (list, tuple))


def _part(whole: dict[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    """A part of a report, {} where it is missing or null. Raises TypeError where it is something else."""
    part = whole.get(name)
    if part is not None and not isinstance(part, kind):
        raise TypeError(name)
    return {} if part is None else part


def of_kind(report: dict[str, Any], kind: str) -> list[Measurement]:
    """The measurements of one kind, in order."""
    return [measured for measured in measurements(report) if measured.kind == kind]


def named(report: dict[str, Any], name: str) -> Measurement | None:
    """The measurement of that name, or None."""
    return next((measured for measured in measurements(report) if measured.name == name), None)


def one_of_kind(report: dict[str, Any], kind: str) -> Measurement | None:
    """The first measurement of a kind, or None."""
    return next(iter(of_kind(report, kind)), None)


def share_of_matmul(report: dict[str, Any], measured: Measurement) -> float | None:
    """How much of the best rate of matrix products, in the same dtype, an engine's row reaches: the network's
    operations on all pixels that were computed, those of overlaps included. None where one is not known."""
    ceiling = named(report, f"matmul {measured.facts.get('dtype')}")
    if ceiling is None or not report.get("flops_per_px"):
        return None
    flops = float(report["flops_per_px"]) * float(measured.facts["computed_px"])
    return flops / measured.median_s / best_rate(float(ceiling.facts["amount"]), ceiling)


def alone(report: dict[str, Any]) -> dict[str, float]:
    """Seconds of network, decode and encode alone, of those that were measured."""
    found = {stage: one_of_kind(report, stage) for stage in ("network", "decode", "encode")}
    return {stage: measured.median_s for stage, measured in found.items() if measured is not None}


def bound(report: dict[str, Any]) -> tuple[str, float] | None:
    """The stage that takes longest alone, and how much longer the run from end to end took than it."""
    whole, stages = one_of_kind(report, "end_to_end"), alone(report)
    if whole is None or "network" not in stages:
        return None
    slowest = max(stages, key=stages.__getitem__)
    return slowest, whole.median_s / stages[slowest]
