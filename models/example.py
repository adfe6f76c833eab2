"""Stores what a model answers to a picture: python models/example.py models/NAME IMAGE.png OUT

OUT gets image.png, mask.png and answer.json with the model file's hash, the mean probability of each class
and where the picture is from. The tests compare the model of every folder with what is stored.

Shapes: H height, W width, C channels, K classes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import axialcli
from axialcli.backends.model_file import file_hash


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("image", type=Path, help="the picture; of a classifier, one tile")
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--source", required=True, help="where the picture is from, and its licence")
    args = parser.parse_args()
    image_HWC = np.asarray(Image.open(args.image).convert("RGB"))
    mask_HW, means = answer(args.model / "model.safetensors", image_HWC)
    args.out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image_HWC).save(args.out / "image.png", optimize=True)
    Image.fromarray(mask_HW).save(args.out / "mask.png", optimize=True)
    said: dict[str, Any] = {
        "sha256": file_hash(args.model / "model.safetensors"),
        "mean_probability": {name: round(mean, 5) for name, mean in means.items()},
        "source": args.source,
    }
    (args.out / "answer.json").write_text(json.dumps(said, indent=1) + "\n")


def answer(weights: Path, image_HWC: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], dict[str, float]]:
    """The mask of a picture, of a classifier 1 x 1, and the mean probability of each class."""
    model = axialcli.load_model(weights, device="cpu")
    probs = model.predict(image_HWC.transpose(2, 0, 1)[None])[0]
    probs_KHW = probs.reshape(len(probs), *(probs.shape[1:] or (1, 1)))
    means = probs_KHW.mean((1, 2), dtype=np.float64)
    names = [entry.name for entry in model.spec.classes]
    return probs_KHW.argmax(0).astype(np.uint8), dict(zip(names, means.tolist(), strict=True))


if __name__ == "__main__":
    main()
