"""What parent and children say to each other: jobs as JSON one way, lines of JSON the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

JobKind = Literal[
    "slides", "export", "ceilings", "decode", "encode", "end_to_end", "network", "engine", "attention"
]

Send = Callable[[dict[str, Any]], None]
"""Hands one line to the parent: {"seconds": of a repeat} and {"facts": …} arrive even where the child is
killed afterwards."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One measurement. seconds: how long it may go on with repeats. given: its arguments, in JSON's types."""

    kind: JobKind
    seconds: float
    given: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
