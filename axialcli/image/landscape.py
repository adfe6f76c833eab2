"""Where the synthetic slide has glass, stroma, glands, fat and inflammation: slow fields of position.

Value noise from an integer hash, on a lattice of LATTICE_PX pixels that is absolute in the slide; what is
slower still is computed on a lattice of COARSE_PX and interpolated. Arrays are float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from axialcli.geometry import Box
from axialcli.image.textures import Float, uniform

LATTICE_PX = 8
COARSE_PX = 32

_TURNS = ((4, 3, 5), (12, 5, 13), (15, 8, 17), (3, 4, 5), (21, 20, 29), (5, 12, 13), (24, 7, 25))
"""Pythagorean triples: rotations in exact integers, so that the noise does not show its grid."""
_NATURAL_BLANK = 0.35
_FINE = ((3, 130, 0.035), (4, 29, 0.012))
"""Stream, period and weight of what frays the outline."""

Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Fields:
    """All fields of a box, in 0..1 but for `score`; entry (i, j) lies (i, j) * LATTICE_PX from its corner.

    tissue: 0 on glass. epithelium: 0 in stroma. score: rises towards the middle of a gland. lumen, fat,
    lymph: 1 in them. turned, slanted: which fibres the stroma has. strength: of the stain.
    """

    box: Box
    tissue: Float
    epithelium: Float
    score: Float
    lumen: Float
    fat: Float
    lymph: Float
    turned: Float
    slanted: Float
    strength: Float


class Landscape:
    """The fields of a seed. blank: share of glass outside the tissue over a very large slide, 0..1."""

    def __init__(self, seed: int, blank: float | None) -> None:
        self._seed = seed
        self._threshold = self._threshold_for(_NATURAL_BLANK if blank is None else blank)

    def fields(self, box: Box) -> Fields:
        """The fields of a box with its corners on the coarse lattice, lower and right border included."""
        ys = np.arange(box.y0, box.y1 + 1, LATTICE_PX, dtype=np.int64)
        xs = np.arange(box.x0, box.x1 + 1, LATTICE_PX, dtype=np.int64)
        far_ys, far_xs = ys[:: COARSE_PX // LATTICE_PX], xs[:: COARSE_PX // LATTICE_PX]

        def slow(*octaves: tuple[int, int, float]) -> Float:
            return _refine(self._sum(octaves, far_ys, far_xs))

        home = _near_origin(far_ys, far_xs)
        wish = _refine(self._outline(far_ys, far_xs) + home)
        for stream, period_px, weight in _FINE:
            wish += np.float32(weight) * self._noise(stream, period_px, ys, xs)
        tissue = _ramp(wish, self._threshold, self._threshold + 0.012)
        gland = slow((11, 430, 0.50), (12, 210, 0.32)) + np.float32(0.12) * self._noise(13, 75, ys, xs)
        score = gland + slow((10, 2100, 0.42)) - np.float32(0.21)
        epithelium = _ramp(score, 0.525, 0.55)
        stroma = 1 - epithelium
        return Fields(
            box=box,
            tissue=tissue,
            epithelium=epithelium,
            score=score,
            lumen=_ramp(gland, 0.655, 0.685) * _ramp(score, 0.58, 0.62),
            fat=_ramp(slow((14, 1500, 1.0)) - np.float32(0.5) * score - _refine(home), 0.46, 0.52) * stroma,
            lymph=_ramp(slow((15, 800, 0.65), (16, 180, 0.35)), 0.68, 0.78) * stroma,
            turned=_ramp(slow((17, 900, 0.75), (19, 330, 0.25)), 0.44, 0.56),
            slanted=_ramp(slow((20, 1100, 0.75), (21, 380, 0.25)), 0.50, 0.62),
            strength=slow((18, 540, 0.6), (22, 1700, 0.4)),
        )

    def _threshold_for(self, blank: float) -> float:
        if blank <= 0:
            return -10.0
        if blank >= 1:
            return 10.0
        far = np.arange(160, dtype=np.int64) * 1789 + 100_000
        fine = sum(weight / 2 for _, _, weight in _FINE)
        return float(np.quantile(self._outline(far, far), blank)) + fine

    def _outline(self, ys: Indices, xs: Indices) -> Float:
        """How much a place wants to be tissue; a threshold makes it glass or tissue."""
        return self._sum(((0, 3300, 0.60), (1, 1250, 0.26), (2, 430, 0.10)), ys, xs)

    def _sum(self, octaves: tuple[tuple[int, int, float], ...], ys: Indices, xs: Indices) -> Float:
        total = np.zeros((ys.size, xs.size), np.float32)
        for stream, period_px, weight in octaves:
            total += np.float32(weight) * self._turned_noise(stream, period_px, ys, xs)
        return total

    def _noise(self, stream: int, period_px: int, ys: Indices, xs: Indices) -> Float:
        """Value noise in 0..1 at the crossings of ys and xs, one independent value every `period_px`."""
        iy, fy = _cell(ys + 7919 * stream, period_px)
        ix, fx = _cell(xs + 6101 * stream, period_px)
        table = self._table(stream, iy, ix)
        rows = table[:, ix - ix[0]]
        rows += (table[:, ix - ix[0] + 1] - rows) * fx
        noise: Float = rows[iy - iy[0]]
        noise += (rows[iy - iy[0] + 1] - noise) * fy[:, None]
        return noise

    def _turned_noise(self, stream: int, period_px: int, ys: Indices, xs: Indices) -> Float:
        """The same on a grid that is turned by an angle of its own."""
        cos, sin, one = _TURNS[stream % len(_TURNS)]
        y, x = ys[:, None] + 7919 * stream, xs[None, :] + 6101 * stream
        iu, fu = _cell(cos * y + sin * x, one * period_px)
        iv, fv = _cell(cos * x - sin * y, one * period_px)
        table = self._table(stream, iu, iv)
        columns = table.shape[1]
        at = (iu - iu.min()) * columns + (iv - iv.min())
        flat = table.ravel()
        upper: Float = flat[at]
        lower: Float = flat[at + columns]
        upper += (flat[at + 1] - upper) * fv
        lower += (flat[at + columns + 1] - lower) * fv
        upper += (lower - upper) * fu
        return upper

    def _table(self, stream: int, iy: Indices, ix: Indices) -> Float:
        """The independent values that the cells iy and ix lie between."""
        rows, columns = (np.arange(i.min(), i.max() + 2, dtype=np.int64) for i in (iy, ix))
        return uniform(self._seed, 1000 + stream, rows[:, None], columns[None, :])


def _near_origin(ys: Indices, xs: Indices) -> Float:
    """A bonus near the origin: there is always tissue, so that a small slide shows some."""
    far = ((ys - 500.0) ** 2)[:, None] + ((xs - 500.0) ** 2)[None, :]
    return (0.35 / (1 + (far / 900.0**2) ** 2)).astype(np.float32)


def _cell(at: Indices, period_px: int) -> tuple[Indices, Float]:
    """Index of the noise cell and the smoothed position inside it, 0..1."""
    index, rest = np.divmod(at, period_px)
    part = rest.astype(np.float32) * np.float32(1 / period_px)
    return index, part * part * (3 - 2 * part)


def _refine(coarse: Float) -> Float:
    """From the coarse lattice to the fine one, linear."""
    steps = COARSE_PX // LATTICE_PX
    for _ in range(2):
        parts = np.empty((coarse.shape[0] - 1, steps, coarse.shape[1]), np.float32)
        rise = (coarse[1:] - coarse[:-1]) * np.float32(1 / steps)
        for i in range(steps):
            parts[:, i] = coarse[:-1] + rise * np.float32(i)
        coarse = np.concatenate([parts.reshape(-1, coarse.shape[1]), coarse[-1:]]).T
    return np.ascontiguousarray(coarse)


def _ramp(values: Float, low: float, high: float) -> Float:
    """0 up to `low`, 1 from `high`, linear between."""
    ramp: Float = np.clip((values - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    return ramp
