"""Two reports side by side: what changed beyond the noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from axialcli.bench.report import measurements

Verdict = Literal["faster", "slower", "same", "too few repeats"]

SURE = 0.05
"""The largest chance of a mistake that a verdict is given with."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One measurement in both reports. ratio: of the medians of the seconds, new to old."""

    name: str
    before_s: float
    after_s: float
    ratio: float
    verdict: Verdict


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """What both reports have, in the order of the second."""
    old = {measured.name: measured for measured in measurements(before)}
    return [
        Change(
            name=new.name,
            before_s=old[new.name].median_s,
            after_s=new.median_s,
            ratio=new.median_s / old[new.name].median_s,
            verdict=verdict(old[new.name].seconds, new.seconds),
        )
        for new in measurements(after)
        if new.name in old
    ]


def verdict(before: Sequence[float], after: Sequence[float]) -> Verdict:
    """Whether repeats differ beyond their noise: where their ranges do not touch.

    Of n and m repeats of the same thing, in random order, the ranges lie apart with a chance of
    2 / (n + m over n), which is that of the rank test's most extreme outcome. Where it is above 5 % the
    repeats cannot tell at all. The noise that repeats within one process cannot show, such as of another
    load on the machine, is not in it: measure both reports side by side.
    """
    if 2 / math.comb(len(before) + len(after), len(before)) > SURE:
        return "too few repeats"
    if max(after) < min(before):
        return "faster"
    return "slower" if min(after) > max(before) else "same"


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """What else differs between the reports and may explain a change, a line each."""
    for name, value in _circumstances(before).items():
        other = _circumstances(after)[name]
        if value != other:
            yield f"{name}: {value} and {other}"


def _circumstances(report: dict[str, Any]) -> dict[str, Any]:
    machine, model = report.get("machine") or {}, report.get("model") or {}
    versions, settings = machine.get("versions") or {}, report.get("settings") or {}
    return {
        **{name: machine.get(name) for name in ("processor", "cores", "threads", "memory_bytes", "gpu")},
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()) or None,
        "model": model.get("name"),
        "model's hash": (model.get("sha256") or "")[:12] or None,
        "device": model.get("device"),
        "dtype": model.get("dtype"),
        **{
            name: ", ".join(map(str, settings.get(name) or ())) or None for name in ("resolutions", "engines")
        },
    }
