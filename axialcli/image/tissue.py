"""The synthetic tissue: hematoxylin and eosin as a pure function of seed and position.

Any rectangle can be painted alone: slow fields come from hashed value noise on a lattice of LATTICE_PX,
fast ones from periodic textures, nuclei from a hashed cell grid. Work goes pane by pane on a grid that is
absolute in the slide. Shapes: H height, W width; lattice arrays reach HALO_PX beyond the pane.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from axialcli.geometry import Box
from axialcli.image import textures as tx
from axialcli.image.landscape import LATTICE_PX, Fields, Landscape

PANE_H, PANE_W = 256, 512
HALO_PX = 96
CELL_PX = 18
"""Pitch of the grid that proposes nuclei, one a cell."""
_REACH = 2
_ROOM_PX = np.array([12.0, 9.0, 8.5], np.float32)
"""Half of the distance that each kind of nucleus keeps from its neighbours."""


@dataclass(frozen=True, kw_only=True)
class Pane:
    """A painted rectangle. rgbx_HW: red in the lowest byte, the highest is 0. nuclei_HW: 0 or 1."""

    rgbx_HW: tx.UInt32
    nuclei_HW: tx.UInt8


@dataclass(frozen=True, kw_only=True)
class _Nuclei:
    """Nuclei of a pane, one entry each: centre in slide pixels, and the index of the stamp."""

    y: NDArray[np.int64]
    x: NDArray[np.int64]
    stamp: NDArray[np.int64]


class Tissue:
    """Paints. seed: any integer. blank: share of glass outside the tissue, 0..1, over a very large slide."""

    def __init__(self, seed: int = 0, blank: float | None = None) -> None:
        self._seed = seed
        self._stamps = tx.nuclei(seed, 10)
        along, slanted = tx.fibres(seed, 20, 1024), tx.fibres(seed, 24, 1029, shear=1)
        across = tx.turned(tx.fibres(seed, 28, 1215))
        self._fibres = [tx.periodic(f.density, PANE_W) for f in (along, across, slanted)]
        self._angles = [f.angle for f in (along, across, slanted)]
        self._cytoplasm = tx.periodic(tx.cytoplasm(seed, 40, 875), PANE_W)
        self._fat = tx.periodic(tx.fat(seed, 50), PANE_W)
        self._noise = tx.periodic(tx.sensor_noise(seed, 60), PANE_W)
        self._colours = tx.stain_table(seed)
        self._landscape = Landscape(seed, blank)

    def paint(self, box: Box) -> Pane:
        """Paints any rectangle; coordinates may even be negative."""
        rgbx = np.empty((box.height, box.width), np.uint32)
        nuclei = np.empty((box.height, box.width), np.uint8)
        for y in range(box.y0 // PANE_H * PANE_H, box.y1, PANE_H):
            for x in range(box.x0 // PANE_W * PANE_W, box.x1, PANE_W):
                outer = Box(y, x, y + PANE_H, x + PANE_W)
                part = outer.intersection(box)
                pane = self._paint_pane(y, x)
                rgbx[part.within(box)] = pane.rgbx_HW[part.within(outer)]
                nuclei[part.within(box)] = pane.nuclei_HW[part.within(outer)]
        return Pane(rgbx_HW=rgbx, nuclei_HW=nuclei)

    def _paint_pane(self, y0: int, x0: int) -> Pane:
        noise = self._noise.window(y0, x0, PANE_H, PANE_W)
        nuclei = np.zeros((PANE_H, PANE_W), np.uint8)
        halo = Box(y0 - HALO_PX, x0 - HALO_PX, y0 + PANE_H + HALO_PX, x0 + PANE_W + HALO_PX)
        fields = self._landscape.fields(halo)
        if not fields.tissue.any():
            return Pane(rgbx_HW=noise + self._colours[0], nuclei_HW=nuclei)
        eosin, hematoxylin = self._ground(fields, y0, x0)
        dark = np.zeros((PANE_H, PANE_W), np.uint8)
        self._stamp(self._place(fields, y0, x0), y0, x0, dark, nuclei)
        hematoxylin += dark
        pair = eosin.astype(np.uint16)
        pair <<= 8
        pair |= hematoxylin
        # mode "wrap" spares the check of bounds, and a buffer.
        rgbx = np.take(self._colours, pair, mode="wrap", out=np.empty((PANE_H, PANE_W), np.uint32))
        rgbx += noise
        return Pane(rgbx_HW=rgbx, nuclei_HW=nuclei)

    def _ground(self, fields: Fields, y0: int, x0: int) -> tuple[tx.UInt8, tx.UInt8]:
        """Eosin and hematoxylin density of all that is no nucleus."""
        f = fields
        open_ = f.tissue * (1 - np.float32(0.97) * f.lumen)
        pink = open_ * (0.52 + 0.40 * f.strength)
        blue = open_ * (0.04 + 0.12 * f.epithelium + 0.12 * f.lymph + 0.06 * (1 - f.strength))
        along, across, slanted = (fibres.window(y0, x0, PANE_H, PANE_W) for fibres in self._fibres)
        stroma = _mix(_mix(along, across, f.turned), slanted, f.slanted)
        texture = _mix(stroma, self._cytoplasm.window(y0, x0, PANE_H, PANE_W), f.epithelium)
        if f.fat.any():
            fat = _upsample(f.fat)
            walls = np.maximum(self._fat.window(y0, x0, PANE_H, PANE_W), 255 - fat)
            texture = _product(np.maximum(texture, fat >> 1), walls)
        return _product(_upsample(pink), texture), _product(_upsample(blue), texture)

    def _place(self, fields: Fields, y0: int, x0: int) -> _Nuclei:
        """Which nuclei may touch the pane: proposals, thinned so that neighbours keep their distance."""
        edge = tx.STAMP_PX // 2 + _REACH * CELL_PX
        cy = np.arange((y0 - edge) // CELL_PX, (y0 + PANE_H + edge) // CELL_PX + 1, dtype=np.int64)[:, None]
        cx = np.arange((x0 - edge) // CELL_PX, (x0 + PANE_W + edge) // CELL_PX + 1, dtype=np.int64)[None, :]
        spot, fate = tx.hash32(self._seed, 70, cy, cx), tx.hash32(self._seed, 71, cy, cx)
        y = cy * CELL_PX + ((spot & 0xFFFF) * np.uint32(CELL_PX) >> 16).astype(np.int64)
        x = cx * CELL_PX + ((spot >> 16) * np.uint32(CELL_PX) >> 16).astype(np.int64)
        at = (y - fields.box.y0) // LATTICE_PX, (x - fields.box.x0) // LATTICE_PX
        chance = (fate & 0xFFFF).astype(np.float32) * np.float32(1 / 65536)
        kind, present = _kinds(fields, at, chance, fate)
        kept = present & _uncrowded(y, x, _ROOM_PX[kind], present, fate)
        y, x, kind, pick = y[kept], x[kept], kind[kept], (fate >> 24)[kept].astype(np.int64)
        angle = self._turn(fields, y, x, kind, pick)
        return _Nuclei(y=y, x=x, stamp=(kind * tx.ANGLES + angle) * tx.VARIANTS + pick % tx.VARIANTS)

    def _turn(
        self,
        fields: Fields,
        y: NDArray[np.int64],
        x: NDArray[np.int64],
        kind: NDArray[np.int64],
        pick: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Spindles follow the fibres, epithelium stands on its gland's wall, the rest lies as it likes."""
        i, j = (y - fields.box.y0) // LATTICE_PX, (x - fields.box.x0) // LATTICE_PX
        along, across, slanted = (a[y % a.shape[0], x % a.shape[0]] for a in self._angles)
        fibre = np.where(fields.turned[i, j] > 0.5, across, along)
        fibre = np.where(fields.slanted[i, j] > 0.5, slanted, fibre).astype(np.int64)
        rise = fields.score[i + 1, j] - fields.score[i - 1, j]
        run = fields.score[i, j + 1] - fields.score[i, j - 1]
        wall = np.rint(np.arctan2(rise, run) * (tx.ANGLES / np.pi)).astype(np.int64)
        jitter = pick // tx.VARIANTS % 3 - 1
        angle = np.choose(kind, [wall + jitter, fibre + jitter, pick // tx.VARIANTS])
        return angle % tx.ANGLES

    def _stamp(self, found: _Nuclei, y0: int, x0: int, dark: tx.UInt8, nuclei: tx.UInt8) -> None:
        """Presses the nuclei into `dark` (hematoxylin) and `nuclei` (0 or 1), both of a pane's shape."""
        half = tx.STAMP_PX // 2
        top, left = (found.y - half - y0).tolist(), (found.x - half - x0).tolist()
        for y, x, stamp in zip(top, left, found.stamp.tolist(), strict=True):
            ya, yb = max(y, 0), min(y + tx.STAMP_PX, PANE_H)
            xa, xb = max(x, 0), min(x + tx.STAMP_PX, PANE_W)
            if ya >= yb or xa >= xb:
                continue
            cut = slice(ya - y, yb - y), slice(xa - x, xb - x)
            for canvas, source in ((dark, self._stamps.density), (nuclei, self._stamps.support)):
                target = canvas[ya:yb, xa:xb]
                np.maximum(target, source[stamp][cut], out=target)


@lru_cache(maxsize=2)
def tissue(seed: int, blank: float | None) -> Tissue:
    """The painter of a seed; its textures take a second, so the last two are kept."""
    return Tissue(seed, blank)


def _kinds(
    fields: Fields, at: tuple[NDArray[np.int64], NDArray[np.int64]], chance: tx.Float, fate: tx.UInt32
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Which kind of nucleus a proposal is, and whether it is there at all."""
    epithelium, lymph = fields.epithelium[at] > 0.6, fields.lymph[at]
    small = (fate >> 16 & 0xFF) < 30 + 220 * lymph
    kind = np.where(epithelium, tx.EPITHELIAL, np.where(small, tx.LYMPHOCYTE, tx.SPINDLE))
    share = np.where(epithelium, 0.85, 0.10 + 0.75 * lymph)
    ground = (fields.tissue[at] > 0.7) & (fields.lumen[at] < 0.05) & (fields.fat[at] < 0.3)
    return kind, ground & (chance < share)


def _uncrowded(
    y: NDArray[np.int64], x: NDArray[np.int64], room: tx.Float, present: NDArray[np.bool_], rank: tx.UInt32
) -> NDArray[np.bool_]:
    """False where a neighbour on the cell grid outranks a proposal and lies too near.

    Only proposals are compared, never survivors, so the answer is local. The outer _REACH cells of the
    arrays have not all their neighbours: they serve as such, and are dropped by position.
    """
    height, width = y.shape
    kept = np.ones((height, width), np.bool_)
    for dy in range(_REACH + 1):
        for dx in range(-_REACH, _REACH + 1):
            if dy == 0 and dx <= 0:
                continue
            a = slice(0, height - dy), slice(max(-dx, 0), width - max(dx, 0))
            b = slice(dy, height), slice(max(dx, 0), width - max(-dx, 0))
            near = (y[a] - y[b]) ** 2 + (x[a] - x[b]) ** 2 < (room[a] + room[b]) ** 2
            near &= present[a] & present[b]
            first = rank[a] >= rank[b]
            kept[b] &= ~(near & first)
            kept[a] &= ~(near & ~first)
    return kept


def _upsample(lattice: tx.Float) -> tx.UInt8:
    """A field of the pane and its halo, 0..1, to the pane's pixels, 0..255: linear, in exact integers."""
    rim = HALO_PX // LATTICE_PX
    corner = tx.to_uint8(lattice[rim:-rim, rim:-rim]).astype(np.uint16)
    weight = np.arange(LATTICE_PX, dtype=np.uint16)
    rows = corner[:, :-1, None] * (LATTICE_PX - weight) + corner[:, 1:, None] * weight
    rows = rows.reshape(corner.shape[0], PANE_W)
    scale = np.uint16(256 // LATTICE_PX**2)
    level = rows[:-1] * np.uint16(scale * LATTICE_PX)
    step = (rows[1:] - rows[:-1]) * scale  # wraps around below zero, and back
    out = np.empty((PANE_H // LATTICE_PX, LATTICE_PX, PANE_W), np.uint8)
    for line in range(LATTICE_PX):
        out[:, line] = level >> np.uint16(8)
        level += step
    return out.reshape(PANE_H, PANE_W)


def _product(a: tx.UInt8, b: NDArray[np.uint8] | NDArray[np.uint32]) -> tx.UInt8:
    """a * b / 256 of two uint8 arrays."""
    both = np.multiply(a, b, dtype=np.uint16)
    both >>= 8
    return both.astype(np.uint8)


def _mix(a: tx.UInt8, b: tx.UInt8, share: tx.Float) -> tx.UInt8:
    """From a, where the field `share` is 0, to b, where it is 1: exactly a or b there."""
    if not share.any():
        return a
    if share.all() and share.min() == 1:
        return b
    weight = _upsample(share).astype(np.uint16)
    weight += weight >> 7
    mixed = b * weight
    weight = 256 - weight
    weight *= a
    mixed += weight
    mixed >>= 8
    return mixed.astype(np.uint8)
