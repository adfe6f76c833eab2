"""What the tests of the outputs share: a run as the pipeline does it, and naive references."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from axialcli.config import ClassInfo
from axialcli.geometry import Block, Box, Size
from axialcli.output import Journal, MaskInfo, MaskSink, partial_folder, publish

CLASSES = (
    ClassInfo(name="background", colour=(0, 0, 0)),
    ClassInfo(name='tumör & "stroma" <1>', colour=(255, 0, 10)),
    ClassInfo(name="nuclei", colour=(0, 128, 255)),
    ClassInfo(name="fat", colour=(250, 250, 0)),
)


def make_info(size: tuple[int, int], **changes: Any) -> MaskInfo:
    settings: dict[str, Any] = {"classes": CLASSES, "mpp": (0.5, 0.25), "uuid_seed": "test"}
    return MaskInfo(size=Size(*size), **(settings | changes))


def make_labels(size: tuple[int, int], *, seed: int = 0, cell: int = 7, classes: int = 4) -> np.ndarray:
    """Random squares, with single noisy pixels and an empty corner."""
    rng = np.random.default_rng(seed)
    height, width = size
    coarse = rng.integers(0, classes, (-(-height // cell), -(-width // cell)))
    labels = coarse.repeat(cell, 0).repeat(cell, 1)[:height, :width].astype(np.uint8)
    noise = rng.random(size) < 0.05
    labels[noise] = rng.integers(0, classes, int(noise.sum()))
    labels[: height // 3, : width // 3] = 0
    return labels


def boxes_of(size: tuple[int, int], rows: int = 512, columns: int | None = None) -> list[Box]:
    height, width = size
    columns = columns or -(-width // 512) * 512
    return [
        Box(y, x, min(y + rows, height), min(x + columns, width))
        for y in range(0, height, rows)
        for x in range(0, width, columns)
    ]


def write_mask(
    out: Path,
    labels: np.ndarray,
    *,
    boxes: Iterable[Box] | None = None,
    fingerprint: dict[str, Any] | None = None,
    on_block: Callable[[], None] = lambda: None,
    **changes: Any,
) -> Path:
    """A run of the pipeline, as the package's docstring words it. Continues what it finds."""
    info = make_info(labels.shape, **changes)
    with Journal.open(partial_folder(out), fingerprint or {"input": "a"}) as journal:
        with MaskSink(journal.folder, info) as sink:
            done = {box for box in journal.done if sink.has(box)}
            for box in boxes_of(labels.shape) if boxes is None else boxes:
                if box in done:
                    continue
                part = np.ascontiguousarray(labels[box.y0 : box.y1, box.x0 : box.x1])
                sink.write(Block(box=box, labels_HW=part))
                sink.sync()
                journal.record(box, np.bincount(part.ravel(), minlength=len(info.classes)))
                on_block()
            temp = sink.finish()
        publish(temp, out)
        journal.remove()
    return out


def naive_mode(labels: np.ndarray) -> np.ndarray:
    """Mode of 2x2 by counting; ties to the lowest that is not 0."""
    height, width = labels.shape
    halved = np.zeros((-(-height // 2), -(-width // 2)), labels.dtype)
    rows = labels.tolist()
    for y in range(halved.shape[0]):
        for x in range(halved.shape[1]):
            values = [v for row in rows[2 * y : 2 * y + 2] for v in row[2 * x : 2 * x + 2]]
            best = max(values.count(v) for v in values)
            tied = {v for v in values if values.count(v) == best}
            halved[y, x] = min(tied - {0} or {0}) if len(tied) > 1 else tied.pop()
    return halved


def naive_levels(labels: np.ndarray) -> list[np.ndarray]:
    return _naive_levels(labels.tobytes(), labels.shape, labels.dtype.str)


@cache
def _naive_levels(data: bytes, shape: tuple[int, int], dtype: str) -> list[np.ndarray]:
    levels = [np.frombuffer(data, dtype).reshape(shape)]
    while max(levels[-1].shape) > 512:
        levels.append(naive_mode(levels[-1]))
    return levels


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
