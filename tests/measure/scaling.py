"""How the cost of attention grows with the tokens: python tests/measure/scaling.py --out FOLDER

Attention alone, projections left out on all sides: queries, keys and values of 64 channels in 2 heads are
there, in one tensor, and what is measured is the way from them to what was attended. "global" is torch's
fused attention of every token to every token, which keeps no scores; "global, scores kept" is the textbook's
product, softmax, product; "window" is attention within windows of 8 x 8; "axial" is the rows and then the
columns, each without a span. All but the second are axialcli's own.

Every point is a process of its own; one whose first repeat takes half a minute has no second. Time is the
median of its repeats, memory is what the process's peak rises by over its input in the first of them, after
a run of 16 x 16 tokens has loaded the kernels. Exponents are slopes of straight lines through the logarithms
(least squares), over the tokens, not the sides.

Leaves scaling.json, scaling.txt and scaling.png in the folder. Needs Linux, and matplotlib for the picture.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before torch is loaded: threads that wait are not to take a core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torch.nn.functional as F
from torch import Tensor

from axialcli.bench.machine import describe_machine
from axialcli.engine.memory import peak_resident_bytes, resident_bytes
from axialcli.nn.attention import attend
from axialcli.nn.windows import attend_in_windows

CHANNELS, HEADS, WINDOW = 64, 2, 8

WARM_UP = 16
"""Side of the grid that libraries and threads are woken up with."""

FIT_FROM = 64
"""Sides from here on count for the exponent of time: below, calling an operator costs as much as its work."""

FIT_BYTES = 4 << 20
"""From here on memory counts for its exponent: below, it is what the allocator happened to hold."""

LEAST, MOST = 3, 25
"""Repeats of a point. One alone is enough where it takes LONG_S."""

LONG_S = 30.0

EXPECTED = {"global": 2.0, "global, scores kept": 2.0, "axial": 1.5, "window": 1.0}
"""Exponents of the time, by the number of products."""


def heads_of(qkv_1HWC: Tensor) -> Tensor:
    """The input seen as [1, H, W, 3, A, D]."""
    return qkv_1HWC.view(*qkv_1HWC.shape[:3], 3, HEADS, -1)


def everywhere(qkv_1HWC: Tensor) -> Tensor:
    q, k, v = heads_of(qkv_1HWC).flatten(1, 2).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v)


def everywhere_by_the_textbook(qkv_1HWC: Tensor) -> Tensor:
    q, k, v = heads_of(qkv_1HWC).flatten(1, 2).permute(2, 0, 3, 1, 4)
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1) @ v


def in_windows(qkv_1HWC: Tensor) -> Tensor:
    return attend_in_windows(qkv_1HWC, None, HEADS, WINDOW)


def along_both_axes(qkv_1HWC: Tensor) -> Tensor:
    parts = heads_of(qkv_1HWC)
    q, kv = parts.select(-3, 0), parts.narrow(-3, 1, 2)
    # What the rows gave is let go before the columns begin, as where one layer follows another.
    attend(q, kv, None, after=0, band_AQK=None)
    return attend(q, kv, None, after=1, band_AQK=None)


WAYS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "global": (everywhere, (32, 64, 128, 256, 512)),
    "global, scores kept": (everywhere_by_the_textbook, (32, 64, 96)),
    "axial": (along_both_axes, (32, 64, 128, 256, 512, 1024)),
    "window": (in_windows, (32, 64, 128, 256, 512, 1024)),
}
"""What is measured, and at which sides."""


def measure(way: str, side: int, seconds: float) -> dict[str, Any]:
    """In a process of its own: a point's repeats, and the memory beside its input."""
    run, _ = WAYS[way]
    with torch.inference_mode():
        run(torch.randn(1, WARM_UP, WARM_UP, 3 * CHANNELS))
        given_1HWC = torch.randn(1, side, side, 3 * CHANNELS)
        # The peak begins anew: loading torch may have taken more than a small point does.
        Path("/proc/self/clear_refs").write_text("5")
        before, taken = resident_bytes(), []
        began = time.perf_counter()
        while True:
            start = time.perf_counter()
            run(given_1HWC)
            taken.append(time.perf_counter() - start)
            if len(taken) == 1:
                extra = max(0, peak_resident_bytes() - before)
            enough = len(taken) >= LEAST and time.perf_counter() - began >= seconds
            if enough or len(taken) >= MOST or taken[0] >= LONG_S:
                break
    return {"way": way, "side": side, "tokens": side * side, "seconds": taken, "extra_bytes": extra}


def point(way: str, side: int, seconds: float, threads: int) -> dict[str, Any]:
    """Runs `measure` in a fresh process."""
    given = ["--way", way, "--side", side, "--seconds", seconds, "--threads", threads]
    answer = subprocess.check_output([sys.executable, __file__, *map(str, given)], text=True)
    found: dict[str, Any] = json.loads(answer)
    return {**found, "median_s": statistics.median(found["seconds"])}


def slope(points: list[tuple[float, float]]) -> float | None:
    """Of the straight line through the logarithms, by least squares; None for fewer than two points."""
    if len(points) < 2:
        return None
    xs, ys = ([math.log(value) for value in values] for values in zip(*points, strict=True))
    x0, y0 = statistics.fmean(xs), statistics.fmean(ys)
    return sum((x - x0) * (y - y0) for x, y in zip(xs, ys, strict=True)) / sum((x - x0) ** 2 for x in xs)


def exponents(rows: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Of each way: of the time, of its last doubling of the side alone, and of the memory."""
    found = {}
    for way in WAYS:
        mine = [row for row in rows if row["way"] == way]
        times = [(row["tokens"], row["median_s"]) for row in mine if row["side"] >= FIT_FROM]
        memory = [(row["tokens"], row["extra_bytes"]) for row in mine if row["extra_bytes"] >= FIT_BYTES]
        found[way] = {"time": slope(times), "last": slope(times[-2:]), "memory": slope(memory)}
    return found


def table(report: dict[str, Any]) -> str:
    """The report in lines."""
    machine = report["machine"]
    lines = [
        f"Attention alone, {CHANNELS} channels, {HEADS} heads, windows of {WINDOW} x {WINDOW}, float32,"
        f" {report['threads']} threads, {machine['processor']}, torch {machine['versions']['torch']}",
        "",
        f"{'way':22}{'tokens':>14}{'repeats':>9}{'seconds':>12}{'us a token':>12}{'MiB more':>10}",
    ]
    for row in report["points"]:
        per_token = row["median_s"] / row["tokens"] * 1e6
        lines.append(
            f"{row['way']:22}{row['side']:>8} ^ 2{len(row['seconds']):>11}{row['median_s']:>12.4f}"
            f"{per_token:>12.2f}{row['extra_bytes'] / 2**20:>10.1f}"
        )
    head = f"{'exponent, by tokens':22}{'time':>8}{'last two':>10}{'expected':>10}{'memory':>8}"
    lines += ["", head]
    for way, fit in report["exponents"].items():
        time_, last, memory = ("-" if fit[k] is None else f"{fit[k]:.2f}" for k in ("time", "last", "memory"))
        lines.append(f"{way:22}{time_:>8}{last:>10}{EXPECTED[way]:>10.1f}{memory:>8}")
    return "\n".join(lines) + "\n"


def draw(report: dict[str, Any], path: Path) -> None:
    """Time and memory over tokens, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    for axes, what, label in zip(
        figure.subplots(1, 2), ("time", "memory"), ("seconds", "MiB beside the input"), strict=True
    ):
        for way in WAYS:
            mine = [row for row in report["points"] if row["way"] == way]
            if what == "time":
                xy = [(row["tokens"], row["median_s"]) for row in mine]
            else:
                xy = [(r["tokens"], r["extra_bytes"] / 2**20) for r in mine if r["extra_bytes"] >= FIT_BYTES]
            fit = report["exponents"][way][what]
            name = way if fit is None else f"{way}: tokens$^{{{fit:.2f}}}$"
            if xy:
                axes.plot(*zip(*xy, strict=True), marker="o", markersize=4, label=name)
        axes.set_xscale("log", base=4)
        axes.set(yscale="log", xlabel="tokens", ylabel=label)
        # Room for the legend.
        axes.set_ylim(bottom=axes.get_ylim()[0] / 30)
        ticks = sorted({row["tokens"] for row in report["points"] if row["side"] & (row["side"] - 1) == 0})
        axes.set_xticks(ticks, [f"{math.isqrt(tokens)}²" for tokens in ticks])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for the table, the figures and the picture")
    parser.add_argument("--largest", type=int, default=1024, help="no sides beyond this")
    parser.add_argument("--seconds", type=float, default=3, help="for the repeats of a point, at least")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.way:
        json.dump(measure(args.way, args.side, args.seconds), sys.stdout)
        return
    if args.out is None:
        parser.error("--out FOLDER is needed")
    rows = []
    for way, (_, sides) in WAYS.items():
        for side in (side for side in sides if side <= args.largest):
            rows.append(point(way, side, args.seconds, args.threads))
            print(f"{way}, {side} x {side}: {rows[-1]['median_s']:.4f} s", file=sys.stderr)
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "threads": args.threads,
        "channels": CHANNELS,
        "heads": HEADS,
        "window": WINDOW,
        "points": rows,
        "exponents": exponents(rows),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "scaling.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "scaling.txt").write_text(table(report))
    draw(report, args.out / "scaling.png")
    print(table(report), end="")


if __name__ == "__main__":
    main()
