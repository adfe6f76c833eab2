"""The figures of a certificate on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from axialcli.geometry import Box, WindowFigures
from axialcli.output import CertificateNotes
from axialcli.output.folder import WorkFolder
from axialcli.output.journal import CERTIFICATE_FILE

FIGURES = [
    WindowFigures(box=Box(0, 256, 256, 512), differing=3, largest=0.25, median=0.1 + 0.2),
    WindowFigures(box=Box(256, 0, 300, 256), differing=0, largest=1e-7, median=0.0),
    WindowFigures(box=Box(512, 0, 768, 256), differing=65536, largest=1.5, median=0.5),
]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[WorkFolder]:
    with WorkFolder.open(tmp_path / "mask.tif.partial", [CERTIFICATE_FILE]) as opened:
        yield opened


def test_figures_come_back_as_they_were(folder: WorkFolder) -> None:
    with CertificateNotes(folder) as notes:
        notes.record(FIGURES[:2])
        notes.record([])
    with CertificateNotes(folder) as notes:
        assert notes.has([FIGURES[0].box, FIGURES[1].box])
        assert not notes.has([FIGURES[2].box])
        notes.record(FIGURES[2:])

    with CertificateNotes(folder) as notes:
        said = notes.describe([one.box for one in FIGURES], 798)

    pixels = 65536 + 44 * 256 + 65536
    assert said == {
        "windows": 3,
        "chosen": "at random, uniformly over the slide",
        "pixels": pixels,
        "receptive_field_px": 798,
        "largest_logit_difference": 1.5,
        "median_logit_difference": 0.1 + 0.2,
        "differing_pixels": 65539,
        "differing_pixels_share": 65539 / pixels,
    }


def test_figures_of_other_windows_do_not_count(folder: WorkFolder) -> None:
    """An earlier run compared more windows than this one was asked for."""
    with CertificateNotes(folder) as notes:
        notes.record(FIGURES)

        assert notes.describe([FIGURES[1].box], 8)["largest_logit_difference"] == 1e-7


def test_a_torn_line_is_dropped_and_written_again(folder: WorkFolder) -> None:
    path = folder.file(CERTIFICATE_FILE)
    with CertificateNotes(folder) as notes:
        notes.record(FIGURES)
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines(keepends=True)[2]) + 1):
        path.write_bytes(whole[:-cut])
        with CertificateNotes(folder) as notes:
            assert notes.has([FIGURES[1].box])
            assert not notes.has([FIGURES[2].box])
            notes.record(FIGURES[2:])
        assert path.read_bytes() == whole
