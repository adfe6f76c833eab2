"""In a child: one kind of attention on one grid of tokens."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from axialcli.backends.memory import memory_is_a_limit
from axialcli.bench.budget import repeat_for
from axialcli.bench.ceilings import _device
from axialcli.bench.jobs import Send
from axialcli.engine import peak_resident_bytes
from axialcli.nn.attention import AxialAttention
from axialcli.nn.whole_grid import GlobalAttention
from axialcli.nn.windows import WindowAttention

CHANNELS, HEADS, SPAN, WINDOW = 128, 8, 65, 16

KINDS = ("global", "window", "axial", "axial with span")

LEAST_S = 0.5
"""For repeats, also where the start of the process took its share: small grids take milliseconds."""

WARM_UP = 16
"""Side of the grid that libraries and threads are woken up with."""


def measure_attention(given: dict[str, Any], seconds: float, send: Send) -> None:
    """Seconds of one layer of attention with its projections over `side` x `side` tokens, and the memory that
    it takes beside its input.

    given: kind, one of KINDS; side; device. Axial attention is both of its axes, one after the other.
    """
    device = _device(given["device"])
    with memory_is_a_limit(), torch.inference_mode():
        layer = build(given["kind"]).to(device)
        layer(torch.zeros(1, WARM_UP, WARM_UP, CHANNELS, device=device))
        tokens_BHWC = torch.randn(1, given["side"], given["side"], CHANNELS, device=device)
        before = _peak_bytes(device)

        def once() -> float:
            began = time.perf_counter()
            layer(tokens_BHWC)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken = time.perf_counter() - began
            send({"seconds": taken, "facts": {"extra_bytes": _peak_bytes(device) - before}})
            return taken

        send({"facts": {"tokens": given["side"] ** 2}})
        left_s = float(given["spawned_s"]) + seconds - time.time()
        repeat_for(max(left_s, LEAST_S), once)


def build(kind: str) -> nn.Module:
    """A layer of that kind: tokens [B, H, W, C] to the same shape."""
    torch.manual_seed(0)
    if kind == "global":
        return GlobalAttention(channels=CHANNELS, heads=HEADS).eval()
    if kind == "window":
        return WindowAttention(channels=CHANNELS, heads=HEADS, window=WINDOW).eval()
    span = SPAN if kind == "axial with span" else None
    return nn.Sequential(
        *(
            AxialAttention(
                channels=CHANNELS,
                heads=HEADS,
                axis=axis,
                span=span,
                positions="rotary" if span is None else "bias",
            )
            for axis in ("width", "height")
        )
    ).eval()


def _peak_bytes(device: torch.device) -> int:
    """The most memory that was held so far: the GPU's, or this process's."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return peak_resident_bytes()
