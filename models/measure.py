"""Measures a nuclei model: python models/measure.py DATA [--model nuclei]

Each validation picture is written as a TIFF, predicted by `axialcli.predict`, and its mask read back
from the file. Prints the mean Dice per picture for each modality, for dsb2018 and for tnbc, as JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from pictures import Picture, read_pictures

import axialcli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with dsb2018/ and tnbc/")
    parser.add_argument("--model", default="nuclei")
    args = parser.parse_args()
    # dsb2018 has no microns per pixel; that it says so 59 times helps nobody.
    logging.getLogger("axial").setLevel(logging.ERROR)
    print(json.dumps(measure(read_pictures(args.data, "val"), axialcli.load_model(args.model)), indent=1))


def measure(pictures: list[Picture], model: axialcli.Model) -> dict[str, dict[str, float]]:
    """Mean and lowest Dice per group of pictures, and how many pictures."""
    scores: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for picture in pictures:
            score = dice(predict_picture(picture, model, Path(folder)), picture.label_HW)
            scores[picture.modality].append(score)
            if picture.modality != "tnbc":
                scores["dsb2018"].append(score)
    return {
        name: {
            "dice": round(float(np.mean(found)), 4),
            "lowest": round(min(found), 4),
            "pictures": len(found),
        }
        for name, found in sorted(scores.items())
    }


def predict_picture(picture: Picture, model: axialcli.Model, folder: Path) -> NDArray[np.uint8]:
    """The mask that `predict` writes for a picture saved as a tiled TIFF."""
    slide, mask = folder / "slide.tif", folder / "mask.tif"
    scale = {"resolution": (1e4 / 0.25, 1e4 / 0.25), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(
        slide,
        picture.image_HWC,
        photometric="rgb",
        tile=(256, 256),
        compression="zlib",
        **(scale if picture.modality == "tnbc" else {}),
    )
    axialcli.predict(slide, mask, model=model, force=True)
    return np.asarray(tifffile.imread(mask, level=0), np.uint8)


def dice(mask_HW: NDArray[np.uint8], label_HW: NDArray[np.uint8]) -> float:
    """2 |A and B| / (|A| + |B|) of the foregrounds; 1 where both are empty."""
    total = np.count_nonzero(mask_HW) + np.count_nonzero(label_HW)
    return 2 * np.count_nonzero(mask_HW & label_HW) / total if total else 1.0


if __name__ == "__main__":
    main()
