"""How long each stage of a run has taken."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up wall-clock seconds by stage. Stages overlap in time, so they do not add up to the whole."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._on_gpu: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, name: str, device: torch.device | None = None) -> Iterator[None]:
        """Counts the time inside the context for the stage `name`.

        device: where the stage computes. A GPU's work is only queued inside the context: what counts then
        is the time that the GPU takes from the first of it to the last.
        """
        if device is not None and device.type == "cuda":
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            stream = torch.cuda.current_stream(device)
            first.record(stream)
            try:
                yield
            finally:
                last.record(stream)
                with self._lock:
                    self._on_gpu.append((name, first, last))
            return
        started = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._seconds[name] += time.perf_counter() - started

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, rounded to milliseconds. Waits for what a GPU still has to do."""
        with self._lock:
            for name, first, last in self._on_gpu:
                last.synchronize()
                self._seconds[name] += first.elapsed_time(last) / 1000
            self._on_gpu.clear()
            return {name: round(seconds, 3) for name, seconds in self._seconds.items()}
