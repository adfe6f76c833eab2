"""Tissue as other laboratories stain it: other stains, nuclei pale as their cell, fibres dense as nuclei.

Density is -log of the share of light that comes through (Beer and Lambert). Stains add up in it: a picture
is a sum of stains, of each an amount per pixel times its colour.

Shapes: H height, W width, C channels, S stains. Images are uint8 RGB.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageFilter
from scipy import ndimage

HAEMATOXYLIN_EOSIN = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))
"""Densities of both stains in red, green and blue: Ruifrok and Johnston 2001."""

AMOUNTS = ((0.4, 1.8), (0.3, 2.2), (0.5, 1.5))
"""By what the amounts of haematoxylin, of eosin and of the rest may be multiplied."""

AROUND_PX = 24
"""How far from a pixel the ground lies that a pale nucleus is mixed with."""


def density(image_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """-log of the light; value 255 is all of it, value 0 one 256th."""
    table = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
    return np.asarray(table[image_HWC])


def light(density_HWC: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The picture of a density, cut off at black and white."""
    return np.asarray(np.clip(np.exp(-density_HWC) * 256 - 0.5, 0, 255), np.uint8)


def with_rest(stains: ArrayLike) -> NDArray[np.float32]:
    """Unit vectors colours_SC: of two stains, and of what neither explains, at right angles to both."""
    first_C, second_C = (one / np.linalg.norm(one) for one in np.asarray(stains, np.float64))
    rest_C = np.cross(first_C, second_C)
    return np.asarray([first_C, second_C, rest_C / np.linalg.norm(rest_C)], np.float32)


def restain(
    image_HWC: NDArray[np.uint8],
    amounts_S: ArrayLike,
    added_S: ArrayLike,
    colours_SC: NDArray[np.float32],
) -> NDArray[np.uint8]:
    """The picture with each stain's amount multiplied and added to, and in other colours.

    What is taken apart is haematoxylin, eosin and the rest, after Ruifrok and Johnston 2001; amounts that
    change each on its own are those of Tellez et al. 2019 (arXiv 1902.06543).
    """
    apart_CS = np.linalg.inv(with_rest(HAEMATOXYLIN_EOSIN))
    mix_CC = (apart_CS * np.asarray(amounts_S, np.float32)) @ colours_SC
    return light(density(image_HWC) @ mix_CC + np.asarray(added_S, np.float32) @ colours_SC)


def draw_restained(image_HWC: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Any amounts within AMOUNTS, a little of each stain everywhere, and colours near their own."""
    stains_SC = np.asarray(HAEMATOXYLIN_EOSIN) + rng.normal(0, 0.1, (2, 3))
    amounts_S = np.exp(rng.uniform(*np.log(AMOUNTS).T))
    added_S = rng.normal(0, (0.05, 0.05, 0.03))
    return restain(image_HWC, amounts_S, added_S, with_rest(stains_SC.clip(0.01)))


def fade(
    image_HWC: NDArray[np.uint8], amount_HW: NDArray[np.float32], mask_HW: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Mixes the picture, by an amount of 0 to 1, with the mean colour of the ground near each pixel.

    mask_HW: what is no ground. Where all is masked nearby, nothing changes.
    """
    blur = ImageFilter.BoxBlur(AROUND_PX)
    ground = Image.fromarray(np.where(mask_HW[..., None], 0, image_HWC).astype(np.uint8)).filter(blur)
    share = Image.fromarray(np.where(mask_HW, 0, 255).astype(np.uint8)).filter(blur)
    share_HW1 = np.asarray(share, np.float32)[..., None] / 255
    ground_HWC = np.clip(np.asarray(ground, np.float32) / np.maximum(share_HW1, 0.05), 0, 255)
    amount_HW1 = amount_HW[..., None] * (share_HW1 > 0.1)
    return np.asarray(np.round(image_HWC + amount_HW1 * (ground_HWC - image_HWC)), np.uint8)


def draw_faded(
    image_HWC: NDArray[np.uint8], mask_HW: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Nuclei (mask_HW) that are hardly darker than what surrounds them, most of them with a rim left."""
    inner_HW = mask_HW
    if rng.random() < 0.6:
        inner_HW = ndimage.binary_erosion(mask_HW, iterations=int(rng.integers(1, 4)))
    soft_HW = ndimage.gaussian_filter(inner_HW.astype(np.float32), rng.uniform(0.7, 2.0))
    return fade(image_HWC, soft_HW * np.float32(rng.uniform(0.2, 0.95)), mask_HW)


def deepen(
    image_HWC: NDArray[np.uint8], eosin_HW: NDArray[np.float32], all_HW: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """The picture with its eosin, and all of its density, multiplied by one plus these amounts."""
    own_SC = with_rest(HAEMATOXYLIN_EOSIN)
    density_HWC = density(image_HWC)
    eosin_HWC = (density_HWC @ np.linalg.inv(own_SC)[:, 1:2]).clip(0) * own_SC[1]
    return light(density_HWC * (1 + all_HW[..., None]) + eosin_HWC * eosin_HW[..., None])


def draw_deepened(
    image_HWC: NDArray[np.uint8], mask_HW: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Ground that is as dense as nuclei (mask_HW), as fibres are at the edge of fat: mostly with eosin."""
    ground_HW = 1 - ndimage.gaussian_filter(mask_HW.astype(np.float32), rng.uniform(0.5, 2.0))
    eosin, whole = rng.uniform(0, 3), rng.uniform(0, 0.6)
    return deepen(image_HWC, ground_HW * np.float32(eosin), ground_HW * np.float32(whole))
