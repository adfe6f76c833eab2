"""The figures of a certificate: kept in the work folder while a run lasts, summed up in its report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from axialcli.geometry import Box, WindowFigures
from axialcli.notes import note_line, read_note
from axialcli.output.closing import Closing
from axialcli.output.files import open_file, sync_file, write_at, writing
from axialcli.output.folder import WorkFolder
from axialcli.output.journal import CERTIFICATE_FILE


class CertificateNotes(Closing):
    """The figures of all windows compared so far, by this run and by those that it continues."""

    def __init__(self, folder: WorkFolder) -> None:
        """Reads what is in `folder`, as far as it is whole. Raises OutputError."""
        self._path = folder.file(CERTIFICATE_FILE)
        self._figures: dict[Box, WindowFigures] = {}
        self._end = 0
        with writing(self._path):
            self._file = open_file(self._path, create=not self._path.exists())
            for line in self._path.read_bytes().splitlines(keepends=True):
                note = read_note(line)
                if note is None:
                    break
                self._keep(WindowFigures(**{**note, "box": Box(*note["box"])}))
                self._end += len(line)
            self._file.truncate(self._end)

    def has(self, windows: Iterable[Box]) -> bool:
        """Whether the figures of all these windows are known."""
        return all(window in self._figures for window in windows)

    def record(self, figures: Sequence[WindowFigures]) -> None:
        """Notes the figures of the windows of one block. Returns when the disk holds them.

        Raises OutputError.
        """
        if not figures:
            return
        lines = b"".join(note_line(asdict(one)) for one in figures)
        with writing(self._path):
            write_at(self._file, self._end, lines)
            sync_file(self._file)
        self._end += len(lines)
        for one in figures:
            self._keep(one)

    def describe(self, windows: Sequence[Box], receptive_field_px: int) -> dict[str, Any]:
        """For the report, over `windows`, all of which are known. Lengths and areas in pixels, logits as
        WindowFigures has them; the median is that of the windows' medians."""
        figures = [self._figures[window] for window in windows]
        pixels = sum(window.area_px for window in windows)
        differing = sum(one.differing for one in figures)
        return {
            "windows": len(figures),
            "chosen": "at random, uniformly over the slide",
            "pixels": pixels,
            "receptive_field_px": receptive_field_px,
            "largest_logit_difference": max(one.largest for one in figures),
            "median_logit_difference": median(one.median for one in figures),
            "differing_pixels": differing,
            "differing_pixels_share": differing / pixels,
        }

    def close(self) -> None:
        """Closes the file; it stays, to be continued."""
        self._file.close()

    def _keep(self, figures: WindowFigures) -> None:
        self._figures[figures.box] = figures
