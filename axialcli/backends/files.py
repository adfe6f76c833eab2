"""Files of models that cannot be opened: the true reason, as one kind of error."""

from __future__ import annotations

import stat
from pathlib import Path

from axialcli.errors import ModelError

MAX_SIDECAR_BYTES = 16 << 20
"""Of the description beside a model file."""


def is_readable(path: Path) -> bool:
    """Whether there is a file that opens for reading.

    Raises ModelError with the reason where there is something that does not open, or where the
    path cannot be the path of a file.
    """
    try:
        # A pipe would block when it is opened, so the kind comes first.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelError(f"{path}: not a file")
        with path.open("rb"):
            return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise ModelError(f"{str(path)!r}: cannot be the path of a file ({error})") from error


def is_folder(path: Path) -> bool:
    """Whether there is a folder. What cannot be looked at is none: `is_readable` says why."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def unreadable(path: Path, error: OSError) -> ModelError:
    """The error for a file that is there and cannot be read."""
    return ModelError(f"{path}: cannot be read ({error.strerror or error})")


def read_limited(path: Path, most_bytes: int, *, too_large: str) -> bytes:
    """All bytes of a file. Raises ModelError where it cannot be read, or, in these words, is too large."""
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(data) > most_bytes:
        raise ModelError(f"{path}: {too_large}")
    return data


def read_sidecar(path: Path) -> bytes:
    """The whole of a description beside a model. Raises ModelError."""
    return read_limited(path, MAX_SIDECAR_BYTES, too_large="larger than any model's description")
