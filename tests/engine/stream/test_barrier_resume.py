"""Scratch files survive a kill: the same command goes on, and its numbers are the same, bit by bit."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from axialcli.engine.stream.scratch import JOURNAL
from axialcli.engine.stream.store import ScratchStore
from axialcli.errors import OutputError
from tests.engine.stream.barriers import barrier_flow, last_sweep, prepared
from tests.engine.stream.networks import randomised
from tests.engine.stream.whole import DeepNet, WholeNet

IMAGE_BCHW = torch.randn(1, 3, 43, 50, generator=torch.Generator().manual_seed(0))
NETWORK = randomised(WholeNet(order="width_height", depth=2), 1, torch.float32)
PLAN = {"steps": [16, 3, 16, 3, 24]}
NEVER = 1e9


class Killed(BaseException):
    """The process ends here."""


def answer(folder: Path, network: Any = NETWORK, plan: Any = PLAN, note_s: float = NEVER) -> Tensor:
    """Runs, or goes on, to the end; the scratch files stay."""
    flow = barrier_flow(network, IMAGE_BCHW, scratch=folder, plan=plan)
    try:
        assert prepared(flow, IMAGE_BCHW, note_s)
        return last_sweep(flow, IMAGE_BCHW)
    finally:
        flow.close()


@pytest.fixture
def whole(tmp_path: Path) -> Tensor:
    (tmp_path / "whole").mkdir()
    return answer(tmp_path / "whole")


def kill_at(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """The write of that number ends the process in its middle."""
    put: Callable[..., None] = ScratchStore._put
    writes = [0]

    def put_or_die(self: ScratchStore, slot: int, y: int, x: int, part: Any) -> None:
        writes[0] += 1
        if writes[0] == count:
            # What a kill leaves of a write may be anything.
            put(self, slot, y, x, part * 0 + 7)
            raise Killed
        put(self, slot, y, x, part)

    monkeypatch.setattr(ScratchStore, "_put", put_or_die)


@pytest.mark.parametrize("note_s", [0.0, NEVER])
def test_a_kill_at_any_write_changes_no_bit(
    tmp_path: Path, whole: Tensor, monkeypatch: pytest.MonkeyPatch, note_s: float
) -> None:
    killed = 0
    while True:
        killed += 1
        folder = tmp_path / str(killed)
        folder.mkdir()
        with monkeypatch.context() as patch:
            kill_at(patch, killed)
            try:
                answer(folder, note_s=note_s)
            except Killed:
                pass
            else:
                break
        assert torch.equal(answer(folder, note_s=note_s), whole)
        shutil.rmtree(folder)
    assert killed > 30


def test_kill_after_kill_comes_to_the_end(
    tmp_path: Path, whole: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(1000):
        with monkeypatch.context() as patch:
            # Eight pieces a life: less than a pass has, more than are written between two notes.
            kill_at(patch, 8)
            try:
                assert torch.equal(answer(tmp_path, note_s=0), whole)
                return
            except Killed:
                pass
    raise AssertionError("it never came to its end")


def test_attention_at_two_strides_survives_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = randomised(DeepNet(order="parallel"), 1, torch.float32)
    plan = {"steps": [8, 2, 16, 3, 8, 5, 8]}
    (tmp_path / "whole").mkdir()
    whole = answer(tmp_path / "whole", network, plan)
    for count in range(3, 60, 7):
        folder = tmp_path / str(count)
        folder.mkdir()
        with monkeypatch.context() as patch:
            kill_at(patch, count)
            with pytest.raises(Killed):
                answer(folder, network, plan, note_s=0)
        assert torch.equal(answer(folder, network, plan), whole)


def test_finished_passes_are_not_run_again(tmp_path: Path, whole: Tensor) -> None:
    answer(tmp_path)
    flow = barrier_flow(NETWORK, IMAGE_BCHW, scratch=tmp_path, plan=PLAN)

    def read_rows(start: int, stop: int) -> Tensor:
        raise AssertionError("the first sweep is over")

    assert flow.prepare(read_rows)
    assert torch.equal(last_sweep(flow, IMAGE_BCHW, 21), whole[:, :, 21:])
    flow.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def scratch_of(parent: Path) -> Path:
    (folder,) = (path for path in parent.iterdir() if path.name.startswith("axial-"))
    return folder


def shorten(folder: Path) -> None:
    os.truncate(folder / "features-1.bin", 100)


def lose(folder: Path) -> None:
    (folder / "features-0.bin").unlink()


def scribble(folder: Path) -> None:
    lines = (folder / JOURNAL).read_bytes().splitlines(keepends=True)
    (folder / JOURNAL).write_bytes(b"".join([lines[0], b"0" + lines[1][1:], *lines[2:]]))


@pytest.mark.parametrize("damage", [shorten, lose, scribble])
def test_damaged_scratch_files_start_over(
    tmp_path: Path, whole: Tensor, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    answer(tmp_path)
    damage(scratch_of(tmp_path))
    with caplog.at_level(logging.WARNING, "axial"):
        assert torch.equal(answer(tmp_path), whole)
    assert "damaged; starting over" in caplog.text


def test_work_for_another_picture_is_dropped(
    tmp_path: Path, whole: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    other = barrier_flow(
        NETWORK, IMAGE_BCHW * 2, scratch=tmp_path, plan=PLAN, fingerprint={"slide": "another"}
    )
    prepared(other, IMAGE_BCHW * 2)
    other.close()
    with caplog.at_level(logging.WARNING, "axial"):
        assert torch.equal(answer(tmp_path), whole)
    assert "it was another run; starting over" in caplog.text


def test_the_torn_end_of_the_journal_is_no_damage(
    tmp_path: Path, whole: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    answer(tmp_path)
    with (scratch_of(tmp_path) / JOURNAL).open("ab") as file:
        file.write(b'0123abcd {"stage":9')
    assert torch.equal(answer(tmp_path), whole)
    assert not caplog.records


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    first, second = (barrier_flow(NETWORK, IMAGE_BCHW, scratch=tmp_path, plan=PLAN) for _ in range(2))
    prepared(first, IMAGE_BCHW)
    with pytest.raises(OutputError, match="in use by another run"):
        prepared(second, IMAGE_BCHW)
    first.remove()
    assert prepared(second, IMAGE_BCHW)
    second.remove()


def test_what_others_put_into_the_folder_stays(tmp_path: Path) -> None:
    flow = barrier_flow(NETWORK, IMAGE_BCHW, scratch=tmp_path, plan=PLAN)
    prepared(flow, IMAGE_BCHW)
    theirs = scratch_of(tmp_path) / "notes.txt"
    theirs.write_text("mine")
    flow.remove()
    assert list(theirs.parent.iterdir()) == [theirs]


def test_a_full_disk_is_one_line_and_the_work_goes_on_after_it(
    tmp_path: Path, whole: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(ScratchStore, "_put", full)
        with pytest.raises(OutputError, match=r"No space left on device; free some space, or .*--scratch"):
            answer(tmp_path)
    assert torch.equal(answer(tmp_path), whole)


def test_the_plan_of_the_work_that_is_there_is_repeated(
    tmp_path: Path, whole: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    answer(tmp_path)
    poor = barrier_flow(NETWORK, IMAGE_BCHW, scratch=tmp_path, max_bytes=1000)
    assert poor.plan == PLAN
    poor.check()
    assert torch.equal(answer(tmp_path, plan=None), whole)
    assert [record.getMessage() for record in caplog.records] == [
        f"{scratch_of(tmp_path)} is continued, its plan takes more memory than there is now; "
        "delete it to start over with less"
    ]
    other = barrier_flow(NETWORK, IMAGE_BCHW, scratch=tmp_path, fingerprint={"slide": "another"})
    assert other.plan != PLAN


def test_files_of_an_ended_run_can_be_removed_later(tmp_path: Path, whole: Tensor) -> None:
    answer(tmp_path)
    barrier_flow(NETWORK, IMAGE_BCHW, scratch=tmp_path, plan=PLAN).remove()
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
