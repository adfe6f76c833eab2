"""One pass over the synthetic slide, top to bottom: paint, encode, halve.

Memory is a few rows of tiles whatever the height. Shapes: H height, W width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, TypeVar

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from axialcli.geometry import Box, Size, level_sizes, whole
from axialcli.image.textures import UInt8, UInt32
from axialcli.image.tissue import PANE_W, Pane, Tissue

TILE_PX = 256
SMALLEST_PX = 512
"""The pyramid ends with the first level whose longer side is no longer than this."""
_ROWS_AHEAD = 2
_EVEN_BYTES = np.uint32(0x00FF00FF)

Scalar = TypeVar("Scalar", np.uint8, np.uint32)


class Spool:
    """Encoded tiles of several levels, in the order in which they were made."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._spans: dict[int, list[tuple[int, int]]] = {}
        self._end = 0

    def add(self, level: int, tiles: list[bytes]) -> None:
        for tile in tiles:
            self._spans.setdefault(level, []).append((self._end, len(tile)))
            self._file.write(tile)
            self._end += len(tile)

    def tiles(self, level: int) -> Iterator[bytes]:
        for start, length in self._spans[level]:
            self._file.seek(start)
            yield self._file.read(length)


@dataclass(frozen=True, kw_only=True)
class _Column:
    """One stretch of a row of tiles: its encoded tiles, and its pixels at half the size."""

    slide: list[bytes]
    nuclei: list[bytes]
    half: Pane


@dataclass(kw_only=True)
class _Level:
    """A reduced level: its size, and the row of tiles that fills from above."""

    size: Size
    band: Pane
    filled: int = 0
    finished: int = 0


class Sweep:
    """One pass over the slide, top to bottom: yields the tiles of level 0, spools the rest."""

    def __init__(
        self,
        painter: Tissue,
        size: Size,
        *,
        quality: int,
        pool: ThreadPoolExecutor,
        slide: Spool,
        truth: Spool | None,
        progress: Callable[[float], None],
    ) -> None:
        """slide: takes the reduced levels. truth: takes all levels of the mask of nuclei, where asked for."""
        self._painter, self._size, self._quality, self._pool = painter, size, quality, pool
        self._slide, self._truth, self._progress = slide, truth, progress
        self._done_px = 0
        below = level_sizes(size, SMALLEST_PX)[1:]
        self._reduced = [_Level(size=smaller, band=_band(smaller)) for smaller in below]

    def slide_tiles(self) -> Iterator[bytes]:
        """JPEG tiles of level 0, row-major. The next rows are painted while one is written."""
        height, width = self._size
        ahead: deque[list[Future[_Column]]] = deque()
        for y in range(0, height, TILE_PX):
            columns = (Box(y, x, y + TILE_PX, x + PANE_W) for x in range(0, width, PANE_W))
            boxes = [column.intersection(whole(self._size)) for column in columns]
            ahead.append([self._pool.submit(self._paint, box) for box in boxes])
            if len(ahead) > _ROWS_AHEAD:
                yield from self._finish(ahead.popleft())
        while ahead:
            yield from self._finish(ahead.popleft())

    def _paint(self, box: Box) -> _Column:
        return self._encode(self._painter.paint(box))

    def _encode(self, pane: Pane) -> _Column:
        return _Column(
            slide=[_jpeg(tile, self._quality) for tile in _tiles(pane.rgbx_HW)],
            nuclei=[] if self._truth is None else [_deflate(tile) for tile in _tiles(pane.nuclei_HW)],
            half=Pane(rgbx_HW=_halve_colours(pane.rgbx_HW), nuclei_HW=_halve_labels(pane.nuclei_HW)),
        )

    def _finish(self, row: list[Future[_Column]]) -> Iterator[bytes]:
        columns = [column.result() for column in row]
        self._spool_truth(0, columns)
        self._reduce(1, columns)
        self._done_px += TILE_PX
        self._progress(min(1.0, self._done_px / self._size.height))
        for column in columns:
            yield from column.slide

    def _spool_truth(self, number: int, columns: list[_Column]) -> None:
        if self._truth is not None:
            for column in columns:
                self._truth.add(number, column.nuclei)

    def _reduce(self, number: int, columns: list[_Column]) -> None:
        """Appends the halves of one row of tiles to level `number`; a full row of that goes on, encoded."""
        if number > len(self._reduced):
            return
        level = self._reduced[number - 1]
        rows = level.filled + columns[0].half.nuclei_HW.shape[0]
        np.concatenate([c.half.rgbx_HW for c in columns], 1, level.band.rgbx_HW[level.filled : rows])
        np.concatenate([c.half.nuclei_HW for c in columns], 1, level.band.nuclei_HW[level.filled : rows])
        level.filled = rows
        if rows < TILE_PX and level.finished + rows < level.size.height:
            return
        panes = [
            Pane(
                rgbx_HW=level.band.rgbx_HW[:rows, x : x + PANE_W],
                nuclei_HW=level.band.nuclei_HW[:rows, x : x + PANE_W],
            )
            for x in range(0, level.size.width, PANE_W)
        ]
        done = list(self._pool.map(self._encode, panes))
        level.filled, level.finished = 0, level.finished + rows
        for column in done:
            self._slide.add(number, column.slide)
        self._spool_truth(number, done)
        self._reduce(number + 1, done)


def _band(size: Size) -> Pane:
    """An empty row of tiles, as wide as a level."""
    shape = TILE_PX, size.width
    return Pane(rgbx_HW=np.empty(shape, np.uint32), nuclei_HW=np.empty(shape, np.uint8))


def _tiles(plane_HW: NDArray[Scalar]) -> Iterator[NDArray[Scalar]]:
    """Row-major tiles of TILE_PX; at the edges their last row and column are repeated."""
    height, width = plane_HW.shape
    for y in range(0, height, TILE_PX):
        for x in range(0, width, TILE_PX):
            tile = plane_HW[y : y + TILE_PX, x : x + TILE_PX]
            missing = TILE_PX - tile.shape[0], TILE_PX - tile.shape[1]
            yield np.pad(tile, ((0, missing[0]), (0, missing[1])), mode="edge") if any(missing) else tile


def _jpeg(tile_HW: UInt32, quality: int) -> bytes:
    """Packed colours to JPEG, YCbCr 4:2:0, as most scanners write."""
    rgbx = np.ascontiguousarray(tile_HW).astype("<u4", copy=False).view(np.uint8)
    encoded = imagecodecs.jpeg8_encode(
        rgbx.reshape(TILE_PX, TILE_PX, 4),
        level=quality,
        colorspace=imagecodecs.JPEG8.CS.EXT_RGBX,
        outcolorspace=imagecodecs.JPEG8.CS.YCbCr,
        subsampling=(2, 2),
    )
    return bytes(encoded)


def _deflate(tile_HW: UInt8) -> bytes:
    return bytes(imagecodecs.zlib_encode(tile_HW.tobytes(), level=6))


def _even(plane_HW: NDArray[Scalar]) -> NDArray[Scalar]:
    """The same with its last row and column repeated where their number is odd."""
    height, width = plane_HW.shape
    return np.pad(plane_HW, ((0, height % 2), (0, width % 2)), mode="edge")


def _halve_colours(rgbx_HW: UInt32) -> UInt32:
    """Mean of 2 x 2 packed colours, rounded; red and blue share one 32-bit sum, green has its own."""
    even = _even(rgbx_HW)
    halves: list[UInt32] = []
    for shift in (0, 8):
        bytes_ = (even >> np.uint32(shift)) & _EVEN_BYTES
        rows = bytes_[0::2] + bytes_[1::2]
        total = rows[:, 0::2] + rows[:, 1::2] + np.uint32(0x00020002)
        halves.append((total >> np.uint32(2) & _EVEN_BYTES) << np.uint32(shift))
    return halves[0] | halves[1]


def _halve_labels(nuclei_HW: UInt8) -> UInt8:
    """The more frequent label of 2 x 2; in a tie the nucleus."""
    even = _even(nuclei_HW)
    rows = even[0::2] + even[1::2]
    return (rows[:, 0::2] + rows[:, 1::2] >= 2).astype(np.uint8)
