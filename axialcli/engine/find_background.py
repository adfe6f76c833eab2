"""Which background a run has: the one that was asked for, or the one that the slide itself shows.

Shapes: H height, W width, C channels, N pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialcli.config import BackgroundColour, parse_background
from axialcli.engine.background import Background
from axialcli.errors import UsageError
from axialcli.geometry import Box
from axialcli.image import Slide, SlideView

THUMBNAIL_PX = 1024
FLAT = 6
"""Neighbours in the thumbnail that differ by no more, of 255, are one colour."""
BRIGHT, DARK = 200, 40
"""A background has all channels at least as bright, or at most as dark, of 255."""
LEAST_SHARE = 0.02
"""A colour on less of the thumbnail is not worth the trouble."""
LARGEST_TOLERANCE = 16 / 255
"""Glass that varies more, of the brightest value, cannot be told from pale tissue."""
SPOTS, SPOT_PX = 24, 64
SPOTS_A_SIDE = 8
NOISE_PERCENTILE, ROOM = 99.9, 1.5
"""The tolerance is this much of the noise times this: one pixel in thousands that falls out would keep
whole tiles from being blank."""


@dataclass(frozen=True, kw_only=True)
class FoundBackground:
    """background: None where there is none. said: how that came about, one sentence."""

    background: Background | None
    said: str

    def describe(self) -> dict[str, Any]:
        """For the report: colour and tolerance in the slide's own values, and where they come from."""
        found = self.background
        return {
            "colour": None if found is None else list(found.colour_C),
            "tolerance": None if found is None else found.tolerance,
            "said": self.said,
        }


def find_background(asked: str, slide: Slide, view: SlideView) -> FoundBackground:
    """The background by the setting `--background`: off, auto, or #rrggbb:tolerance in 8 bits.

    A given colour is scaled to the slide's type: 255 means 65535 in 16 bits, and 255 in floats.
    Raises UsageError where a colour does not fit the slide's channels.
    """
    wanted = parse_background(asked)
    if wanted == "off":
        return FoundBackground(background=None, said="off")
    if wanted == "auto":
        return _from_slide(slide, view)
    return FoundBackground(background=_given(wanted, view), said="given")


def _given(wanted: BackgroundColour, view: SlideView) -> Background:
    colour = wanted.colour
    grey = len(set(colour)) == 1
    if view.channels != 3 and not grey:
        raise UsageError(
            f"--background gives red, green and blue, the slide has {view.channels} channel(s): "
            "give a grey such as #f0f0f0:4"
        )
    scale = 257 if view.dtype == np.uint16 else 1
    values = colour if view.channels == 3 else colour[:1] * view.channels
    given = Background(tuple(float(value * scale) for value in values), float(wanted.tolerance * scale))
    return replace(given, share=_share(given, view))


def _share(background: Background, view: SlideView) -> float:
    """How much of the view is background, by boxes on a grid: a thumbnail of a slide without a pyramid would
    take a reading of the whole slide."""
    shares = []
    for row in range(SPOTS_A_SIDE):
        for column in range(SPOTS_A_SIDE):
            spot = _spot(view, (SPOTS_A_SIDE, SPOTS_A_SIDE), row, column)
            shares.append(background.blank(view.read(spot)).mean())
    return float(np.mean(shares))


def _from_slide(slide: Slide, view: SlideView) -> FoundBackground:
    """The commonest bright or dark flat colour of the thumbnail; its exact value and noise are then
    measured on the slide's own pixels, for a thumbnail is smoothed and has eight bits only."""
    if view.channels not in (1, 3):
        return FoundBackground(
            background=None, said=f"none: auto knows grey and RGB, the slide has {view.channels} channels"
        )
    thumbnail_HWC = slide.thumbnail(THUMBNAIL_PX)
    members_HW = _commonest_flat(thumbnail_HWC)
    share = float(members_HW.mean())
    if share < LEAST_SHARE:
        return FoundBackground(
            background=None, said="none: no bright or dark colour lies evenly over enough of the slide"
        )
    pixels_NC = _spots(view, members_HW, _inner(members_HW))
    colour_C = np.median(pixels_NC, axis=0)
    noise = np.abs(pixels_NC.astype(np.float64) - colour_C).max(axis=1)
    tolerance = ROOM * float(np.percentile(noise, NOISE_PERCENTILE))
    if view.dtype.kind in "iu":
        colour_C, tolerance = np.rint(colour_C), float(np.ceil(tolerance))
    if not tolerance <= LARGEST_TOLERANCE * _brightest(view, thumbnail_HWC):
        return FoundBackground(
            background=None,
            said=f"none: what looks even in the thumbnail varies by {tolerance:g} in the slide",
        )
    return FoundBackground(
        background=Background(tuple(float(value) for value in colour_C), tolerance, share=share),
        said=f"found: about {100 * share:.0f} % of the slide's thumbnail has this colour",
    )


def _commonest_flat(thumbnail_HWC: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels [H, W] of the commonest bright or dark colour, among those that equal their neighbours."""
    values_HWC = thumbnail_HWC.astype(np.int16)
    down = np.abs(np.diff(values_HWC, axis=0)).max(axis=2) <= FLAT
    across = np.abs(np.diff(values_HWC, axis=1)).max(axis=2) <= FLAT
    even_HW = np.asarray((values_HWC.min(axis=2) >= BRIGHT) | (values_HWC.max(axis=2) <= DARK))
    even_HW[1:] &= down
    even_HW[:-1] &= down
    even_HW[:, 1:] &= across
    even_HW[:, :-1] &= across
    colours_NC = values_HWC[even_HW]
    if not len(colours_NC):
        return even_HW
    centre_C = _densest(colours_NC)
    return np.asarray(even_HW & (np.abs(values_HWC - centre_C).max(axis=2) <= FLAT))


def _densest(colours_NC: NDArray[np.int16]) -> NDArray[np.float64]:
    """The median of the fullest cell of a grid over all colours."""
    cells_N = np.zeros(len(colours_NC), np.int64)
    for channel in range(colours_NC.shape[1]):
        cells_N = cells_N * 32 + colours_NC[:, channel] // 8
    inside = cells_N == np.bincount(cells_N).argmax()
    return np.asarray(np.median(colours_NC[inside], axis=0))


def _inner(members_HW: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Members whose neighbours are members: what lies beside them in the slide is background too.
    Where none is that far inside, all members."""
    padded = np.pad(members_HW, 1)
    inner_HW = members_HW.copy()
    height, width = members_HW.shape
    for dy in range(3):
        for dx in range(3):
            inner_HW &= padded[dy : dy + height, dx : dx + width]
    return inner_HW if np.any(inner_HW) else members_HW


def _spots(view: SlideView, members_HW: NDArray[np.bool_], inner_HW: NDArray[np.bool_]) -> NDArray[Any]:
    """Pixels [N, C] of small boxes spread over the `inner_HW` of the thumbnail."""
    found = np.argwhere(inner_HW)
    chosen = found[np.linspace(0, len(found) - 1, min(SPOTS, len(found))).round().astype(int)]
    parts = []
    for y, x in chosen.tolist():
        box = _spot(view, members_HW.shape, y, x)
        parts.append(view.read(box).reshape(-1, view.channels))
    return np.concatenate(parts)


def _spot(view: SlideView, thumbnail: tuple[int, ...], y: int, x: int) -> Box:
    """The box of the view under the thumbnail's pixel (y, x), at most SPOT_PX large."""
    sides = []
    for at, small, large in ((y, thumbnail[0], view.size.height), (x, thumbnail[1], view.size.width)):
        first, last = int(at * large / small), max(int((at + 1) * large / small), int(at * large / small) + 1)
        cut = max(0, last - first - SPOT_PX) // 2
        sides.append((min(first + cut, large - 1), min(last - cut, large)))
    (y0, y1), (x0, x1) = sides
    return Box(y0, x0, y1, x1)


def _brightest(view: SlideView, thumbnail_HWC: NDArray[np.uint8]) -> float:
    """The largest value of the slide, to measure a tolerance against; in 8 bits it is always 255."""
    if view.dtype == np.uint8:
        return 255.0
    y, x = np.unravel_index(int(thumbnail_HWC.max(axis=2).argmax()), thumbnail_HWC.shape[:2])
    return float(np.nanmax(view.read(_spot(view, thumbnail_HWC.shape, int(y), int(x)))))
