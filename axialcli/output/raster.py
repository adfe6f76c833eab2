"""A tiled picture in a spool: blocks go in, a pyramid is built, and tiles come out in file order.

Shapes: P planes, H height, W width. A tile's index is `plane * tiles per plane + row-major number`.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import imagecodecs
import numpy as np
from numpy.typing import DTypeLike, NDArray

from axialcli.config import MASK_TILE as TILE
from axialcli.errors import OutputError
from axialcli.geometry import Box, Size, grid_boxes, level_sizes, whole
from axialcli.output.reduce import nearest
from axialcli.output.spool import TileSpool

Reduce = Callable[[NDArray[Any]], NDArray[Any]]
_In = TypeVar("_In")
_Out = TypeVar("_Out")


class TiledRaster:
    """A picture [P, H, W] of one dtype, as zlib-compressed 512 px tiles in a spool, with its pyramid.

    levels: sizes from level 0 down to the one whose longer side is at most 512. encode_s: seconds spent on
    compressing, summed over the threads.
    """

    def __init__(
        self, folder: Path, size: Size, *, planes: int, dtype: DTypeLike, effort: int, reduce: Reduce
    ) -> None:
        """Opens the spool in `folder`. effort: zlib level. reduce: halves a picture [H, W].

        Raises OutputError.
        """
        self.levels = level_sizes(size, TILE)
        self.planes = planes
        self.dtype = np.dtype(dtype)
        self._effort, self._reduce = effort, reduce
        self._spool = TileSpool(folder)
        self.encode_s = 0.0
        self._guard = threading.Lock()
        self._uniform: dict[int, bytes] = {}
        self._uniform_tiles: set[bytes] = set()
        self._threads = max(1, min(4, os.cpu_count() or 1))
        self._pool = ThreadPoolExecutor(self._threads, "axial-encode")

    def write(self, box: Box, image_PHW: NDArray[Any]) -> None:
        """Compresses and spools `image_PHW`, which covers `box` of level 0.

        The box starts on the tile grid, and ends on it or on the picture's edge. Raises OutputError.
        """
        assert image_PHW.shape == (self.planes, box.height, box.width), (image_PHW.shape, box)
        self._check_grid(box)
        jobs = [(plane, cell) for plane in range(self.planes) for cell in grid_boxes(box, TILE)]

        def encode(job: tuple[int, Box]) -> None:
            plane, cell = job
            rows, columns = cell.within(box)
            self._put(0, plane, cell, image_PHW[plane, rows, columns])

        self._run(encode, jobs)

    def has(self, box: Box) -> bool:
        """Whether every tile of `box` of level 0 is in the spool, undamaged when it was opened."""
        self._check_grid(box)
        return all(
            (0, self._index(0, plane, cell)) in self._spool
            for plane in range(self.planes)
            for cell in grid_boxes(box, TILE)
        )

    def sync(self) -> None:
        """Returns when the disk holds all tiles. Raises OutputError."""
        self._spool.sync()

    def build_pyramid(self) -> None:
        """Spools all levels above 0. Raises OutputError where a tile of level 0 is missing."""
        if not self.has(whole(self.levels[0])):
            raise OutputError("blocks of the output were never written: run the same command again")
        for level in range(1, len(self.levels)):
            cells = grid_boxes(whole(self.levels[level]), TILE)
            jobs = ((level, plane, cell) for cell in cells for plane in range(self.planes))
            self._run(self._build, jobs)

    def tiles(self, level: int) -> Iterator[bytes]:
        """The compressed tiles of a level in file order: planes, then row-major. Raises OutputError."""
        for plane in range(self.planes):
            for cell in grid_boxes(whole(self.levels[level]), TILE):
                yield self._spool.get(level, self._index(level, plane, cell))

    def read(self, level: int, plane: int, box: Box) -> NDArray[Any]:
        """The pixels [H, W] of `box` of a spooled level. Raises OutputError."""
        image_HW = np.empty((box.height, box.width), self.dtype)
        for part in grid_boxes(box, TILE):
            cell = self._cell(level, part)
            tile_HW = self._decode(self._spool.get(level, self._index(level, plane, cell)))
            image_HW[part.within(box)] = tile_HW[part.within(cell)]
        return image_HW

    def at_most(self, max_px: int) -> NDArray[Any]:
        """The whole first plane, its longer side at most `max_px`: the next larger level, nearest pixels.

        The pyramid must have been built. Raises OutputError.
        """
        fitting = [level for level, size in enumerate(self.levels) if max(size) >= max_px]
        level = fitting[-1] if fitting else 0
        image_HW = self.read(level, 0, whole(self.levels[level]))
        scale = min(1.0, max_px / max(self.levels[level]))
        height, width = (max(1, round(side * scale)) for side in self.levels[level])
        return nearest(image_HW, height, width)

    def close(self) -> None:
        """Ends the threads and closes the spool's files; nothing is deleted."""
        self._pool.shutdown(cancel_futures=True)
        self._spool.close()

    def _build(self, job: tuple[int, int, Box]) -> None:
        """Makes one tile of a level from up to four tiles of the level below."""
        level, plane, cell = job
        below = self.levels[level - 1]
        source = Box(cell.y0 * 2, cell.x0 * 2, cell.y1 * 2, cell.x1 * 2).intersection(whole(below))
        if source.height == source.width == 2 * TILE:
            first, *others = (self._index(level - 1, plane, part) for part in grid_boxes(source, TILE))
            same = self._spool.get(level - 1, first)
            if same in self._uniform_tiles and all(
                self._spool.get(level - 1, other) == same for other in others
            ):
                self._spool.put(level, self._index(level, plane, cell), same)
                return
        self._put(level, plane, cell, self._reduce(self.read(level - 1, plane, source)))

    def _put(self, level: int, plane: int, cell: Box, image_HW: NDArray[Any]) -> None:
        began = time.perf_counter()
        data = self._encode(image_HW)
        taken = time.perf_counter() - began
        with self._guard:
            self.encode_s += taken
        self._spool.put(level, self._index(level, plane, cell), data)

    def _encode(self, image_HW: NDArray[Any]) -> bytes:
        """A whole tile's zlib stream; past the picture's edge a tile is 0, as TIFF wants."""
        if image_HW.shape != (TILE, TILE):
            tile_HW = np.zeros((TILE, TILE), self.dtype)
            tile_HW[: image_HW.shape[0], : image_HW.shape[1]] = image_HW
            return self._deflate(tile_HW)
        bits_HW = image_HW.view(f"u{self.dtype.itemsize}")  # 0.0 equals -0.0, but its bytes do not.
        value = int(bits_HW[0, 0])
        if value != bits_HW[-1, -1] or not bool((bits_HW == value).all()):
            return self._deflate(image_HW)
        data = self._uniform.get(value)
        if data is None:
            data = self._uniform[value] = self._deflate(image_HW)
            self._uniform_tiles.add(data)
        return data

    def _deflate(self, tile_HW: NDArray[Any]) -> bytes:
        # libdeflate: the same zlib stream as zlib_encode writes, at twice the speed.
        return bytes(imagecodecs.deflate_encode(tile_HW.tobytes(), level=self._effort))

    def _decode(self, data: bytes) -> NDArray[Any]:
        plain = imagecodecs.deflate_decode(data, out=TILE * TILE * self.dtype.itemsize)
        return np.frombuffer(plain, self.dtype).reshape(TILE, TILE)

    def _cell(self, level: int, part: Box) -> Box:
        y0, x0 = part.y0 // TILE * TILE, part.x0 // TILE * TILE
        return Box(y0, x0, y0 + TILE, x0 + TILE).intersection(whole(self.levels[level]))

    def _index(self, level: int, plane: int, cell: Box) -> int:
        down, across = (-(-side // TILE) for side in self.levels[level])
        return (plane * down + cell.y0 // TILE) * across + cell.x0 // TILE

    def _check_grid(self, box: Box) -> None:
        height, width = self.levels[0]
        assert not box.empty, box
        assert box == box.intersection(whole(self.levels[0])), box
        assert box.y0 % TILE == box.x0 % TILE == 0, box
        assert box.y1 == height or box.y1 % TILE == 0, box
        assert box.x1 == width or box.x1 % TILE == 0, box

    def _run(self, work: Callable[[_In], _Out], jobs: Iterable[_In]) -> None:
        """Does all jobs in the threads, few ahead; the first error ends them."""
        ahead: deque[Future[_Out]] = deque()
        try:
            for job in jobs:
                ahead.append(self._pool.submit(work, job))
                if len(ahead) >= 4 * self._threads:
                    ahead.popleft().result()
            while ahead:
                ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
