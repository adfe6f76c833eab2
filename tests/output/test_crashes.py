"""Full disks and kills at every moment: OUT is absent or unchanged, and the next run makes the same bytes."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from axialcli.errors import OutputError
from axialcli.output import files, publish, publish_all, publish_bytes
from tests.output.runs import boxes_of, make_labels, sha256, write_mask

LABELS = make_labels((700, 600), cell=20)


class Killed(BaseException):
    """Ends the run as a kill does: nobody catches it, nothing more is written."""


class Faults:
    """Makes the n-th write, sync or rename fail, and those after it where `lasting`."""

    def __init__(self, error: Callable[[], BaseException], *, lasting: bool) -> None:
        self.error, self.lasting = error, lasting
        self.left = -1
        self.hits = 0

    def arm(self, nth: int) -> None:
        self.left, self.hits = nth, 0

    def disarm(self) -> None:
        self.left = -1

    def check(self) -> bool:
        if self.left < 0:
            return False
        if self.left > 0:
            self.left -= 1
            return False
        self.hits += 1
        if not self.lasting:
            self.left = -1
        return True


def install(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    class FailingFile(io.FileIO):
        def write(self, data: Any) -> int:
            if faults.check():
                super().write(bytes(data)[: len(data) // 2])  # A full disk takes what still fits.
                raise faults.error()
            return super().write(data)

    def failing_open(path: Path, *, create: bool = False) -> io.FileIO:
        return FailingFile(path, "w+" if create else "r+")

    def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if faults.check():
                raise faults.error()
            return real(*arguments)

        return call

    for room in ("files", "spool", "journal", "tiff", "publishing"):
        monkeypatch.setattr(f"axialcli.output.{room}.open_file", failing_open)
    monkeypatch.setattr(os, "fsync", guarded(os.fsync))
    monkeypatch.setattr(Path, "replace", guarded(Path.replace))


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "kind", "lasting", "before"),
    [
        (full_disk, OutputError, True, None),
        (full_disk, OutputError, True, b"the mask of yesterday"),
        (full_disk, OutputError, False, b"the mask of yesterday"),
        (Killed, Killed, True, None),
    ],
)
def test_the_nth_operation_fails_for_every_n(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: bytes | None,
    lasting: bool,
    error: Callable[[], BaseException],
    kind: type[BaseException],
) -> None:
    expected = sha256(write_mask(tmp_path / "whole.tif", LABELS))
    faults = Faults(error, lasting=lasting)
    install(faults, monkeypatch)
    messages: set[str] = set()
    for nth in range(1000):
        out = tmp_path / f"{nth}.tif"
        if before is not None:
            out.write_bytes(before)
        faults.arm(nth)
        try:
            write_mask(out, LABELS)
        except kind as caught:
            assert faults.hits
            messages.add(str(caught).partition(": ")[2])
        else:
            assert not faults.hits
            break
        faults.disarm()
        now = out.read_bytes() if out.exists() else None
        assert now == before or sha256(out) == expected, nth
        assert {path.name for path in tmp_path.iterdir()} <= {"whole.tif", out.name, f"{out.name}.partial"}
        assert sha256(write_mask(out, LABELS)) == expected, nth
        assert not (tmp_path / f"{out.name}.partial").exists()
        out.unlink()
    assert nth > 30
    if kind is OutputError:
        assert messages == {"No space left on device; free some space, then run the same command again"}
    faults.disarm()


def test_only_blocks_that_are_not_done_are_made_again(tmp_path: Path) -> None:
    out = tmp_path / "m.tif"
    made: list[int] = []

    def stop_after_two() -> None:
        made.append(1)
        if len(made) == 2:
            raise Killed

    labels = make_labels((2000, 600))
    with pytest.raises(Killed):
        write_mask(out, labels, on_block=stop_after_two)
    made.append(0)
    write_mask(out, labels, on_block=lambda: made.append(2))
    assert made == [1, 1, 0, 2, 2]
    assert sha256(out) == sha256(write_mask(tmp_path / "whole.tif", labels))


def test_tiles_lost_from_the_spool_are_made_again(tmp_path: Path) -> None:
    labels = make_labels((1500, 600))
    out = tmp_path / "m.tif"
    with pytest.raises(OutputError, match="never written"):
        write_mask(out, labels, boxes=boxes_of(labels.shape)[:2])
    assert not out.exists()
    blob = tmp_path / "m.tif.partial" / "tiles.bin"
    os.truncate(blob, blob.stat().st_size // 2)
    write_mask(out, labels)
    assert sha256(out) == sha256(write_mask(tmp_path / "whole.tif", labels))


def test_another_mask_for_the_same_output_starts_over(tmp_path: Path) -> None:
    out = tmp_path / "m.tif"
    with pytest.raises(OutputError):
        write_mask(out, make_labels((700, 600), seed=5), boxes=boxes_of((700, 600))[:1])
    write_mask(out, LABELS, fingerprint={"input": "b"})
    assert sha256(out) == sha256(write_mask(tmp_path / "whole.tif", LABELS))


SCRIPT = """
import sys, time
from pathlib import Path
from tests.output.runs import make_labels, write_mask
def slowly():
    print("block", flush=True)
    time.sleep(0.02)
write_mask(Path(sys.argv[1]), make_labels((2600, 900)), on_block=slowly)
"""


@pytest.mark.parametrize("blocks", [1, 3, 6])
def test_a_run_killed_for_real_goes_on(tmp_path: Path, blocks: int) -> None:
    out = tmp_path / "m.tif"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(out)], stdout=subprocess.PIPE, env=environment
    ) as run:
        assert run.stdout is not None
        for _ in range(blocks):
            assert run.stdout.readline() == b"block\n"
        run.send_signal(signal.SIGKILL)
    assert not out.exists()
    labels = make_labels((2600, 900))
    made: list[int] = []
    write_mask(out, labels, on_block=lambda: made.append(1))
    assert len(made) in (6 - blocks, 5 - blocks)
    assert sha256(out) == sha256(write_mask(tmp_path / "whole.tif", labels))


def test_publishing_across_filesystems_copies_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temp, final = tmp_path / "temp", tmp_path / "final"
    temp.write_bytes(b"new")
    final.write_bytes(b"old")
    real = Path.replace

    def other_filesystem(self: Path, target: Path) -> Path:
        if self == temp:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", other_filesystem)
    publish(temp, final)
    assert final.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


@pytest.mark.parametrize("foreign", [False, True])
def test_a_failed_copy_across_filesystems_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, foreign: bool
) -> None:
    temp, final = tmp_path / "temp", tmp_path / "final"
    temp.write_bytes(b"new")
    final.write_bytes(b"old")
    if foreign:
        (tmp_path / "final.partial").mkdir()
        (tmp_path / "final.partial" / "notes").write_text("precious")

    def other_filesystem(self: Path, target: Path) -> Path:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "replace", other_filesystem)
    with pytest.raises(OutputError, match="holds 'notes'" if foreign else "cross-device"):
        publish(temp, final)
    assert final.read_bytes() == b"old"
    assert temp.read_bytes() == b"new"
    assert (tmp_path / "final.partial").exists() == foreign


def test_bytes_are_published_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    final, other = tmp_path / "m.onnx", tmp_path / "m.onnx.new"
    other.write_bytes(b"somebody's")
    publish_bytes(b"first", final)
    faults = Faults(full_disk, lasting=False)
    install(faults, monkeypatch)
    failed = 0
    for nth in range(1, 50):
        faults.arm(nth)
        try:
            publish_bytes(b"second", final)
        except OutputError:
            failed += 1
        faults.disarm()
        assert final.read_bytes() in (b"first", b"second")
        assert sorted(path.name for path in tmp_path.iterdir()) in (
            ["m.onnx", "m.onnx.new"],
            ["m.onnx", "m.onnx.new", "m.onnx.partial"],
        )

    assert failed >= 3
    publish_bytes(b"third", final)
    assert (final.read_bytes(), other.read_bytes()) == (b"third", b"somebody's")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.onnx.new"]


def test_publishing_stops_at_the_first_failure(tmp_path: Path) -> None:
    (tmp_path / "report").write_bytes(b"1")
    out = tmp_path / "out"
    with pytest.raises(OutputError, match="cannot write"):
        publish_all([(tmp_path / "report", tmp_path / "no" / "r.json"), (tmp_path / "report", out)])
    assert not out.exists()


def test_a_folder_in_the_outputs_place_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "m.tif").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*m\.tif: .*choose another name"):
        write_mask(tmp_path / "m.tif", LABELS)


def test_a_write_that_takes_only_a_part_is_continued(tmp_path: Path) -> None:
    class Slow(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(bytes(data)[:3])

    with Slow(tmp_path / "f", "w+") as file:
        files.write_at(file, 2, b"0123456789")
    assert (tmp_path / "f").read_bytes() == b"\x00\x000123456789"
