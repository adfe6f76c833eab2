"""The scripts of models/ are no package: tests import them by their names, as the scripts do themselves."""

from __future__ import annotations

import csv
import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "models"))


def png(path: Path, array: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def index(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of dsb2018, two patients of tnbc, one joined tile of dubai, four tiles of eurosat."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(1)
    objects_HW = np.zeros((40, 50), np.uint16)
    objects_HW[4:14, 5:15], objects_HW[4:14, 15:25], objects_HW[25:35, 30:44] = 1, 300, 7
    for name, set_name in (("a", "dsb2018"), ("b", "dsb2018"), ("1_1", "tnbc"), ("2_1", "tnbc")):
        stored = objects_HW if set_name == "dsb2018" else (objects_HW > 0).astype(np.uint8)
        png(folder / set_name / "images" / f"{name}.png", rng.integers(0, 256, (40, 50, 3), np.uint8))
        png(folder / set_name / "labels" / f"{name}.png", stored)
    index(
        folder / "dsb2018" / "index.csv",
        [{"id": "a", "split": "train", "modality": "fluo"}, {"id": "b", "split": "val", "modality": "he"}],
    )
    index(
        folder / "tnbc" / "index.csv",
        [{"id": "1_1", "split": "train", "patient": "1"}, {"id": "2_1", "split": "val", "patient": "2"}],
    )
    parts = []
    for y in range(3):
        for x in range(3):
            name, shape = f"part{y}{x}", (20 + y, 30 + x)
            parts.append({"id": name, "split": "train", "tile": "1", "row": y, "col": x})
            png(folder / "dubai" / "labels" / f"{name}.png", np.full(shape, (3 * y + x) % 6, np.uint8))
            (folder / "dubai" / "images").mkdir(exist_ok=True)
            Image.fromarray(np.full((*shape, 3), 25 * (3 * y + x), np.uint8)).save(
                folder / "dubai" / "images" / f"{name}.jpg", quality=100
            )
    index(folder / "dubai" / "index.csv", parts)
    (folder / "eurosat").mkdir()
    with zipfile.ZipFile(folder / "eurosat" / "images.zip", "w") as archive:
        for number, name in enumerate(("train/Sea/1", "train/Sea/2", "train/Land/1", "val/Land/2")):
            buffer = io.BytesIO()
            Image.fromarray(np.full((64, 64, 3), 50 * number, np.uint8)).save(buffer, "JPEG")
            archive.writestr(f"{name}.jpg", buffer.getvalue())
    return folder
