"""The journal of a run: which blocks are finished, so that the same command continues after a kill."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialcli.geometry import Box
from axialcli.notes import note_line, read_note
from axialcli.output.closing import Closing
from axialcli.output.files import open_file, sync_file, sync_folder, write_at, writing
from axialcli.output.folder import WorkFolder, partial_folder
from axialcli.output.spool import SPOOL_FILES

JOURNAL = "journal.txt"
MASK_FILE = "mask.tif"
PROBS_FILE = "probs.tif"
OVERLAY_FILE = "overlay.png"
REPORT_FILE = "report.json"
PUBLISHING_FILE = "publishing.json"
CERTIFICATE_FILE = "certificate.txt"
TABLE_FILE = "tiles.csv"
LABELS_FILE = "labels.bin"
_FORMAT = 1
OURS = (
    JOURNAL,
    MASK_FILE,
    PROBS_FILE,
    OVERLAY_FILE,
    REPORT_FILE,
    PUBLISHING_FILE,
    CERTIFICATE_FILE,
    TABLE_FILE,
    LABELS_FILE,
    *SPOOL_FILES,
)
"""All that axial leaves in a work folder, whatever it makes there."""


class Journal(Closing):
    """The work folder's record of finished blocks: one checksummed, synced line each.

    folder: the locked WorkFolder. restarted: why earlier work there was dropped, or None.
    """

    def __init__(self, folder: WorkFolder, fingerprint: Mapping[str, Any]) -> None:
        """Use `Journal.open`."""
        self.folder = folder
        self.restarted: str | None = None
        self._counts: dict[Box, tuple[int, ...]] = {}
        self._path = folder.file(JOURNAL)
        self._end = 0
        wanted = json.loads(json.dumps({"format": _FORMAT, "fingerprint": fingerprint}))
        with writing(self._path):
            if not self._continue(wanted):
                self._start(wanted)
            self._file = open_file(self._path)
            self._file.truncate(self._end)

    @classmethod
    def open(cls, path: Path, fingerprint: Mapping[str, Any]) -> Journal:
        """Continues the work in the folder `path`, or starts it anew there.

        fingerprint: a dict for JSON of all that decides the output's bytes; where it differs from
        the journal's, or the journal is damaged, the work there is deleted and `restarted` says
        why. Raises OutputError where
        the folder cannot be written, is in use, or holds files of others.
        """
        folder = WorkFolder.open(path, OURS)
        try:
            return cls(folder, fingerprint)
        except BaseException:
            folder.close()
            raise

    @staticmethod
    def earlier(path: Path) -> dict[str, Any] | None:
        """The fingerprint of the work in the folder `path`, or None where there is none to be read."""
        try:
            with (path / JOURNAL).open("rb") as file:
                notes = list(iter(lambda: read_note(file.readline()), None))
        except OSError:
            return None
        return _header(notes)["fingerprint"] if notes and notes[0].get("format") == _FORMAT else None

    @property
    def done(self) -> frozenset[Box]:
        """The boxes of the finished blocks."""
        return frozenset(self._counts)

    def counts(self, boxes: Iterable[Box] | None = None) -> NDArray[np.int64]:
        """Pixels per class, summed over `boxes` (all that are done, where None). Shape [K]; [0] for none."""
        rows = [self._counts[box] for box in (self._counts if boxes is None else boxes)]
        return np.asarray(rows, np.int64).sum(axis=0) if rows else np.zeros(0, np.int64)

    def record(self, box: Box, counts: Sequence[int] | NDArray[np.integer[Any]]) -> None:
        """Notes that the block `box` is finished and synced, with its pixels per class.

        Returns when the disk holds the note. Raises OutputError.
        """
        pixels = tuple(int(count) for count in counts)
        self._append({"box": list(box), "counts": list(pixels)})
        self._counts[box] = pixels

    def replan(self, plan: Mapping[str, Any]) -> None:
        """Notes that the blocks to come follow another plan, which a continued run then has to repeat.

        plan: what stands under "plan" in the fingerprint from now on. Raises OutputError.
        """
        self._append({"plan": dict(plan)})

    def _append(self, note: dict[str, Any]) -> None:
        """Returns when the disk holds the note."""
        line = note_line(note)
        with writing(self._path):
            write_at(self._file, self._end, line)
            sync_file(self._file)
        self._end += len(line)

    def remove(self) -> bool:
        """Deletes the folder and ends the lock; False where files of others keep it alive.

        Close the sinks first. Raises OutputError.
        """
        self._file.close()
        return self.folder.remove()

    def close(self) -> None:
        """Ends the lock; the work stays, to be continued."""
        self._file.close()
        self.folder.close()

    def _continue(self, wanted: dict[str, Any]) -> bool:
        """Reads the journal; False, with the reason in `restarted`, where it is of no use."""
        if not self._path.exists():
            return False
        lines = self._path.read_bytes().splitlines(keepends=True)
        parsed = [read_note(line) for line in lines]
        while parsed and parsed[-1] is None:  # The torn tail of a kill.
            parsed.pop()
        if not parsed:
            return False
        if None in parsed or not _readable(parsed):
            self.restarted = "the journal of the earlier run is damaged"
            return False
        changed = _changes(_header(parsed), wanted)
        if changed:
            self.restarted = f"the earlier run differed in: {', '.join(changed)}"
            return False
        for note in parsed[1:]:
            if "box" in note:
                self._counts[Box(*note["box"])] = tuple(note["counts"])
        self._end = sum(len(line) for line in lines[: len(parsed)])
        return True

    def _start(self, wanted: dict[str, Any]) -> None:
        # The journal goes first: a kill in between must not leave it beside another run's tiles.
        self._path.unlink(missing_ok=True)
        sync_folder(self.folder.path)
        self.folder.clear()
        line = note_line(wanted)
        with open_file(self._path, create=True) as file:
            write_at(file, 0, line)
            sync_file(file)
        sync_folder(self.folder.path)
        self._end = len(line)


def earlier_plan(out: Path, fingerprint: Mapping[str, Any]) -> Any:
    """What stands under "plan" in the unfinished work of `out`, or None where it is no use.

    Measured memory could give another plan today, and then the work would be lost. fingerprint: of the
    run that is to continue it, without a plan; all else has to be the same.
    """
    earlier = Journal.earlier(partial_folder(out))
    # As a journal gives it back: JSON knows no tuples.
    wanted = json.loads(json.dumps(fingerprint))
    if earlier is None or any(earlier.get(key) != said for key, said in wanted.items()):
        return None
    return earlier.get("plan")


def _readable(notes: list[Any]) -> bool:
    header, *others = notes
    return header.get("format") == _FORMAT and all(
        {"box", "counts"} <= note.keys() or note.keys() == {"plan"} for note in others
    )


def _header(notes: list[Any]) -> dict[str, Any]:
    """The first note, with the last plan that was noted."""
    plans = [{"plan": note["plan"]} for note in notes[1:] if "plan" in note]
    return {**notes[0], "fingerprint": {**notes[0]["fingerprint"], **(plans[-1] if plans else {})}}


def _changes(header: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    old, new = header["fingerprint"], wanted["fingerprint"]
    missing = object()
    return sorted(key for key in old.keys() | new.keys() if old.get(key, missing) != new.get(key, missing))
