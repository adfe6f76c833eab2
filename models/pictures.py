"""Labelled pictures for training: cutting samples out of them, augmenting the samples.

Shapes: H height, W width, C channels. Images are uint8 RGB; labels are uint8 classes or uint16 objects.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from stains import density, draw_deepened, draw_faded, draw_restained

IGNORE = 255
"""The label of pixels that nobody has labelled, and whose answer does not count."""

Label = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One labelled picture. modality: the kind of picture, of which a recipe says how often it is drawn."""

    name: str
    modality: str
    image_HWC: NDArray[np.uint8]
    label_HW: Label


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What may happen to a sample. scale: picture pixels per sample pixel; else probabilities.

    stains, pale, dense: see stains.py; recipes that do not name them draw the samples that they always drew.
    """

    scale: tuple[float, float]
    blank: float
    mosaic: float
    stain: float
    invert: float
    grey: float
    blur: float
    jpeg: float
    stains: float = 0.0
    pale: float = 0.0
    dense: float = 0.0


def draw_sample(
    pictures: list[Picture], crop: int, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Label]:
    """One augmented sample of crop x crop pixels from one or, where they are too small, several pictures."""
    if rng.random() < augmentation.blank:
        image_HWC = _blank(pictures[rng.integers(len(pictures))], crop, rng)
        return _recolour(image_HWC, augmentation, rng), np.zeros((crop, crop), pictures[0].label_HW.dtype)
    scale = float(np.exp(rng.uniform(*np.log(augmentation.scale))))
    image_HWC, label_HW = _join(pictures, crop, scale, rng.random() < augmentation.mosaic, rng)
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    image_HWC, label_HW = np.rot90(image_HWC, turns), np.rot90(label_HW, turns)
    if flip:
        image_HWC, label_HW = image_HWC[:, ::-1], label_HW[:, ::-1]
    if augmentation.dense and rng.random() < augmentation.dense:
        image_HWC = draw_deepened(image_HWC, label_HW > 0, rng)
    if augmentation.pale and rng.random() < augmentation.pale:
        image_HWC = draw_faded(image_HWC, label_HW > 0, rng)
    return _recolour(np.ascontiguousarray(image_HWC), augmentation, rng), np.ascontiguousarray(label_HW)


def _join(
    pictures: list[Picture], crop: int, scale: float, mosaic: bool, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Label]:
    """A sample filled with parts of pictures, row by row.

    mosaic: with smaller parts than would fit, each in a stain of its own, and with gutters of empty
    ground between them: what lies far from a nucleus must not decide about it.
    """
    gutter = int(rng.integers(0, 49)) if mosaic else 0
    largest = int(rng.integers(crop // 4, crop)) if mosaic else crop
    image_HWC = np.zeros((crop, crop, 3), np.uint8)
    if mosaic:
        image_HWC = _blank(pictures[rng.integers(len(pictures))], crop, rng)
    label_HW = np.zeros((crop, crop), pictures[0].label_HW.dtype)
    y = 0
    while y < crop:
        x, row_height = 0, crop - y
        while x < crop:
            picture = pictures[rng.integers(len(pictures))]
            part, label = _cut(picture, min(largest, crop - y), min(largest, crop - x), scale, rng)
            if mosaic and rng.random() < 0.5:
                part = _stain(part, rng)
            row_height = min(row_height, part.shape[0])
            image_HWC[y : y + part.shape[0], x : x + part.shape[1]] = part
            label_HW[y : y + part.shape[0], x : x + part.shape[1]] = label
            x += part.shape[1] + gutter
        y += row_height + gutter
    return image_HWC, label_HW


def _blank(picture: Picture, crop: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Empty ground in a colour that the picture's background has, with a little noise and shading.

    Slides have whole fields of it, labelled pictures hardly any: without such samples a network may
    take a field without any contrast for the inside of a nucleus.
    """
    background_NC = picture.image_HWC[picture.label_HW == 0]
    colour_C = background_NC[rng.integers(len(background_NC))].astype(np.float32)
    slope_HW = np.add.outer(np.linspace(-1, 1, crop) * rng.normal(), np.linspace(-1, 1, crop) * rng.normal())
    noise_HWC = rng.normal(0, rng.uniform(0, 4), (crop, crop, 3))
    ground_HWC = colour_C + slope_HW[..., None] * rng.uniform(0, 6) + noise_HWC
    return np.asarray(np.clip(ground_HWC, 0, 255), np.uint8)


def _cut(
    picture: Picture, height: int, width: int, scale: float, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Label]:
    """A random part of at most height x width sample pixels, resized by `scale`."""
    picture_height, picture_width = picture.label_HW.shape
    height = min(height, int(picture_height / scale))
    width = min(width, int(picture_width / scale))
    y = rng.uniform(0, picture_height - height * scale)
    x = rng.uniform(0, picture_width - width * scale)
    # Cut before it is made an image: a joined picture of a city is larger than what is needed of it.
    top, left = int(y), int(x)
    bottom, right = int(np.ceil(y + height * scale)), int(np.ceil(x + width * scale))
    part = Image.fromarray(picture.image_HWC[top:bottom, left:right])
    box = (x - left, y - top, x - left + width * scale, y - top + height * scale)
    box = (box[0], box[1], min(box[2], part.width), min(box[3], part.height))
    image = part.resize((width, height), Image.Resampling.BILINEAR, box=box)
    # The nearest pixel, as PIL takes it; its own resizing knows no objects.
    rows = (y + (np.arange(height) + 0.5) * scale).astype(int).clip(0, picture_height - 1)
    columns = (x + (np.arange(width) + 0.5) * scale).astype(int).clip(0, picture_width - 1)
    return np.asarray(image), picture.label_HW[rows[:, None], columns]


def _recolour(
    image_HWC: NDArray[np.uint8], augmentation: Augmentation, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Changes the colours, never the geometry: stain, light, grey, inversion, blur, JPEG."""
    if augmentation.stains and rng.random() < augmentation.stains:
        image_HWC = draw_restained(image_HWC, rng)
    if rng.random() < augmentation.stain:
        image_HWC = _stain(image_HWC, rng)
    if rng.random() < augmentation.grey:
        image_HWC = np.asarray(Image.fromarray(image_HWC).convert("L").convert("RGB"))
    if rng.random() < augmentation.invert:
        image_HWC = 255 - image_HWC
    if rng.random() < augmentation.blur:
        blurred = Image.fromarray(image_HWC).filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.5)))
        image_HWC = np.asarray(blurred)
    if rng.random() < augmentation.jpeg:
        buffer = io.BytesIO()
        Image.fromarray(image_HWC).save(buffer, "JPEG", quality=int(rng.integers(40, 95)))
        image_HWC = np.asarray(Image.open(buffer))
    return image_HWC


def _stain(image_HWC: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Another amount and hue of stain: optical density, mixed between channels, scaled and shifted.

    Density is -log of the transmitted light (Beer and Lambert), in which stains add up; for a
    fluorescent picture the same map is a change of contrast and gamma.
    """
    mix = np.eye(3, dtype=np.float32) * rng.uniform(0.65, 1.5)
    mix += rng.normal(0, 0.08, (3, 3)).astype(np.float32)
    shift = rng.normal(0, 0.06, 3).astype(np.float32)
    light = np.exp(-(density(image_HWC) @ mix + shift)) * 256 - 1
    return np.asarray(np.clip(light, 0, 255), np.uint8)
