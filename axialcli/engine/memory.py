"""How much memory this process has taken, and how its C library keeps what was freed."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

import psutil

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Numbers of glibc's settings, from its malloc.h."""

LARGEST_PIECE, MOST_UNUSED = 32 << 20, 256 << 20
"""The first is as much as every glibc takes."""

ENVIRONMENT = ("MALLOC_", "GLIBC_TUNABLES")
"""How variables begin with which users set the same."""


def keep_freed_memory() -> None:
    """Lets this process's C library, where it is glibc, use memory again that was freed.

    On its own it gives pieces of some MiB back to the system, now and then or each time, as it happens; the
    system clears every page of what it hands out next: up to a tenth of a run's time. It also gives every new
    thread memory of its own, which goes back whatever the thresholds say: here all threads share one.
    For a program, not a library: it is a setting of the whole process. What the environment says of it stays.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(ENVIRONMENT) for name in os.environ):
        return
    mallopt = ctypes.CDLL(None).mallopt
    # The second alone would be worse than neither: it switches off the library's own adjusting of the first.
    if mallopt(M_MMAP_THRESHOLD, LARGEST_PIECE):
        mallopt(M_TRIM_THRESHOLD, MOST_UNUSED)
        mallopt(M_ARENA_MAX, 1)


def machine_bytes() -> int:
    """Memory that this process may use: the machine's, or its container's share of it."""
    total = int(psutil.virtual_memory().total)
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        # No control group, or one that says "max".
        return total


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return int(psutil.Process().memory_info().rss)


def peak_resident_bytes() -> int:
    """The largest resident memory of this process so far."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "linux":
        # getrusage would also count what the parent had before this program was started.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
