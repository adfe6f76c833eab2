"""The files that a run is asked to write, checked before any work starts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from axialcli.config import ClassInfo, distinct_names, first_names
from axialcli.errors import OutputError, UsageError
from axialcli.output.files import output_error, write_file
from axialcli.output.folder import WorkFolder, partial_folder
from axialcli.output.journal import PUBLISHING_FILE


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """mask: OUT. report: OUT.json beside it. The others are None, or empty, where nobody asked for them.

    table: of tiles, a CSV. heatmaps: of a class, by name or number, a TIFF or a PNG each.
    """

    mask: Path
    report: Path
    probs: Path | None
    overlay: Path | None
    table: Path | None = None
    heatmaps: tuple[tuple[str, Path], ...] = ()

    @property
    def all(self) -> list[Path]:
        paths = (self.mask, self.report, self.overlay, *self.of_probs)
        return [path for path in paths if path is not None]

    @property
    def of_probs(self) -> list[Path]:
        """The files that are made of probabilities."""
        paths = (self.probs, self.table, *(path for _, path in self.heatmaps))
        return [path for path in paths if path is not None]

    @property
    def drawn(self) -> bool:
        """Whether a thumbnail of the slide is drawn on."""
        return self.overlay is not None or any(is_picture(path) for _, path in self.heatmaps)

    def check_classes(self, classes: Sequence[ClassInfo], *, classifies: bool) -> None:
        """Raises UsageError where a heatmap's class does not exist, or there are no tiles for a table."""
        if self.table is not None and not classifies:
            raise UsageError(
                "--csv lists the tiles that a model classifies, and this one classifies pixels: "
                "use --probs or --heatmap"
            )
        for name, _ in self.heatmaps:
            label_of(name, classes)


def label_of(text: str, classes: Sequence[ClassInfo]) -> int:
    """The label of a class by its name or its number. Raises UsageError where there is none."""
    names = distinct_names([entry.name for entry in classes])
    if text in names:
        return names.index(text)
    if text.isascii() and text.isdigit() and int(text) < len(names):
        return int(text)
    raise UsageError(f"--heatmap: no class '{text}'; the model has {first_names(names)}")


def is_picture(path: Path) -> bool:
    """Whether a heatmap is drawn over the slide, as a PNG, or else a TIFF of numbers."""
    return path.suffix.lower() == ".png"


def check_outputs(
    out: str | Path,
    *,
    inputs: Iterable[Path],
    probs: str | Path | None = None,
    overlay: str | Path | None = None,
    table: str | Path | None = None,
    heatmaps: Iterable[tuple[str, str | Path]] = (),
    force: bool = False,
) -> Outputs:
    """The files to write.

    Raises OutputError where one exists (unless `force`, or a run that is to be continued had begun
    to publish it) or its folder does not take files; UsageError where two of them or their work
    folders are the same, one is among `inputs`, the files that are only to be read, or a heatmap is
    neither TIFF nor PNG.
    """
    mask = Path(out)
    if not mask.name:
        raise OutputError(f"'{out}': is a folder; give a file name")
    outputs = Outputs(
        mask=mask,
        report=mask.with_name(mask.name + ".json"),
        probs=None if probs is None else Path(probs),
        overlay=None if overlay is None else Path(overlay),
        table=None if table is None else Path(table),
        heatmaps=tuple((name, Path(path)) for name, path in heatmaps),
    )
    for _, path in outputs.heatmaps:
        if path.suffix.lower() not in (".tif", ".tiff", ".png"):
            raise UsageError(f"{path}: a heatmap is a .tif, or a .png that is drawn over the slide")
    published = _published(outputs.mask)
    read = list(inputs)
    for path in outputs.all:
        check_file(path, inputs=read, may_exist=force or str(path.resolve()) in published)
    folders = [partial_folder(path) for path in (outputs.mask, *outputs.of_probs)]
    places: set[Path] = set()
    for path in (*outputs.all, *folders):
        if path.resolve() in places:
            raise UsageError(f"{path}: two outputs have the same name; each file needs one of its own")
        places.add(path.resolve())
    return outputs


def check_file(path: Path, *, inputs: Iterable[Path], may_exist: bool) -> None:
    """Raises OutputError where `path` is there (unless it may be) or its folder does not take files,
    UsageError where it is one of the inputs."""
    try:
        _check(path, list(inputs), may_exist=may_exist)
    except (OSError, ValueError) as error:
        reason = error if isinstance(error, OSError) else OSError(0, str(error))
        raise output_error(path, reason) from error


def check_scratch(folder: str | Path | None) -> None:
    """Raises OutputError where `folder` is given and is no folder that takes files."""
    if folder is None:
        return
    path = Path(folder)
    try:
        is_folder = path.is_dir()
        takes_files = os.access(path, os.W_OK | os.X_OK)
    except (OSError, ValueError) as error:
        reason = error if isinstance(error, OSError) else OSError(0, str(error))
        raise output_error(path, reason) from error
    if not is_folder:
        raise OutputError(f"{path}: is no folder; --scratch needs one that is there")
    if not takes_files:
        raise OutputError(f"{path}: this folder cannot be written; choose another --scratch")


def note_publishing(folder: WorkFolder, outputs: Outputs) -> None:
    """Writes down, in the mask's work folder and before the first file gets its name, which ones will.

    After a kill in between the same command must not take them for files of others. Raises OutputError.
    """
    names = [str(path.resolve()) for path in outputs.all]
    write_file(folder.file(PUBLISHING_FILE), json.dumps(names).encode())


def _published(mask: Path) -> set[str]:
    try:
        return set(json.loads((partial_folder(mask) / PUBLISHING_FILE).read_bytes()))
    except (OSError, ValueError):
        return set()


def _check(path: Path, inputs: list[Path], *, may_exist: bool) -> None:
    if path.is_dir() or not path.name:
        raise OutputError(f"{path}: is a folder; give a file name")
    if path.exists():
        if any(other.exists() and path.samefile(other) for other in inputs):
            raise UsageError(f"{path}: is an input; choose another output")
        if not may_exist:
            raise OutputError(f"{path}: exists already; --force overwrites it")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: its folder cannot be written; choose another one")
