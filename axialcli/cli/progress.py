"""Progress on a terminal: share, rate, time left, memory. Silent where stderr is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class Bar:
    """One line of progress. update(share, megapixels) with share in 0..1."""

    def __init__(self, progress: Progress, label: str) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=1.0, detail="")
        self._started = time.perf_counter()
        self._first: float | None = None
        self._process = psutil.Process()

    def update(self, share: float, megapixels: float = 0.0, label: str | None = None) -> None:
        """Shows the share that is done, and the rate of the megapixels done since the start.

        label: what is done now, instead of what was said before.
        """
        if label is not None:
            self._progress.update(self._task, description=label)
        if self._first is None:
            # What an earlier run had done does not count into the rate.
            self._first, self._started = megapixels, time.perf_counter()
        elapsed = time.perf_counter() - self._started
        rate = (megapixels - self._first) / elapsed if elapsed > 0 else 0.0
        memory = self._process.memory_info().rss / 2**30
        detail = f"{rate:.1f} Mpx/s, {memory:.1f} GiB" if rate else f"{memory:.1f} GiB"
        self._progress.update(self._task, completed=share, detail=detail)


@contextmanager
def progress_bar(label: str) -> Iterator[Bar]:
    """A bar on stderr while the context lasts; nothing where stderr is no terminal."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        yield Bar(progress, label)
