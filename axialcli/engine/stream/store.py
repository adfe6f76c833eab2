"""The feature store: what one stage of a network leaves for the next, in memory or in scratch files.

Shapes: R rows, H height, W width, C numbers per position, in the order in which a value's layout has them.
"""

from __future__ import annotations

import errno
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from axialcli.engine.stream.slots import Slot
from axialcli.errors import LimitError, OutputError

TILE = 16
"""Side of a tile of a scratch file, in positions: strips of 16 rows and of 16 columns are whole tiles."""

LARGEST_HALF = 65504.0


class FeatureStore(ABC):
    """Values on grids, read and written as strips of whole rows or of whole columns.

    A slot may be asked for fewer numbers per position than it has room for: the first of them.
    dtype: of what is stored, float32, float64 or float16.
    """

    def __init__(self, slots: Sequence[Slot], dtype: torch.dtype) -> None:
        self.slots, self.dtype = tuple(slots), dtype

    def read_rows(self, slot: int, start: int, stop: int, depth: int) -> Tensor:
        """The rows [start, stop) of a slot, [R, W, C], a copy. Raises OutputError."""
        return self._read(slot, start, stop, 0, self.slots[slot].width, depth)

    def write_rows(self, slot: int, start: int, rows_RWC: Tensor) -> None:
        """Writes whole rows from `start` on. Raises OutputError, LimitError beyond float16."""
        self._write(slot, start, 0, self._stored(rows_RWC))

    def read_columns(self, slot: int, start: int, stop: int, depth: int) -> Tensor:
        """The columns [start, stop) of a slot, [H, columns, C], a copy. Raises OutputError."""
        return self._read(slot, 0, self.slots[slot].height, start, stop, depth)

    def write_columns(self, slot: int, start: int, columns_HWC: Tensor) -> None:
        """Writes whole columns from `start` on. Raises OutputError, LimitError beyond float16."""
        self._write(slot, 0, start, self._stored(columns_HWC))

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """What the store takes, of memory or of disk."""

    def sync(self) -> None:  # noqa: B027 # Memory has nothing to sync.
        """Asks the disk to hold what was written. Raises OutputError."""

    def close(self) -> None:  # noqa: B027 # Memory goes with the object.
        """Ends the use of the store."""

    @abstractmethod
    def _read(self, slot: int, y0: int, y1: int, x0: int, x1: int, depth: int) -> Tensor: ...

    @abstractmethod
    def _write(self, slot: int, y0: int, x0: int, box_HWC: Tensor) -> None: ...

    def _stored(self, box_HWC: Tensor) -> Tensor:
        """The numbers as they are stored."""
        if self.dtype == torch.float16 and box_HWC.dtype != torch.float16:
            largest = float(box_HWC.abs().max())
            if largest > LARGEST_HALF:
                raise LimitError(
                    f"the network's features reach {largest:.3g}, float16 ends at {LARGEST_HALF:.0f}: "
                    "store them with --store-dtype float32"
                )
        return box_HWC.to(self.dtype)


class MemoryStore(FeatureStore):
    """One tensor a slot."""

    def __init__(self, slots: Sequence[Slot], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(slots, dtype)
        self._tensors = [
            torch.empty((slot.height, slot.width, slot.depth), dtype=dtype, device=device) for slot in slots
        ]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors)

    def close(self) -> None:
        self._tensors.clear()

    def _read(self, slot: int, y0: int, y1: int, x0: int, x1: int, depth: int) -> Tensor:
        # A copy: what is made from it may be written over the same place.
        return self._tensors[slot][y0:y1, x0:x1, :depth].clone(memory_format=torch.contiguous_format)

    def _write(self, slot: int, y0: int, x0: int, box_HWC: Tensor) -> None:
        height, width, depth = box_HWC.shape
        self._tensors[slot][y0 : y0 + height, x0 : x0 + width, :depth] = box_HWC


class ScratchStore(FeatureStore):
    """One file a slot, tile after tile of TILE x TILE positions, row by row in each.

    The files are read and written at places, never mapped: on a full disk a mapped page is a signal,
    not an exception. Files that are there already keep what they hold. Raises OutputError.
    """

    def __init__(self, folder: Path, slots: Sequence[Slot], dtype: torch.dtype) -> None:
        super().__init__(slots, dtype)
        self._kind = np.dtype(str(dtype).removeprefix("torch."))
        self._paths = [folder / f"features-{number}.bin" for number in range(len(slots))]
        self._files: list[io.FileIO] = []
        try:
            for path, size in zip(self._paths, self.sizes(slots, dtype), strict=True):
                self._open(path, size)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path, size: int) -> None:
        with _scratch(path):
            # "r+" alone fails where there is none yet, "w+" would empty what is there.
            self._files.append(io.FileIO(path, "r+", opener=_open_or_make))
            if self._files[-1].seek(0, io.SEEK_END) != size:
                self._files[-1].truncate(size)

    @staticmethod
    def sizes(slots: Sequence[Slot], dtype: torch.dtype) -> list[int]:
        """Bytes of the slots' files."""
        return [
            -(-slot.height // TILE) * -(-slot.width // TILE) * TILE**2 * slot.depth * dtype.itemsize
            for slot in slots
        ]

    @property
    def nbytes(self) -> int:
        return sum(self.sizes(self.slots, self.dtype))

    def sync(self) -> None:
        for path, file in zip(self._paths, self._files, strict=True):
            with _scratch(path):
                os.fsync(file.fileno())

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _read(self, slot: int, y0: int, y1: int, x0: int, x1: int, depth: int) -> Tensor:
        full = self.slots[slot].depth
        box_HWC = np.empty((y1 - y0, x1 - x0, depth), self._kind)
        with _scratch(self._paths[slot]):
            for y, rows, left, right in self._runs(y0, y1, x0, x1):
                tiles = np.empty(((right - left) // TILE, rows, TILE, full), self._kind)
                # Whole tiles beside each other are one piece of the file.
                for number, piece in enumerate([tiles] if rows == TILE else tiles):
                    self._files[slot].seek(self._offset(slot, y, left + number * TILE))
                    _fill(self._files[slot], piece)
                strip = tiles.transpose(1, 0, 2, 3).reshape(rows, right - left, full)
                box_HWC[y - y0 : y - y0 + rows] = strip[:, x0 - left : x1 - left, :depth]
        return torch.from_numpy(box_HWC)

    def _write(self, slot: int, y0: int, x0: int, box_HWC: Tensor) -> None:
        box = box_HWC.cpu().numpy()
        height, width, depth = box.shape
        x1 = x0 + width
        with _scratch(self._paths[slot]):
            for y, rows, left, right in self._runs(y0, y0 + height, x0, x1):
                strip = np.zeros((rows, right - left, self.slots[slot].depth), self._kind)
                strip[:, x0 - left : x1 - left, :depth] = box[y - y0 : y - y0 + rows]
                # The columns beyond the picture's edge are nobody's, so that its last tile is whole too.
                end = right if x1 == self.slots[slot].width else x1
                tiles = strip.reshape(rows, -1, TILE, strip.shape[2]).transpose(1, 0, 2, 3)
                if (left, right) == (x0, end) and rows == TILE:
                    self._put(slot, y, left, tiles)
                    continue
                for at, tile in zip(range(left, right, TILE), tiles, strict=True):
                    inner, outer = max(at, x0), min(at + TILE, end)
                    if outer - inner == TILE:
                        self._put(slot, y, at, tile)
                        continue
                    for row in range(rows):
                        self._put(slot, y + row, inner, tile[row, inner - at : outer - at])

    def _put(self, slot: int, y: int, x: int, part: NDArray[np.generic]) -> None:
        """Writes what lies in one piece from the position (y, x) on. Raises OSError."""
        self._files[slot].seek(self._offset(slot, y, x))
        left = memoryview(np.ascontiguousarray(part).data).cast("B")
        while left:
            left = left[self._files[slot].write(left) :]

    @staticmethod
    def _runs(y0: int, y1: int, x0: int, x1: int) -> Iterator[tuple[int, int, int, int]]:
        """The rows of each row of tiles: first row, how many, and the tiles' columns [left, right)."""
        left, right = x0 // TILE * TILE, -(-x1 // TILE) * TILE
        y = y0
        while y < y1:
            stop = min(y1, y // TILE * TILE + TILE)
            yield y, stop - y, left, right
            y = stop

    def _offset(self, slot: int, y: int, x: int) -> int:
        """Where a position lies in its file, in bytes."""
        across = -(-self.slots[slot].width // TILE)
        position = (y // TILE * across + x // TILE) * TILE**2 + y % TILE * TILE + x % TILE
        return position * self.slots[slot].depth * self._kind.itemsize


def _open_or_make(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o666)


def _fill(file: io.FileIO, array: NDArray[np.generic]) -> None:
    """Reads a whole contiguous array. Raises OSError, also where the file ends."""
    left = memoryview(array.data).cast("B")
    while left:
        count = file.readinto(left)
        if not count:
            raise OSError(errno.EIO, "the file ends too early")
        left = left[count:]


@contextmanager
def _scratch(path: Path) -> Iterator[None]:
    """Turns an OSError of the body into the OutputError of a scratch file."""
    try:
        yield
    except OSError as error:
        raise scratch_error(path, error) from error


def scratch_error(path: Path, error: OSError) -> OutputError:
    """The one-line error for a failure of a scratch file: what the system said, and what to do."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        advice = "free some space, or name another folder with --scratch; then run the same command again"
    else:
        advice = "check the folder that --scratch names"
    return OutputError(f"cannot use scratch file {path}: {reason}; {advice}")
