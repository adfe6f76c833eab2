"""From samples as stored to the channels that are returned: polarity, palettes, alpha, refusals.

Shapes: H height, W width, S samples as stored, C channels as returned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialcli.image.codecs import CODECS, IMAGE_CODECS, JPEG2000, REFUSED
from axialcli.image.page import Page

Pixels = NDArray[Any]
Converter = Callable[[Pixels], Pixels]

MINISWHITE, MINISBLACK, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
_READ_SAMPLES = frozenset({("b", 1), ("u", 2), ("u", 4), ("u", 8), ("u", 16), ("f", 32), ("f", 64)})
_REFUSED_COLOURS = {
    4: "transparency mask",
    5: "CMYK",
    8: "CIE Lab",
    9: "ICC Lab",
    10: "ITU Lab",
    32803: "colour filter array",
    32844: "LogL",
    32845: "LogLuv",
    34892: "linear raw",
}


def photometric(page: Page) -> int:
    """Tag 262, or what its absence most likely means: three samples are RGB, fewer are grey."""
    if page.photometric is not None:
        return page.photometric
    return RGB if page.samples >= 3 else MINISBLACK


def refusal(page: Page) -> str | None:
    """Why the pixels of a page are not read, in a few words that begin a sentence; None where they are."""
    kind = photometric(page)
    if kind in _REFUSED_COLOURS:
        return f"{_REFUSED_COLOURS[kind]} pixels are not read"
    if kind not in (MINISWHITE, MINISBLACK, RGB, PALETTE, YCBCR):
        return f"photometric interpretation {kind} is not read"
    if page.compression not in CODECS:
        return f"compression {REFUSED.get(page.compression, page.compression)} is not read"
    if kind == YCBCR and page.compression not in IMAGE_CODECS:
        return f"YCbCr pixels with compression {CODECS[page.compression]} are not read"
    if page.depth != 1:
        return f"a volume of {page.depth} slices in one directory is not read"
    return _refused_samples(page, kind)


def _refused_samples(page: Page, kind: int) -> str | None:
    if not isinstance(page.bits, int):
        return "samples of different widths are not read"
    if page.dtype is None or page.sample_format not in (1, 3, 4) or page.dtype.kind not in "ufb":
        name = {2: "signed integer", 5: "complex", 6: "complex"}.get(page.sample_format, "such")
        return f"{name} samples of {page.bits} bits are not read"
    if (page.dtype.kind, page.bits) not in _READ_SAMPLES:
        return f"samples of {page.bits} bits are not read"
    if page.predictor != 1 and page.bits < 8:
        return f"a predictor over samples of {page.bits} bits is not read"
    if page.predictor not in (1, 2, 3):
        return f"predictor {page.predictor} is not read"
    if page.bits < 8 and page.compression in IMAGE_CODECS:
        return f"samples of {page.bits} bits in {CODECS[page.compression]} are not read"
    if kind == PALETTE and (page.samples != 1 or page.tags.get(320) is None):
        return "a palette picture without its palette is not read"
    if page.dtype.kind == "f" and kind != MINISBLACK and kind != RGB:
        return "float samples are read as grey or RGB only"
    return None


def kept_samples(page: Page) -> int:
    """How many of the stored samples are no alpha. Alpha is the first extra sample of kind 1 or 2."""
    colours = page.samples - len(page.extra_samples)
    for at, kind in enumerate(page.extra_samples):
        if kind in (1, 2):
            return max(colours + at, 1)
    return page.samples


def channels_of(page: Page) -> int:
    """How many channels a page returns."""
    return 3 if photometric(page) == PALETTE else kept_samples(page)


def dtype_of(page: Page) -> np.dtype[Any]:
    """What a page returns: uint8 for palettes and for samples of fewer than 8 bits, uint16, float32."""
    assert page.dtype is not None
    if photometric(page) == PALETTE or (isinstance(page.bits, int) and page.bits < 8):
        return np.dtype(np.uint8)
    return np.dtype(np.float32) if page.dtype.kind == "f" else page.dtype


def converter(page: Page) -> Converter:
    """A function from decoded samples [h, w, S] to channels [h, w, C]; of planar pages S is 1."""
    kind = photometric(page)
    if kind == PALETTE:
        palette = _palette(page)
        return lambda samples: palette[samples[..., 0]]
    keep = 1 if page.planar else kept_samples(page)
    bits = page.bits if isinstance(page.bits, int) else 8
    scale = 255 // (2**bits - 1) if bits < 8 else 1
    invert = kind == MINISWHITE
    wanted = dtype_of(page)

    def convert(samples: Pixels) -> Pixels:
        channels = samples[..., :keep] if samples.shape[-1] != keep else samples
        if scale != 1:
            channels = channels.astype(np.uint8) * np.uint8(scale)
        return ~channels if invert else channels.astype(wanted, copy=False)

    return convert


def may_hide_ycc(page: Page) -> bool:
    """Whether the segments may be YCbCr that their JPEG 2000 stream does not know of."""
    if page.compression not in JPEG2000 or page.samples != 3 or page.planar:
        return False
    return page.compression == 33003 or photometric(page) == YCBCR


def ycc_to_rgb(ycc_HW3: Pixels) -> Pixels:
    """Full-range YCbCr (ITU-R BT.601) as RGB, uint8 [h, w, 3]."""
    y = ycc_HW3[..., 0].astype(np.float32)
    cb = ycc_HW3[..., 1].astype(np.float32) - 128
    cr = ycc_HW3[..., 2].astype(np.float32) - 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    rounded: NDArray[np.uint8] = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return rounded


def _palette(page: Page) -> NDArray[np.uint8]:
    """The palette as uint8 [entries, 3], as long as the samples can index."""
    table = np.asarray(page.tags[320], np.uint16).reshape(3, -1).T
    # Some writers store 8 bits where the tag has 16.
    eight = table if table.max(initial=0) < 256 else table >> 8
    assert page.dtype is not None
    full = np.zeros((2 ** min(page.dtype.itemsize * 8, 16), 3), np.uint8)
    full[: len(eight)] = eight[: len(full)]
    return full
