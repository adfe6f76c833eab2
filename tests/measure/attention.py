"""What axial attention costs on two threads: python tests/measure/attention.py

Attention alone, projections left out on all sides: queries, keys and values are there, and both axes
are attended one after the other. 128 channels in 8 heads; medians of interleaved repeats; memory is what
the process's peak rises by in a fresh process, after a small run of the same has loaded the kernels.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Before torch is loaded: threads that wait are not to take a core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

from axialcli.nn.attention import QUERY_CHUNK, AxialAttention, attend

CHANNELS, HEADS, SPAN = 128, 8, 65


def materialised(q_HWAD: Tensor, kv_HW2AD: Tensor) -> Tensor:
    """Both axes as einsum, softmax, einsum, with all scores in memory; returns the last axis' output."""
    k_HWAD, v_HWAD = kv_HW2AD.unbind(2)
    scale = q_HWAD.shape[-1] ** -0.5
    scores = torch.einsum("hqad,hkad->haqk", q_HWAD, k_HWAD) * scale
    torch.einsum("haqk,hkad->hqad", scores.softmax(-1), v_HWAD)
    del scores
    scores = torch.einsum("qwad,kwad->waqk", q_HWAD, k_HWAD) * scale
    return torch.einsum("waqk,kwad->qwad", scores.softmax(-1), v_HWAD)


def fused(q_HWAD: Tensor, kv_HW2AD: Tensor, span: int | None) -> Tensor:
    """Both axes by axialcli, with a relative bias where there is a span; returns the last axis' output."""
    out = q_HWAD[None]
    for after, band_AQK in enumerate((band(span), band(span))):
        out = attend(q_HWAD[None], kv_HW2AD[None], None, after=after, band_AQK=band_AQK)
    return out[0]


def band(span: int | None) -> Tensor | None:
    if span is None:
        return None
    module = AxialAttention(channels=CHANNELS, heads=HEADS, axis="width", span=span, positions="bias")
    steps_K = torch.arange(QUERY_CHUNK + span - 1)
    return module.band(steps_K[:QUERY_CHUNK] + span // 2, steps_K)


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "materialised": materialised,
    "whole": lambda q, kv: fused(q, kv, None),
    "span": lambda q, kv: fused(q, kv, SPAN),
}


def inputs(side: int) -> tuple[Tensor, Tensor]:
    """Queries [H, W, A, D], keys and values [H, W, 2, A, D]."""
    q = torch.randn(side, side, HEADS, CHANNELS // HEADS)
    return q, torch.randn(side, side, 2, HEADS, CHANNELS // HEADS)


def times(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Medians, in seconds; what is compared takes turns, so that a busy moment hits all alike."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in taken.items()}


def peak_bytes() -> int:
    """The most memory that this process has held (Linux)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def extra_bytes(way: str, side: int) -> int:
    """By how much one run raises the peak of a fresh process."""
    command = [sys.executable, __file__, "--memory-of", way, "--side", str(side)]
    return int(subprocess.check_output(command, text=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=256, help="tokens along each axis")
    parser.add_argument("--large", type=int, default=1024, help="the same for the cost per token")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory-of", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(2)
    with torch.inference_mode():
        if args.memory_of:
            run = WAYS[args.memory_of]
            run(*inputs(16))
            given, before = inputs(args.side), peak_bytes()
            run(*given)
            print(peak_bytes() - before)
        else:
            report(args.side, args.large, args.repeats)


def gain_with_projections(seconds: dict[str, float], side: int, repeats: int) -> float:
    """How much faster "whole" is where the four projections of each axis are counted on both sides."""
    tokens, module = (
        torch.randn(1, side, side, CHANNELS),
        AxialAttention(channels=CHANNELS, heads=HEADS, axis="width", span=None, positions="none"),
    )
    projections = (
        2 * times({"once": lambda: module.proj(module.qkv(tokens)[..., :CHANNELS])}, repeats)["once"]
    )
    return (seconds["materialised"] + projections) / (seconds["whole"] + projections)


def report(side: int, large: int, repeats: int) -> None:
    small_inputs, large_inputs = inputs(side), inputs(large)
    seconds = times({name: lambda run=run: run(*small_inputs) for name, run in WAYS.items()}, repeats)
    memory = {name: extra_bytes(name, side) for name in WAYS}
    print(
        f"{side} x {side} tokens, {CHANNELS} channels, {HEADS} heads, both axes, attention alone, 2 threads"
    )
    for name in WAYS:
        print(f"  {name:14}{seconds[name]:8.3f} s {memory[name] / 1e6:8.0f} MB")
    gain, share = (figures["materialised"] / figures["whole"] for figures in (seconds, memory))
    print(
        f"  whole: {gain:.1f} times faster than materialised (3 wanted), {1 / share:.2f} of its memory (0.25)"
    )
    projected = gain_with_projections(seconds, side, repeats)
    print(f"         {projected:.1f} times with the projections of both axes on both sides")
    print(f"  span:  {seconds['whole'] / seconds['span']:.2f} times faster than whole (above 1 wanted)")
    both = times(
        {
            "small": lambda: WAYS["span"](*small_inputs),
            "large": lambda: WAYS["span"](*large_inputs),
        },
        max(3, repeats // 2),
    )
    ratio = both["large"] / both["small"] * (side / large) ** 2
    print(
        f"cost per token at {large} x {large} against {side} x {side}, span {SPAN}: {ratio:.2f} (1.2 wanted)"
    )
    print(f"  {both['small'] / side**2 * 1e6:.2f} and {both['large'] / large**2 * 1e6:.2f} us a token")


if __name__ == "__main__":
    main()
