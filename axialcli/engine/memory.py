"""How much memory this process has taken."""

from __future__ import annotations

import sys

import psutil


def peak_resident_bytes() -> int:
    """The largest resident memory of this process so far."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
