"""What the synthetic slide is painted with: periodic textures, a library of nuclei, a stain table.

All of it is rendered once for a seed, from an integer hash, so no random generator's version matters.
Shapes: H height, W width, N stamps. Densities are uint8: 0 is no stain, 255 the most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
UInt32 = NDArray[np.uint32]
Float = NDArray[np.float32]
Scalar = TypeVar("Scalar", bound=np.generic)

STAMP_PX = 56
"""Side of a nucleus stamp; no nucleus reaches beyond it."""
ANGLES = 16
"""Orientations of the library, evenly over half a turn, the first along x."""
VARIANTS = 16
"""Different nuclei of one kind and orientation."""
EPITHELIAL, SPINDLE, LYMPHOCYTE = 0, 1, 2
NOISE_PX = 601
FAT_PX = 1296

# (longest axis min, max), (short over long axis min, max), darkness, its spread, chromatin, membrane.
_KINDS = (
    ((22.0, 40.0), (0.58, 0.92), 0.42, 0.19, 0.19, 0.26),
    ((24.0, 45.0), (0.20, 0.38), 0.62, 0.20, 0.11, 0.12),
    ((15.0, 20.0), (0.78, 0.98), 0.80, 0.14, 0.15, 0.08),
)


def hash32(seed: int, stream: int, *at: NDArray[np.int64]) -> UInt32:
    """uint32 that looks random but depends only on seed, stream and the integer coordinates `at`."""
    shape = np.broadcast_shapes(*(a.shape for a in at))
    state = np.full(shape, (seed * 0x9E3779B1 + stream * 0x7FEB352D + 0x165667B1) & 0xFFFFFFFF, np.uint32)
    for a in at:
        state ^= (a & 0xFFFFFFFF).astype(np.uint32)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            state ^= state >> np.uint32(shift)
            state *= np.uint32(factor)
        state ^= state >> np.uint32(16)
    return state


def uniform(seed: int, stream: int, *at: NDArray[np.int64]) -> Float:
    """float32 in [0, 1) that depends only on seed, stream and `at`."""
    return (hash32(seed, stream, *at) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


@dataclass(frozen=True, kw_only=True)
class Periodic(Generic[Scalar]):
    """A texture that repeats, stored with a margin so that any window is one view.

    data_HW: the texture and, beyond its period, its own beginning again.
    """

    data_HW: NDArray[Scalar]
    period_px: int

    def window(self, y0: int, x0: int, height: int, width: int) -> NDArray[Scalar]:
        """The window with its corner at absolute (y0, x0); at most as large as the margin."""
        y, x = y0 % self.period_px, x0 % self.period_px
        return self.data_HW[y : y + height, x : x + width]


def periodic(texture_HW: NDArray[Scalar], margin_px: int) -> Periodic[Scalar]:
    """A square texture made ready for windows of up to `margin_px` pixels a side."""
    side = texture_HW.shape[0]
    at = np.arange(side + margin_px) % side
    return Periodic(data_HW=texture_HW[at[:, None], at[None, :]], period_px=side)


def smooth_noise(seed: int, stream: int, side: int, sigma_y: float, sigma_x: float) -> Float:
    """Periodic Gaussian noise of `side` pixels, mean 0, deviation 1, blurred by the sigmas in pixels."""
    at = np.arange(side, dtype=np.int64)
    white = uniform(seed, stream, at[:, None], at[None, :]) - np.float32(0.5)
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    gain = np.exp(-2 * np.pi**2 * ((fy * sigma_y) ** 2 + (fx * sigma_x) ** 2)).astype(np.float32)
    gain[0, 0] = 0
    noise = np.fft.irfft2(np.fft.rfft2(white) * gain, s=(side, side))
    scaled: Float = (noise / noise.std()).astype(np.float32)
    return scaled


def to_uint8(values: Float) -> UInt8:
    """0..1 to 0..255, rounded and clipped."""
    rounded: UInt8 = np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)
    return rounded


@dataclass(frozen=True, kw_only=True)
class Fibres:
    """Periodic fibres, [side, side] each. density: eosin. angle: the nearest of ANGLES."""

    density: UInt8
    angle: UInt8


def fibres(seed: int, stream: int, side: int, shear: int = 0) -> Fibres:
    """Wavy collagen with pale clefts that runs along x, or with shear 1 half way between x and -y."""
    warp = 40 * smooth_noise(seed, stream, side, 130, 70) + 3.5 * smooth_noise(seed, stream + 1, side, 18, 15)
    fibrils = smooth_noise(seed, stream + 2, side, 1.1, 26)
    bundles = smooth_noise(seed, stream + 3, side, 4.5, 60)
    columns = np.arange(side)[None, :]
    rows = np.arange(side)[:, None] + shear * columns + warp
    base = np.floor(rows).astype(np.int64)
    part = (rows - base).astype(np.float32)

    def along(texture: Float) -> Float:
        upper: Float = texture[base % side, columns]
        upper += (texture[(base + 1) % side, columns] - upper) * part
        return upper

    bundle = along(bundles)
    cleft = np.clip((bundle + 1.75) / 0.4, 0.10, 1)
    density = (0.60 + 0.11 * along(fibrils) + 0.09 * bundle) * cleft
    across, down = ((np.roll(warp, -1, axis) - np.roll(warp, 1, axis)) / 2 for axis in (1, 0))
    angle = np.arctan2(-(shear + across), 1 + down) * (ANGLES / np.pi)
    return Fibres(
        density=to_uint8(density), angle=(np.rint(angle).astype(np.int64) % ANGLES).astype(np.uint8)
    )


def turned(texture: Fibres) -> Fibres:
    """Mirrored at the diagonal: what ran along x runs along y."""
    angle = (ANGLES // 2 - texture.angle.T.astype(np.int64)) % ANGLES
    return Fibres(density=np.ascontiguousarray(texture.density.T), angle=angle.astype(np.uint8))


def cytoplasm(seed: int, stream: int, side: int) -> UInt8:
    """Grainy cells with pale borders and a few vacuoles: eosin density [side, side] uint8."""
    fine, coarse = smooth_noise(seed, stream, side, 1.6, 1.6), smooth_noise(seed, stream + 1, side, 7, 7)
    vacuoles = np.clip((smooth_noise(seed, stream + 2, side, 3.5, 3.5) - 2.1) / 0.8, 0, 0.7)
    gap = _voronoi_gap(seed, stream + 3, side, side // 35, 1) + 1.5 * coarse
    border = 0.34 * np.exp(-((np.maximum(gap, 0) / 3.2) ** 2)) * np.clip(0.9 + 0.7 * coarse, 0, 1)
    return to_uint8((0.60 + 0.055 * fine + 0.06 * coarse) * (1 - vacuoles) * (1 - border))


def fat(seed: int, stream: int) -> UInt8:
    """Walls of fat cells: 255 on a wall, 0 inside a cell; [FAT_PX, FAT_PX] uint8."""
    step = 4
    gap = _voronoi_gap(seed, stream, FAT_PX, 7, step)
    side, fine = gap.shape[0], np.arange(FAT_PX)
    low, part = fine // step, ((fine % step) / step).astype(np.float32)
    gap = gap[low] + (gap[(low + 1) % side] - gap[low]) * part[:, None]
    gap = gap[:, low] + (gap[:, (low + 1) % side] - gap[:, low]) * part[None, :]
    width = 4.5 + 2.5 * smooth_noise(seed, stream + 2, FAT_PX, 25, 25)
    return to_uint8(np.clip(1.5 - gap / np.maximum(width, 3), 0, 1))


def _voronoi_gap(seed: int, stream: int, side: int, cells: int, step: int) -> Float:
    """Distance in pixels to the second nearest centre less that to the nearest: 0 where two cells meet.

    Periodic; one jittered centre in each square of a `cells` x `cells` grid over `side` pixels; sampled
    every `step` pixels.
    """
    pitch = side / cells
    pixel = np.arange(0, side, step)
    square = (pixel / pitch).astype(np.int64)
    nearest = np.full((pixel.size, pixel.size), 1e9, np.float32)
    second = nearest.copy()
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            iy, ix = square[:, None] + dy, square[None, :] + dx
            jitter_y, jitter_x = (
                uniform(seed, stream + i, np.arange(cells)[:, None], np.arange(cells)[None]) for i in (0, 1)
            )
            at = iy % cells, ix % cells
            y = (iy + np.float32(0.15) + np.float32(0.7) * jitter_y[at]) * np.float32(pitch)
            x = (ix + np.float32(0.15) + np.float32(0.7) * jitter_x[at]) * np.float32(pitch)
            distance = np.hypot(y - pixel[:, None], x - pixel[None, :]).astype(np.float32)
            second = np.minimum(second, np.maximum(nearest, distance))
            nearest = np.minimum(nearest, distance)
    return second - nearest


@dataclass(frozen=True, kw_only=True)
class Stamps:
    """The nuclei. density: hematoxylin [N, STAMP_PX, STAMP_PX] uint8; support: 1 on the nucleus, else 0.

    Stamp (kind * ANGLES + angle) * VARIANTS + variant is centred on pixel (STAMP_PX // 2, STAMP_PX // 2).
    """

    density: UInt8
    support: UInt8


def nuclei(seed: int, stream: int) -> Stamps:
    """Renders the library: 3 kinds x ANGLES x VARIANTS nuclei. No density passes 184: room for cytoplasm."""
    chromatin = 0.6 * smooth_noise(seed, stream, 256, 1.3, 1.3) + 0.5 * smooth_noise(
        seed, stream + 1, 256, 3, 3
    )
    parts = [_nuclei_of_kind(seed, stream + 2, kind, chromatin) for kind in range(len(_KINDS))]
    return Stamps(
        density=np.concatenate([p.density for p in parts]), support=np.concatenate([p.support for p in parts])
    )


def _nuclei_of_kind(seed: int, stream: int, kind: int, chromatin: Float) -> Stamps:
    longest, ratio, darkness, spread, clumps, membrane = _KINDS[kind]
    number = np.arange(ANGLES * VARIANTS, dtype=np.int64)

    def draw(trait: int) -> Float:
        return uniform(seed, stream, np.int64(kind) + 0 * number, number, trait + 0 * number)[:, None, None]

    half = (longest[0] + (longest[1] - longest[0]) * draw(0)) / 2
    short = half * (ratio[0] + (ratio[1] - ratio[0]) * draw(1))
    angle = ((number // VARIANTS)[:, None, None] + draw(2) - 0.5) * (np.pi / ANGLES)
    grid = np.arange(STAMP_PX, dtype=np.float32) - STAMP_PX // 2
    y, x = grid[:, None], grid[None, :]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    polar = np.arctan2(v / short, u / half)
    wobble = 1 + 0.06 * np.cos(2 * polar + 6.28 * draw(3)) + 0.05 * np.cos(3 * polar + 6.28 * draw(4))
    # Signed distance to the border in pixels, near enough at the border itself.
    radius, slope = np.hypot(u / half, v / short), np.hypot(u / half**2, v / short**2)
    depth = (1 - radius / wobble) * np.clip(radius / np.maximum(slope, 1e-6), short, half)
    soft = np.maximum(0.52 * np.tanh(depth / (0.9 + 0.6 * draw(5))) + 0.48, 0)
    inside = darkness + spread * (2 * draw(6) - 1) + membrane * np.exp(-(((depth - 1.5) / 1.6) ** 2))
    inside = inside + clumps * _windows(chromatin, draw(7), draw(8))
    if kind == EPITHELIAL:
        for spot in range(2):
            far = 0.55 * (draw(10 + spot) - 0.5), 0.55 * (draw(12 + spot) - 0.5)
            near = np.exp(-(((u - far[0] * half * 2) ** 2 + (v - far[1] * short * 2) ** 2) / 7))
            inside = inside + near * 0.35 * (draw(14 + spot) > 0.35)
    density = to_uint8((soft * np.clip(inside, 0.22, 1.0) * 0.72).astype(np.float32))
    return Stamps(density=density, support=(depth > 0).astype(np.uint8))


def _windows(texture: Float, at_y: Float, at_x: Float) -> Float:
    """One window of STAMP_PX pixels out of a square texture for each pair of offsets in [0, 1)."""
    room = texture.shape[0] - STAMP_PX
    view = np.lib.stride_tricks.sliding_window_view(texture, (STAMP_PX, STAMP_PX))
    windows: Float = view[(at_y.ravel() * room).astype(np.int64), (at_x.ravel() * room).astype(np.int64)]
    return windows


def stain_table(seed: int) -> UInt32:
    """Colour of every pair of densities, by Beer and Lambert's law.

    Entry eosin * 256 + hematoxylin holds red + green * 2**8 + blue * 2**16, each 0..248: room for the noise.
    """
    tint = 1 + 0.16 * (uniform(seed, 90, np.arange(6, dtype=np.int64)) - np.float32(0.5))
    glass = np.array([246.0, 245.0, 247.0])
    hematoxylin = np.array([1.40, 1.66, 0.72]) * tint[:3]
    eosin = np.array([0.17, 0.80, 0.36]) * tint[3:]
    level = np.arange(256) / 255
    # A nucleus takes little eosin.
    pink = level[:, None] * (1 - 0.5 * np.clip(level[None, :] / 0.45, 0, 1))
    optical = pink[..., None] * eosin + level[None, :, None] * hematoxylin
    rgb = np.clip(np.rint(glass * np.exp(-optical) - 3), 0, 248).astype(np.uint32)
    packed: UInt32 = rgb[..., 0] | rgb[..., 1] << np.uint32(8) | rgb[..., 2] << np.uint32(16)
    return packed.ravel()


def sensor_noise(seed: int, stream: int) -> UInt32:
    """Noise of a camera, to be added to packed colours: 0..7 in each byte; [NOISE_PX, NOISE_PX] uint32."""
    packed = np.zeros((NOISE_PX, NOISE_PX), np.uint32)
    for channel in range(3):
        noise = smooth_noise(seed, stream + channel, NOISE_PX, 0.5, 0.5)
        packed |= np.clip(np.rint(3 + 1.3 * noise), 0, 7).astype(np.uint32) << np.uint32(8 * channel)
    return packed
