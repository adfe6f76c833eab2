"""The run report: what was made of what, with which settings, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialcli.config import FEW_CLASSES, ClassInfo
from axialcli.output.files import write_file


def write_report(path: Path, report: Mapping[str, Any]) -> Path:
    """Writes `report` as sorted, indented ASCII JSON and syncs it. Returns `path`.

    Control characters and other letters are escaped, so that a file's name cannot play tricks on a
    terminal. `path` lies in the work folder: `publish` makes the report appear in one step. Raises
    OutputError, and ValueError where a number is not finite.
    """
    text = json.dumps(report, sort_keys=True, indent=2, ensure_ascii=True, allow_nan=False)
    # JSON leaves this one control character as it is.
    return write_file(path, text.replace("\x7f", "\\u007f").encode("ascii") + b"\n")


def class_areas(
    counts: Sequence[int] | NDArray[np.integer[Any]],
    classes: Sequence[ClassInfo],
    mpp: tuple[float, float] | None,
    beyond: Sequence[float] | NDArray[np.float64] | float = 0.0,
) -> list[dict[str, Any]]:
    """Each class's label, name, pixels, share of the slide (0..1) and area in um² (None without mpp).

    Of more than 256 classes those that have pixels. counts: pixels per class. beyond: how much of them does
    not lie on the slide. mpp: (y, x) microns per pixel.
    """
    on_slide = np.asarray(counts) - beyond
    total = float(on_slide.sum())
    pixel_um2 = None if mpp is None else mpp[0] * mpp[1]
    return [
        {
            "label": label,
            "name": entry.name,
            "pixels": int(pixels),
            "share": float(there) / total if total else 0.0,
            "area_um2": None if pixel_um2 is None else float(there) * pixel_um2,
        }
        for label, (entry, pixels, there) in enumerate(zip(classes, counts, on_slide, strict=True))
        if len(classes) <= FEW_CLASSES or pixels
    ]


def class_volumes(
    counts: Sequence[int] | NDArray[np.integer[Any]], classes: Sequence[ClassInfo], voxel_um3: float | None
) -> list[dict[str, Any]]:
    """Each class's name, voxels, share of all voxels (0..1) and volume in um³ (None where it is not known).

    counts: voxels per class. voxel_um3: the volume of one.
    """
    total = int(np.sum(counts))
    return [
        {
            "name": entry.name,
            "voxels": int(voxels),
            "share": int(voxels) / total if total else 0.0,
            "volume_um3": None if voxel_um3 is None else int(voxels) * voxel_um3,
        }
        for entry, voxels in zip(classes, counts, strict=True)
    ]
