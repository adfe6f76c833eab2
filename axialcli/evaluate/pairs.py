"""Which predictions and truths belong together."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from axialcli.errors import ImageError, UsageError

_PICTURES = (".tif", ".tiff", ".png")

logger = logging.getLogger("axial")


class Pair(NamedTuple):
    """A prediction and its truth, by the name that they share."""

    name: str
    pred: Path
    truth: Path


def find_pairs(pred: Path, truth: Path) -> list[Pair]:
    """Two files as one pair; of two folders the files of equal name, whatever their suffix, sorted.

    Raises UsageError where a prediction has no truth; truths without a prediction are counted in a
    message, since a folder of truths may hold more than what was predicted.
    """
    if pred.is_dir() != truth.is_dir():
        folder, file = (pred, truth) if pred.is_dir() else (truth, pred)
        raise UsageError(f"{folder} is a folder and {file} is none: give two files or two folders")
    if not pred.is_dir():
        return [Pair(stem(pred), pred, truth)]
    ours, theirs = _pictures(pred), _pictures(truth)
    for name, file in ours.items():
        if name not in theirs:
            raise UsageError(f"{file}: there is no {name}.tif or {name}.png in {truth}")
    if not ours:
        raise UsageError(f"{pred}: holds no TIFF or PNG")
    if left := len(theirs) - len(ours):
        logger.info("%s: %d of %d pictures have no prediction and do not count", truth, left, len(theirs))
    return [Pair(name, file, theirs[name]) for name, file in ours.items()]


def stem(path: Path) -> str:
    """A file's name without suffix, `.ome` included."""
    return path.stem.removesuffix(".ome")


def _pictures(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise ImageError(f"{folder}: cannot be read ({error.strerror})") from error
    for file in files:
        if file.suffix.lower() not in _PICTURES or not file.is_file():
            continue
        if other := found.get(stem(file)):
            raise UsageError(f"{folder}: {other.name} and {file.name} have the same name; keep masks alone")
        found[stem(file)] = file
    return found
