"""Processes of measurements: what arrives, and what their failures are called."""

from __future__ import annotations

import sys

import pytest

from axialcli.bench import worker
from axialcli.bench.jobs import Job
from axialcli.bench.worker import run_job

LINE = 'import sys; sys.stdout.write(\'{"seconds": 2.5, "facts": {"px": 4}}\\n\'); sys.stdout.flush(); '


def outcome_of(program: str, monkeypatch: pytest.MonkeyPatch, limit_s: float = 60) -> worker.Outcome:
    """What comes of a child that runs this program instead of a measurement."""
    popen = worker.subprocess.Popen

    def start(command: list[str], **more: object) -> object:
        assert command[1:] == ["-m", worker.MODULE]
        return popen([sys.executable, "-c", program], **more)  # type: ignore[call-overload]

    monkeypatch.setattr(worker.subprocess, "Popen", start)
    return run_job(Job(kind="engine", seconds=1), limit_s=limit_s)


def test_repeats_of_a_child_that_is_killed_for_its_time_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = outcome_of(LINE + "import time; time.sleep(60)", monkeypatch, limit_s=1.5)

    assert (outcome.seconds, outcome.facts) == ([2.5], {"px": 4})
    assert outcome.failure == "not finished after 2 s: give more --seconds"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.kill(os.getpid(), 9)", "killed by the system, most likely for lack of memory"),
        ("import os; os.kill(os.getpid(), 6)", "crashed (SIGABRT)"),
        ("raise OSError('gone')", "failed (OSError: gone)"),
        ("import sys; sys.exit(7)", "failed with exit code 7"),
        ("print('{\"seco')", "failed with exit code 0"),
    ],
)
def test_a_child_that_ends_badly_has_a_reason(
    program: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outcome_of(program, monkeypatch).failure == reason


def test_an_error_of_axial_arrives_with_its_exit_code() -> None:
    job = Job(kind="slides", seconds=0, given={"model": "nosuch", "device": "cpu", "dtype": "auto"})

    outcome = run_job(job, limit_s=600)

    assert outcome.exit_code == 4
    assert "no model 'nosuch'" in str(outcome.failure)
