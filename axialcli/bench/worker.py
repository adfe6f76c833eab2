"""The parent's side of a measurement: a fresh process, its lines, and what its failure means."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Timer
from typing import IO, Any

from axialcli.bench.jobs import Job
from axialcli.config import WAITING

MODULE = "axialcli.bench.child"


@dataclass(kw_only=True)
class Outcome:
    """What came of a job. failure: in one line, why it did not get to its end; None where it did.

    What arrived before a failure is kept. exit_code: of the error, as the command line would answer it.
    process_s: from the start of the process to its end.
    """

    seconds: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None
    exit_code: int = 0
    process_s: float = 0.0


def run_job(job: Job, *, limit_s: float, env: Mapping[str, str] | None = None) -> Outcome:
    """Runs a job in a process of its own, so that its peak memory is its own, for `limit_s` at most."""
    outcome, began = Outcome(), time.perf_counter()
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env={**WAITING, **os.environ, **(env or {}), "PYTHONPATH": _python_path()},
        )
        late = Event()

        def end() -> None:
            late.set()
            child.kill()

        timer = Timer(limit_s, end)
        timer.daemon = True
        timer.start()
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            _tell(child.stdin, {**job.to_json(), "spawned_s": time.time()})
            complete = _listen(child.stdout, outcome)
            code = child.wait()
            outcome.process_s = time.perf_counter() - began
        finally:
            timer.cancel()
            child.kill()
            child.wait()
            child.stdout.close()  # type: ignore[union-attr] # a pipe, as was asked for
        if not complete:
            outcome.failure = _reason(code, limit_s if late.is_set() else None, said)
    return outcome


def _python_path() -> str:
    """The child finds the same axialcli, wherever it is started."""
    own = str(Path(__file__).parents[2])
    given = os.environ.get("PYTHONPATH")
    return f"{own}{os.pathsep}{given}" if given else own


def _tell(pipe: IO[bytes], message: dict[str, Any]) -> None:
    try:
        with pipe:
            pipe.write(json.dumps(message).encode())
    except BrokenPipeError:
        # It has ended already; what it said tells why.
        return


def _listen(pipe: IO[bytes], outcome: Outcome) -> bool:
    """Takes the child's lines until it ends; whether it came to its own end."""
    for line in pipe:
        try:
            message = json.loads(line)
        except ValueError:
            # Killed while it wrote.
            return False
        if "done" in message:
            return True
        if "error" in message:
            outcome.failure, outcome.exit_code = message["error"], message["exit_code"]
            return True
        outcome.seconds += [message["seconds"]] if "seconds" in message else []
        outcome.facts.update(message.get("facts", {}))
    return False


def _reason(code: int, limit_s: float | None, said: IO[bytes]) -> str:
    if limit_s is not None:
        return f"not finished after {limit_s:.0f} s: give more --seconds"
    if code < 0:
        name = signal.Signals(-code).name
        return (
            "killed by the system, most likely for lack of memory"
            if name == "SIGKILL"
            else f"crashed ({name})"
        )
    said.seek(0)
    lines = said.read().decode(errors="replace").strip().splitlines()
    return f"failed ({lines[-1][:120]})" if lines else f"failed with exit code {code}"
