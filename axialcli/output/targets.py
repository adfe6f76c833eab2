"""The files that a run is asked to write, checked before any work starts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from axialcli.errors import OutputError, UsageError


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """mask: OUT. report: OUT.json beside it. probs, overlay: None where nobody asked for them."""

    mask: Path
    report: Path
    probs: Path | None
    overlay: Path | None

    @property
    def all(self) -> list[Path]:
        return [path for path in (self.mask, self.report, self.probs, self.overlay) if path is not None]


def check_outputs(
    out: str | Path,
    *,
    slide: Path,
    probs: str | Path | None = None,
    overlay: str | Path | None = None,
    force: bool = False,
) -> Outputs:
    """The files to write. Raises OutputError where one exists (unless `force`) or its folder does not
    take files, UsageError where two are the same or one is the slide itself."""
    mask = Path(out)
    outputs = Outputs(
        mask=mask,
        report=mask.with_name(mask.name + ".json"),
        probs=None if probs is None else Path(probs),
        overlay=None if overlay is None else Path(overlay),
    )
    places = [path.resolve() for path in outputs.all]
    if len(set(places)) < len(places):
        raise UsageError(
            f"{mask}: two outputs have the same name; mask, report, probabilities and overlay differ"
        )
    for path, place in zip(outputs.all, places, strict=True):
        if place == slide.resolve():
            raise UsageError(f"{path}: is the input; choose another output")
        if path.is_dir():
            raise OutputError(f"{path}: is a folder; give a file name")
        if path.exists() and not force:
            raise OutputError(f"{path}: exists already; --force overwrites it")
        if not path.parent.is_dir():
            raise OutputError(f"{path}: there is no folder {path.parent}; make it first")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise OutputError(f"{path}: its folder cannot be written; choose another one")
    return outputs
