"""The last step of a run: finished files move to their names, each at once or not at all."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from pathlib import Path

from axialcli.output.files import open_file, sync_file, sync_folder, write_file, writing
from axialcli.output.folder import WorkFolder, partial_folder

_COPY = "copy"


def publish(temp: Path, final: Path) -> None:
    """Moves the finished file `temp` to `final` in one step.

    On any failure `final` is what it was before, and `temp` still there. Where `final` lies on
    another filesystem, the bytes are first copied to its own work folder. Raises OutputError.
    """
    with writing(final):
        with open_file(temp) as file:
            sync_file(file)
        try:
            temp.replace(final)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _replace_across(temp, final)
        sync_folder(final.parent)


def publish_bytes(data: bytes, final: Path) -> None:
    """Writes `data` in the work folder of `final` and publishes it. Raises OutputError; nothing is left."""
    with WorkFolder.open(partial_folder(final), {_COPY}) as folder:
        try:
            publish(write_file(folder.file(_COPY), data), final)
        finally:
            folder.remove()


def publish_all(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Publishes (temp, final) in order; the one that says "done", OUT, belongs last."""
    for temp, final in pairs:
        publish(temp, final)


def _replace_across(temp: Path, final: Path) -> None:
    folder = WorkFolder.open(partial_folder(final), {_COPY})
    try:
        copy = folder.file(_COPY)
        with temp.open("rb") as source, open_file(copy, create=True) as target:
            shutil.copyfileobj(source, target)
            sync_file(target)
        copy.replace(final)
    finally:
        folder.remove()
    temp.unlink()
