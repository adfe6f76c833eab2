"""A run's folder for scratch files: locked, with a journal of what is finished.

Stages write to other files than those that they read (`assign(in_place=False)`), although less disk
would do with each strip written over itself. A kill in the middle of a stage then leaves what the stage
reads as it was, whatever the stage needs of it, and nothing has to be written twice, as the notes for
an undo would have to be. It costs one more file of tokens; disk is cheaper than memory.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from axialcli.engine.stream.slots import Slot
from axialcli.engine.stream.store import ScratchStore, scratch_error
from axialcli.errors import OutputError
from axialcli.notes import note_line, read_note

logger = logging.getLogger("axial")

JOURNAL = "journal.txt"
LOCK = "lock"
_FORMAT = 1


class Scratch:
    """The folder, its lock and its journal.

    stage: how many stages are finished. at: how far the next one is, in its own measure. Work that
    is there already is continued where `fingerprint` (JSON's types) is the same and the files are
    whole; else it is deleted, with a warning. Raises OutputError where the folder cannot be used, or
    another run uses it.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any], sizes: Sequence[int]) -> None:
        self.path = folder
        self.stage = self.at = 0
        self._features = [folder / f"features-{number}.bin" for number in range(len(sizes))]
        with _using(folder):
            folder.mkdir(exist_ok=True)
            self._lock = _lock(folder)
            header = json.loads(json.dumps({"format": _FORMAT, "fingerprint": fingerprint}))
            reason = self._continue(header, sizes)
            if reason is not None:
                self._start(header, reason)
            self._journal = (folder / JOURNAL).open("ab", buffering=0)

    def store(self, slots: Sequence[Slot], dtype: Any) -> ScratchStore:
        """The feature store in the folder's files. Raises OutputError."""
        return ScratchStore(self.path, slots, dtype)

    def note(self, stage: int, at: int = 0) -> None:
        """Notes how far the run is, after the store was synced; returns when the disk holds it."""
        self.stage, self.at = stage, at
        with _using(self.path):
            self._journal.write(note_line({"stage": stage, "at": at}))
            os.fsync(self._journal.fileno())

    def renew(self, fingerprint: Mapping[str, Any], at: int) -> None:
        """Goes on under another fingerprint: what is finished counts for it, and `at` of the next stage."""
        self.at = at
        with _using(self.path):
            self._journal.write(note_line({"fingerprint": fingerprint, "stage": self.stage, "at": at}))
            os.fsync(self._journal.fileno())

    def close(self) -> None:
        """Ends the lock; the files stay, to be continued."""
        self._journal.close()
        self._lock.close()

    def remove(self) -> None:
        """Deletes our files, and the folder unless it holds something of others. Raises OutputError."""
        self.close()
        with _using(self.path):
            self._delete()
            (self.path / LOCK).unlink(missing_ok=True)
            if not any(self.path.iterdir()):
                self.path.rmdir()

    def _continue(self, header: dict[str, Any], sizes: Sequence[int]) -> str | None:
        """Reads the journal. Returns why its work is of no use, "" where there is none, None if it is."""
        try:
            data = (self.path / JOURNAL).read_bytes()
        except FileNotFoundError:
            return ""
        notes = whole_notes(data)
        if not notes:
            return ""
        if None in notes:
            return "its journal is damaged"
        if header_of(notes) != header:
            return "it was another run"
        if len(notes) > 1 and any(
            not path.is_file() or path.stat().st_size != size
            for path, size in zip(self._features, sizes, strict=True)
        ):
            return "its files are damaged"
        if len(notes) > 1:
            self.stage, self.at = int(notes[-1]["stage"]), int(notes[-1]["at"])
        with (self.path / JOURNAL).open("r+b") as file:
            file.truncate(sum(len(line) for line in data.splitlines(keepends=True)[: len(notes)]))
        return None

    def _start(self, header: dict[str, Any], reason: str) -> None:
        if reason:
            logger.warning("%s cannot be continued: %s; starting over", self.path, reason)
        self._delete()
        with (self.path / JOURNAL).open("xb") as file:
            file.write(note_line(header))
            file.flush()
            os.fsync(file.fileno())

    def _delete(self) -> None:
        """Deletes our files; the journal goes first, so that it never speaks of files that are gone."""
        (self.path / JOURNAL).unlink(missing_ok=True)
        for path in self.path.glob("features-*.bin"):
            path.unlink(missing_ok=True)


def whole_notes(data: bytes) -> list[Any]:
    """The notes of a journal, None for one that is damaged; without what a kill has torn off at the end."""
    notes = [read_note(line) for line in data.splitlines(keepends=True)]
    while notes and notes[-1] is None:
        notes.pop()
    return notes


def header_of(notes: Sequence[Any]) -> dict[str, Any]:
    """What the work of a journal's notes is: its first note, with the last fingerprint that was noted."""
    renewed = [note["fingerprint"] for note in notes if "fingerprint" in note]
    return {**notes[0], "fingerprint": renewed[-1]} if renewed else notes[0]


def _lock(folder: Path) -> io.FileIO:
    """Locks the folder until the file that is given back is closed. Raises OSError, OutputError."""
    path = folder / LOCK
    file = io.FileIO(path, "a")
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK):
            raise
        raise OutputError(f"{folder} is in use by another run: wait for it") from None
    return file


@contextmanager
def _using(folder: Path) -> Iterator[None]:
    """Turns an OSError of the body into the OutputError of the folder."""
    try:
        yield
    except OSError as error:
        raise scratch_error(folder, error) from error
