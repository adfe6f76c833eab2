"""Labelled tiles of eurosat: reading them, and drawing batches of augmented ones.

Shapes: N tiles, B batch, H height, W width, C channels, K classes. Tiles are uint8 RGB of 64 x 64 pixels.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE_PX = 64


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Tiles and what they show. labels_N: places in the recipe's list of classes."""

    images_NHWC: NDArray[np.uint8]
    labels_N: NDArray[np.int64]


def read_tiles(data: Path, split: str, folders: list[str]) -> Tiles:
    """All tiles of one split ("train" or "val") of eurosat/images.zip, which holds `split/Class/name.jpg`.

    folders: the folder of each class, in the order of the classes. Raises KeyError for any other.
    """
    place = {folder: index for index, folder in enumerate(folders)}
    images, labels = [], []
    with zipfile.ZipFile(data / "eurosat" / "images.zip") as archive:
        for name in sorted(archive.namelist()):
            if name.startswith(f"{split}/") and name.endswith(".jpg"):
                images.append(np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")))
                labels.append(place[name.split("/")[1]])
    return Tiles(images_NHWC=np.stack(images), labels_N=np.array(labels))


@dataclass(frozen=True, kw_only=True)
class TileAugmentation:
    """What may happen to a tile, besides the eight turns and flips.

    shift: pixels, at most; what comes in is the tile's own mirror image. light: of each channel's
    brightness and contrast, the standard deviation. mixup: alpha of the share of a second tile, 0 for none.
    smoothing: the share of a label that all classes have together.
    """

    shift: int
    light: float
    mixup: float
    smoothing: float


def draw_tiles(
    tiles: Tiles, batch: int, classes: int, settings: dict[str, Any], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Augmented tiles [B, H, W, C] and the probability of each class that is to be answered [B, K]."""
    augmentation = TileAugmentation(**settings)
    chosen_B = rng.choice(len(tiles.labels_N), size=batch, replace=False)
    images_BHWC = np.stack([_moved(tiles.images_NHWC[index], augmentation.shift, rng) for index in chosen_B])
    light_BC = rng.normal(0, augmentation.light, (2, batch, 1, 1, 3)).astype(np.float32)
    values_BHWC = (images_BHWC - 128.0) * (1 + light_BC[0]) + 128 + 255 * light_BC[1] * 0.5
    wanted_BK = np.full((batch, classes), augmentation.smoothing / classes, np.float32)
    wanted_BK[np.arange(batch), tiles.labels_N[chosen_B]] += 1 - augmentation.smoothing
    if augmentation.mixup:
        share = rng.beta(augmentation.mixup, augmentation.mixup)
        other = rng.permutation(batch)
        values_BHWC = share * values_BHWC + (1 - share) * values_BHWC[other]
        wanted_BK = np.asarray(share * wanted_BK + (1 - share) * wanted_BK[other], np.float32)
    return np.asarray(np.clip(values_BHWC, 0, 255), np.uint8), wanted_BK


def _moved(image_HWC: NDArray[np.uint8], shift: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The tile turned, flipped and shifted."""
    image_HWC = np.rot90(image_HWC, int(rng.integers(4)))
    if rng.integers(2):
        image_HWC = image_HWC[:, ::-1]
    y, x = rng.integers(0, 2 * shift + 1, 2)
    around_HWC = np.pad(image_HWC, ((shift, shift), (shift, shift), (0, 0)), mode="reflect")
    return around_HWC[y : y + SIDE_PX, x : x + SIDE_PX]
