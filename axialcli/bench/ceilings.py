"""In a child: what this device can do at most, against which figures are held."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from axialcli.backends.memory import memory_is_a_limit
from axialcli.bench.budget import repeat_for
from axialcli.bench.jobs import Send
from axialcli.bench.machine import describe_machine
from axialcli.engine import machine_bytes
from axialcli.errors import UsageError

SIDE = {"cpu": 2048, "mps": 4096, "cuda": 8192}
"""Of the square matrices that are multiplied."""

LEAST_BYTES = 256 << 20
"""Of each of three arrays that are streamed, and no less than the last cache."""

MOST_SHARE = 16
"""One in so many bytes of the memory, for each of three arrays."""


def measure_ceilings(given: dict[str, Any], seconds: float, send: Send) -> None:
    """Sends the machine, and seconds of matrix products and of a stream through memory, each as a fact with
    its `amount`: operations and bytes of one repeat.

    given: device; dtypes. The product is of two square matrices. The stream is the triad a = b + s c over
    arrays that are three times the caches at least; two are read and one is written (what a processor
    fetches before it writes does not count). Source: McCalpin's STREAM benchmark.
    """
    send({"facts": {"machine": describe_machine()}})
    device = _device(given["device"])
    each_s = seconds / (len(given["dtypes"]) + 1)
    for name in given["dtypes"]:
        send({"facts": {f"matmul {name}": _matmul(device, getattr(torch, name), each_s)}})
    send({"facts": {"memory": _triad(device, each_s)}})


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no cuda device here")
    return torch.device(name)


def _matmul(device: torch.device, dtype: torch.dtype, seconds: float) -> dict[str, Any]:
    side = SIDE[device.type]
    with memory_is_a_limit():
        a, b = (torch.rand(side, side).to(device, dtype) for _ in range(2))
        out = torch.empty_like(a)
        taken = _repeated(lambda: torch.mm(a, b, out=out), device, seconds)
    return {"seconds": taken, "amount": 2 * side**3, "unit": "flop"}


def _triad(device: torch.device, seconds: float) -> dict[str, Any]:
    size = LEAST_BYTES
    if device.type == "cpu":
        size = min(max(LEAST_BYTES, last_cache_bytes()), machine_bytes() // MOST_SHARE)
    with memory_is_a_limit():
        a, b, c = (torch.ones(size // 4, device=device) for _ in range(3))
        taken = _repeated(lambda: torch.add(b, c, alpha=3.0, out=a), device, seconds)
    return {"seconds": taken, "amount": 3 * a.nbytes, "unit": "byte"}


def _repeated(work: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    taken: list[float] = []

    def once() -> float:
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        taken.append(time.perf_counter() - began)
        return taken[-1]

    once()
    taken.clear()
    repeat_for(seconds, once, most=50)
    return taken


def last_cache_bytes() -> int:
    """The size of the processor's last cache, where Linux says it; otherwise 0."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    units = {"K": 10, "M": 20, "G": 30}
    texts = [path.read_text().strip() for path in sizes]
    return max((int(text[:-1]) << units[text[-1]] for text in texts if text[-1:] in units), default=0)
