"""In a child: `axial predict` itself, from start-up to the published mask."""

from __future__ import annotations

import importlib
import time
from functools import partial
from typing import Any

from axialcli import pipeline
from axialcli.backends import load_model
from axialcli.bench.jobs import Send
from axialcli.engine import apart


def measure_end_to_end(given: dict[str, Any], seconds: float, send: Send) -> None:
    """One run, as a user has it: in a fresh process, nothing warm but the file.

    given: slide, out, model, device, dtype, engine; command: modules that the command line loads besides,
    so that its start-up is counted whole. Sends the seconds from the opened model to the published mask;
    as facts those of start-up, of each stage, and of threads, see the run report.
    """
    for module in given["command"]:
        importlib.import_module(module)
    imports_s = time.time() - given["spawned_s"]
    how = {name: given[name] for name in ("device", "dtype")}
    began = time.perf_counter()
    model = apart(partial(load_model, given["model"], **how))
    load_s = time.perf_counter() - began
    began = time.perf_counter()
    report = pipeline.predict(given["slide"], given["out"], model=model, engine=given["engine"], force=True)
    total_s = time.perf_counter() - began
    send(
        {
            "seconds": total_s,
            "facts": {
                "start_up": {"imports": imports_s, "model": load_s},
                "stages": report["seconds"],
                "thread_seconds": report["thread_seconds"],
                "engine": report["engine"],
                "peak_resident_bytes": report["peak_resident_bytes"],
            },
        }
    )
