"""axial beside MONAI's sliding window, same weights, same slide: python -m tests.measure.peers

MONAI gets what a script of today does: the whole picture in memory, windows of 512 pixels that share a
quarter, gaussian weights, four at a time, a mask written with tifffile. Every run is a process of its own,
timed from its start to its end, with the environment that users have; the ways take turns, and medians are
compared. Peak memory is the process's largest resident memory. Needs the extra `bench` and Linux.

Shapes: B batch, C channels, K classes, H height, W width.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tifffile
from numpy.typing import NDArray

WINDOW, OVERLAP, BATCH = 512, 0.25, 4

NULL = "null"
"""The network that costs nothing: what is then left is all the rest."""

WAYS = {
    "MONAI": [],
    "stream": ["--engine", "stream"],
    "tiles": ["--engine", "tiles"],
}

LIMITS: dict[tuple[str, str], tuple[float | None, float | None]] = {
    ("model", "stream"): (0.6, 0.4),
    ("model", "tiles"): (1.0, 0.35),
    (NULL, "tiles"): (0.35, None),
}
"""What is promised: at most so much of MONAI's time, and of its memory."""

TIE = 1e-3
"""Two classes whose probabilities, stored as float16, are no farther apart are a tie."""


def run_monai(slide: Path, model: str, mask: Path) -> None:
    """The script of a MONAI user, in the process that is measured."""
    import torch
    from monai.inferers import SlidingWindowInferer

    from axialcli import load_model
    from axialcli.engine import peak_resident_bytes

    loaded = load_model(model, device="cpu")
    output = loaded.spec.output
    if (
        loaded.network is None
        or output.threshold is not None
        or output.activation not in ("softmax", "sigmoid")
    ):
        raise SystemExit("peers: choose a torch model that takes the largest of its logits")
    ready = time.perf_counter()
    pixels_HWC = tifffile.imread(slide, level=0)
    image_BCHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None].float().div_(255)
    mean_C, std_C = (torch.tensor(v)[:, None, None] for v in (loaded.spec.input.mean, loaded.spec.input.std))
    image_BCHW.sub_(mean_C).div_(std_C)
    infer = SlidingWindowInferer(roi_size=WINDOW, sw_batch_size=BATCH, overlap=OVERLAP, mode="gaussian")
    with torch.inference_mode():
        logits_KHW = infer(image_BCHW, loaded.network)[0]
        labels_HW = logits_KHW.argmax(0) if len(logits_KHW) > 1 else logits_KHW[0] > 0
    tifffile.imwrite(mask, labels_HW.to(torch.uint8).numpy(), tile=(512, 512), compression="zlib")
    print(
        json.dumps(
            {
                "peak_resident_bytes": peak_resident_bytes(),
                "work_s": time.perf_counter() - ready,
            }
        )
    )


def child(way: str, slide: Path, model: str, mask: Path) -> dict[str, Any]:
    """One run of one way. Returns seconds and bytes."""
    if way == "MONAI":
        command = ["-m", "tests.measure.peers", "--monai", slide, model, mask]
    else:
        command = ["-m", "axialcli", "predict", slide, "--model", model, "--out", mask, "--force", "--json"]
        command += WAYS[way]
    before = busy_s()
    started = time.perf_counter()
    said = subprocess.run(
        [sys.executable, *map(str, command)], check=True, stdout=subprocess.PIPE, env=environment(), text=True
    )
    seconds = time.perf_counter() - started
    others = (busy_s() - before) / (seconds * (os.cpu_count() or 1))
    # Libraries may print before it, on stdout too.
    report = json.loads(said.stdout[said.stdout.index("{") :])
    return {"seconds": seconds, "bytes": report["peak_resident_bytes"], "others_share": max(0.0, others)}


def busy_s() -> float:
    """Seconds for which others than our children have kept the cores busy, since some moment.

    Threads that wait awake lose far more to them than others do, so a run beside anything else says little.
    """
    times, ours = psutil.cpu_times(), resource.getrusage(resource.RUSAGE_CHILDREN)
    idle = times.idle + getattr(times, "iowait", 0.0)
    # What guests take is in the time of the user already.
    all_s = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return all_s - idle - ours.ru_utime - ours.ru_stime


def environment() -> dict[str, str]:
    """Ours, without what would set threads otherwise than users have it."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "MKL_"))
    }


def compare(kind: str, model: str, slide: Path, folder: Path, repeats: int) -> list[dict[str, Any]]:
    """All ways with one model, taking turns; one row for each."""
    ways = ["MONAI", "tiles"] if kind == NULL else list(WAYS)
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for number in range(repeats):
        for way in ways:
            runs[way].append(child(way, slide, model, folder / f"{way}.tif"))
            run = runs[way][-1]
            said = f"{run['seconds']:.1f} s, others took {100 * run['others_share']:.0f} % of the cores"
            print(f"{kind}, {way}, run {number + 1}: {said}", file=sys.stderr)
    clear_HW = clear(slide, model, folder)
    monai_HW = tifffile.imread(folder / "MONAI.tif")
    rows = []
    for way in ways:
        equal_HW = tifffile.imread(folder / f"{way}.tif", level=0) == monai_HW
        row = {
            "model": kind,
            "way": way,
            "seconds": statistics.median(run["seconds"] for run in runs[way]),
            "bytes": statistics.median(run["bytes"] for run in runs[way]),
            "equal": float(equal_HW.mean()),
            "equal_outside_ties": float(equal_HW[clear_HW].mean()),
            "runs": runs[way],
        }
        base = rows[0] if rows else row
        row["time_ratio"], row["memory_ratio"] = (row[key] / base[key] for key in ("seconds", "bytes"))
        row["time_limit"], row["memory_limit"] = LIMITS.get((kind, way), (None, None))
        rows.append(row)
    return rows


def clear(slide: Path, model: str, folder: Path) -> NDArray[np.bool_]:
    """The pixels [H, W] that are no tie, by the exact answer, from a run that is not timed."""
    from axialcli import predict

    probs = folder / "probs.tif"
    options = {"engine": "stream", "probs_dtype": "float16", "force": True}
    predict(slide, folder / "exact.tif", model=model, probs=probs, **options)  # type: ignore[arg-type]
    probs_KHW = planes(tifffile.imread(probs, level=0))
    best_KHW = np.partition(probs_KHW, len(probs_KHW) - 2, axis=0)[-2:]
    return np.asarray(best_KHW[1].astype(np.float32) - best_KHW[0] > TIE)


def planes(probs: NDArray[Any]) -> NDArray[Any]:
    """Classes first, whichever side a file keeps them on."""
    return probs if probs.shape[0] < probs.shape[-1] else np.moveaxis(probs, -1, 0)


def markdown(found: Mapping[str, Any]) -> Iterator[str]:
    """The table, its machine and its slide described above it."""
    machine = found["machine"]
    others = max(run["others_share"] for row in found["rows"] for run in row["runs"])
    yield (
        f"{found['slide']}; {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; "
        + ", ".join(f"{name} {said}" for name, said in machine["versions"].items())
        + f"; medians of {found['repeats']}, whole processes; beside them others took up to "
        + f"{100 * others:.0f} % of the cores."
    )
    yield ""
    yield "| network | run by | time | of MONAI's | peak memory | of MONAI's | same class | outside ties |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in found["rows"]:
        yield (
            f"| {row['model']} | {row['way']} | {row['seconds']:.1f} s | {ratio(row, 'time')} "
            f"| {row['bytes'] / 2**20:.0f} MiB | {ratio(row, 'memory')} "
            f"| {100 * row['equal']:.3f} % | {100 * row['equal_outside_ties']:.3f} % |"
        )


def ratio(row: Mapping[str, Any], what: str) -> str:
    said, limit = f"{row[what + '_ratio']:.2f}", row[what + "_limit"]
    if limit is None:
        return said
    return f"{said} (limit {limit}, {'kept' if row[what + '_ratio'] <= limit else 'MISSED'})"


def machine() -> dict[str, Any]:
    names = ("axialcli", "monai", "torch", "numpy", "tifffile", "imagecodecs")
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "versions": {"Python": platform.python_version(), **{name: version(name) for name in names}},
    }


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def null_model(folder: Path) -> str:
    from tests.networks import small_model_file

    return str(small_model_file(folder / "null.safetensors"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="nuclei", help="a model of ours; default: nuclei")
    parser.add_argument("--size", default="8192", help="of the slide, as `axial sample` takes it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["model", NULL], help="one of the two networks")
    parser.add_argument("--json", type=Path, help="also write all runs to this file")
    parser.add_argument("--monai", nargs=3, metavar=("SLIDE", "MODEL", "MASK"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.monai:
        slide, model, mask = given.monai
        run_monai(Path(slide), model, Path(mask))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide = folder / "slide.tif"
        sample = ["-m", "axialcli", "sample", slide, "--size", given.size]
        subprocess.run([sys.executable, *map(str, sample)], check=True, stdout=sys.stderr)
        kinds = {"model": given.model, NULL: null_model(folder)}
        rows = [
            row
            for kind, model in kinds.items()
            if given.only in (None, kind)
            for row in compare(kind, model, slide, folder, given.repeats)
        ]
        with tifffile.TiffFile(slide) as file:
            page = file.pages.first
            said = f"{page.imagewidth} x {page.imagelength} pixels, {page.compression.name}"
    found = {"slide": said, "repeats": given.repeats, "machine": machine(), "rows": rows}
    print("\n".join(markdown(found)))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
