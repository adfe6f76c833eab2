"""`python -m axialcli.bench.child`: one measurement in a process of its own; see jobs.py."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any

from axialcli.errors import AxialError

HOMES = {
    "slides": "axialcli.bench.prepare",
    "export": "axialcli.bench.prepare",
    "ceilings": "axialcli.bench.ceilings",
    "decode": "axialcli.bench.codec_alone",
    "encode": "axialcli.bench.codec_alone",
    "end_to_end": "axialcli.bench.end_to_end",
    "network": "axialcli.bench.engines",
    "engine": "axialcli.bench.engines",
    "attention": "axialcli.bench.attention",
}
"""Where the function lies that does a kind of job and has its name: measure_engine(given, seconds, send)."""

WITH_NETWORK = ("end_to_end", "network", "engine")


def main() -> None:
    """Reads a job from standard input and answers in lines of JSON on standard output."""
    job = json.load(sys.stdin)
    # Libraries may print; the answers keep the real output for themselves.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    given = {**job["given"], "spawned_s": job["spawned_s"]}
    try:
        module = importlib.import_module(HOMES[job["kind"]])
        if job["kind"] in WITH_NETWORK:
            # As the command does.
            from axialcli.engine.memory import keep_freed_memory

            keep_freed_memory()
        getattr(module, f"measure_{job['kind']}")(given, job["seconds"], send)
    except AxialError as error:
        send({"error": str(error), "exit_code": error.exit_code})
    except MemoryError:
        send({"error": "out of memory", "exit_code": 6})
    except Exception as error:  # noqa: BLE001 - one measurement that fails is a line in the table
        send({"error": _line(error), "exit_code": 1})
    else:
        send({"done": time.time()})


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:200] if text else type(error).__name__


if __name__ == "__main__":
    main()
