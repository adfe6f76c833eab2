"""What a slide's reading shares: its threads, and the counts of what was done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeVar

Job = TypeVar("Job")


@dataclass
class Counts:
    """What a slide has done so far; live.

    decoded_segments: tiles and strips unpacked (rows of unpacked strips are not counted).
    missing_segments: those that the file leaves out and that were filled. file_s, decode_s: seconds spent
    on getting segments out of the file and on unpacking them, summed over the threads.
    """

    decoded_segments: int = 0
    missing_segments: int = 0
    bytes_read: int = 0
    file_s: float = 0.0
    decode_s: float = 0.0
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def add(
        self, *, decoded: int = 0, missing: int = 0, read: int = 0, file_s: float = 0.0, decode_s: float = 0.0
    ) -> None:
        with self._lock:
            self.decoded_segments += decoded
            self.missing_segments += missing
            self.bytes_read += read
            self.file_s += file_s
            self.decode_s += decode_s


class Workers:
    """The threads of one slide, started when first needed."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None

    def run(self, work: Callable[[Sequence[Job]], None], jobs: Sequence[Job], *, at_once: int) -> None:
        """Calls `work` on slices of `jobs`, `at_once` of them at a time; the first error is raised."""
        threads = max(1, min(self.threads, at_once, len(jobs)))
        if threads == 1:
            work(jobs)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="axial-read")
        # A few slices a thread even out unequal speeds; one future a segment would cost more than it gives.
        parts = threads * 4 if threads == self.threads else threads
        step = -(-len(jobs) // parts)
        futures = [self._pool.submit(work, jobs[at : at + step]) for at in range(0, len(jobs), step)]
        wait(futures)
        for future in futures:
            future.result()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
