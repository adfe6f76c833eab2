"""The journal continues the same work, starts over for other work, and never deletes what is not ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from axialcli.errors import OutputError
from axialcli.geometry import Box
from axialcli.output import Journal, WorkFolder, partial_folder

PRINT = {"input": {"sha256": "00"}, "tile": 512}
BOXES = [Box(0, 0, 512, 900), Box(512, 0, 1024, 900), Box(1024, 0, 1100, 900)]


def fill(folder: Path) -> None:
    with Journal.open(folder, PRINT) as journal:
        for number, box in enumerate(BOXES):
            journal.record(box, [number, 10])


def test_the_partial_folder_lies_beside_the_output() -> None:
    assert partial_folder(Path("a/mask.tif")) == Path("a/mask.tif.partial")


def test_the_same_work_continues(tmp_path: Path) -> None:
    folder = tmp_path / "m.partial"
    fill(folder)
    with Journal.open(folder, dict(reversed(PRINT.items()))) as journal:
        assert journal.restarted is None
        assert journal.done == set(BOXES)
        assert journal.counts().tolist() == [3, 30]
        assert journal.counts(BOXES[1:2]).tolist() == [1, 10]


def test_a_block_recorded_twice_counts_once(tmp_path: Path) -> None:
    folder = tmp_path / "m.partial"
    fill(folder)
    with Journal.open(folder, PRINT) as journal:
        journal.record(BOXES[0], [7, 7])
    with Journal.open(folder, PRINT) as journal:
        assert journal.counts().tolist() == [10, 27]


def test_other_work_starts_over_and_says_what_differs(tmp_path: Path) -> None:
    folder = tmp_path / "m.partial"
    fill(folder)
    for name in ("tiles.bin", "index.bin", "mask.tif", "report.json"):
        (folder / name).write_bytes(b"old")
    with Journal.open(folder, {**PRINT, "tile": 256, "blend": "mean"}) as journal:
        assert journal.restarted == "the earlier run differed in: blend, tile"
        assert journal.done == frozenset()
        assert journal.counts().tolist() == []
        assert sorted(path.name for path in folder.iterdir()) == ["journal.txt", "lock"]


def test_a_torn_tail_is_dropped_at_every_length(tmp_path: Path) -> None:
    folder = tmp_path / "m.partial"
    fill(folder)
    text = (folder / "journal.txt").read_bytes()
    ends = [at + 1 for at, byte in enumerate(text) if byte == ord("\n")]
    for cut in range(len(text) + 1):
        (folder / "journal.txt").write_bytes(text[:cut])
        with Journal.open(folder, PRINT) as journal:
            whole = [box for box, end in zip(BOXES, ends[1:], strict=True) if end <= cut]
            assert journal.done == set(whole), cut
            assert journal.restarted is None
            journal.record(Box(9, 9, 10, 10), [1, 1])
        with Journal.open(folder, PRINT) as journal:
            assert journal.done == {*whole, Box(9, 9, 10, 10)}, cut


@pytest.mark.parametrize("tail", [b"\x00" * 4096, b"garbage\n", b"\n\n", b"\xff\r\x00\n"])
def test_garbage_at_the_end_is_dropped(tmp_path: Path, tail: bytes) -> None:
    folder = tmp_path / "m.partial"
    fill(folder)
    with (folder / "journal.txt").open("ab") as file:
        file.write(tail)
    with Journal.open(folder, PRINT) as journal:
        assert journal.done == set(BOXES)


def test_damage_in_the_middle_starts_over(tmp_path: Path) -> None:
    folder = tmp_path / "m.partial"
    fill(folder)
    text = (folder / "journal.txt").read_bytes()
    last = text.rstrip(b"\n").rindex(b"\n")
    for at in range(last):
        (folder / "journal.txt").write_bytes(text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :])
        (folder / "tiles.bin").write_bytes(b"of the damaged run")
        with Journal.open(folder, PRINT) as journal:
            assert journal.restarted == "the journal of the earlier run is damaged", at
            assert journal.done == frozenset()
        assert not (folder / "tiles.bin").exists()


def test_tiles_without_a_journal_are_not_trusted(tmp_path: Path) -> None:
    folder = tmp_path / "m.partial"
    fill(folder)
    (folder / "journal.txt").unlink()
    (folder / "tiles.bin").write_bytes(b"whose?")
    with Journal.open(folder, PRINT) as journal:
        assert journal.done == frozenset()
    assert not (folder / "tiles.bin").exists()


def test_two_runs_on_one_output_refuse(tmp_path: Path) -> None:
    folder = tmp_path / "m.partial"
    with Journal.open(folder, PRINT) as journal:
        journal.record(BOXES[0], [1])
        with pytest.raises(OutputError, match=r"m\.partial is in use by another run"):
            Journal.open(folder, {"other": 1})
    with Journal.open(folder, PRINT) as journal:
        assert journal.done == {BOXES[0]}


def test_a_killed_run_lets_go_of_its_lock(tmp_path: Path) -> None:
    folder = tmp_path / "m.partial"
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom axialcli.output.folder import WorkFolder\n"
        "held = WorkFolder.open(Path(sys.argv[1]), ())\nprint('held', flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match="in use"):
            Journal.open(folder, PRINT)
        other.send_signal(signal.SIGKILL)
        other.wait()
    Journal.open(folder, PRINT).close()


def test_a_refused_folder_is_not_left_locked(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        Journal.open(tmp_path / "m.partial", {"not": object()})
    Journal.open(tmp_path / "m.partial", PRINT).close()


def test_remove_takes_the_folder_away(tmp_path: Path) -> None:
    folder = tmp_path / "m.partial"
    journal = Journal.open(folder, PRINT)
    journal.folder.file("mask.tif").write_bytes(b"1")
    assert journal.remove()
    assert list(tmp_path.iterdir()) == []


def test_remove_keeps_what_others_put_there(tmp_path: Path) -> None:
    folder = tmp_path / "m.partial"
    journal = Journal.open(folder, PRINT)
    (folder / "notes.txt").write_text("mine")
    assert not journal.remove()
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["notes.txt", "tiles.bin/inside", "mask.tif.bak"])
def test_a_folder_with_foreign_content_is_refused_untouched(tmp_path: Path, name: str) -> None:
    foreign = tmp_path / "m.partial" / name
    foreign.parent.mkdir(parents=True)
    foreign.write_text("precious")
    with pytest.raises(OutputError, match="which axial did not put there"):
        Journal.open(tmp_path / "m.partial", PRINT)
    assert foreign.read_text() == "precious"
    assert not (tmp_path / "m.partial" / "lock").exists()


def test_a_link_with_a_name_of_ours_is_refused(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("1")
    (tmp_path / "m.partial").mkdir()
    (tmp_path / "m.partial" / "tiles.bin").symlink_to(precious)
    with pytest.raises(OutputError, match=r"tiles\.bin"):
        Journal.open(tmp_path / "m.partial", PRINT)


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.partial").write_text("a file")
    with pytest.raises(OutputError, match="in the way"):
        Journal.open(tmp_path / "m.partial", PRINT)


@pytest.mark.parametrize(
    ("where", "message"),
    [("no/m.partial", "make its folder first"), ("file/m.partial", "a part of this path is a file")],
)
def test_an_impossible_place_is_an_output_error(tmp_path: Path, where: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=message):
        Journal.open(tmp_path / where, PRINT)


def test_an_unwritable_folder_is_an_output_error(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom axialcli.errors import OutputError\n"
        "from axialcli.output import Journal\n"
        "os.getuid() or os.setuid(65534)\n"
        "try:\n    Journal.open(Path(sys.argv[1]), {})\nexcept OutputError as error:\n    print(error)\n"
    )
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    arguments = [sys.executable, "-c", script, "m.partial"]
    run = subprocess.run(arguments, cwd=closed, capture_output=True, text=True, check=False, env=_paths())
    assert run.stdout == (
        "cannot write m.partial: Permission denied; choose a folder that you may write to\n"
    ), run.stderr
    assert list(closed.iterdir()) == []


def test_the_lock_survives_a_removal_by_the_run_before(tmp_path: Path) -> None:
    with WorkFolder.open(tmp_path / "w", ()) as first:
        assert first.remove()
    with WorkFolder.open(tmp_path / "w", ()) as second:
        assert second.file("lock").exists()


def _paths() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


PLANNED = {**PRINT, "plan": {"batch": 4}}


def test_another_plan_in_the_middle_counts_from_there_on(tmp_path: Path) -> None:
    folder = tmp_path / "m.partial"
    with Journal.open(folder, PLANNED) as journal:
        journal.record(BOXES[0], [1, 2])
        journal.replan({"batch": 2})
        journal.record(BOXES[1], [3, 4])
        journal.replan({"batch": 1})

    assert Journal.earlier(folder) == {**PRINT, "plan": {"batch": 1}}
    with Journal.open(folder, {**PRINT, "plan": {"batch": 1}}) as journal:
        assert journal.restarted is None
        assert journal.done == set(BOXES[:2])
        assert journal.counts().tolist() == [4, 6]
    with Journal.open(folder, PLANNED) as journal:
        assert journal.restarted == "the earlier run differed in: plan"


def test_a_plan_that_a_kill_has_torn_was_never_noted(tmp_path: Path) -> None:
    folder = tmp_path / "m.partial"
    with Journal.open(folder, PLANNED) as journal:
        journal.record(BOXES[0], [1, 2])
        journal.replan({"batch": 2})
    path = folder / "journal.txt"
    os.truncate(path, path.stat().st_size - 1)

    assert Journal.earlier(folder) == PLANNED
    with Journal.open(folder, PLANNED) as journal:
        assert journal.restarted is None
        assert journal.done == {BOXES[0]}
