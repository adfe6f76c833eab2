"""Line buffers: the rows of a node that a later step still reads.

Shapes: rows and columns come first in memory, R x W x everything else of a position.
"""

from __future__ import annotations

import torch
from torch import Tensor

from axialcli.engine.stream.graph import Plane


class LineBuffer:
    """A window of rows that moves down the picture, in one piece of memory.

    Rows are appended below; those that nobody reads any more leave at the top. room: rows that exist
    at once. The memory has `spare` rows more, so that rows move to its top only now and then.
    """

    def __init__(self, plane: Plane, *, room: int, spare: int, dtype: torch.dtype, device: torch.device) -> None:
        self._layout = _Layout(plane)
        shape = (room + spare, plane.width, *self._layout.others)
        # Zeros, not noise: what was never written must not look like infinity.
        self._rows = torch.zeros(shape, dtype=dtype, device=device)
        self._start = self._stop = 0
        self._at = 0

    def begin(self, row: int) -> None:
        """Empties the buffer; the next row to come is `row`."""
        self._start = self._stop = row
        self._at = 0

    def append(self, count: int) -> Tensor:
        """Where the next `count` rows have to be written, in the node's layout."""
        held = self._stop - self._start
        if self._at + held + count > len(self._rows):
            _move_up(self._rows, self._at, held)
            self._at = 0
        self._stop += count
        at = self._at + held
        return self._layout.view(self._rows[at : at + count])

    def read(self, start: int, stop: int) -> Tensor:
        """The rows [start, stop), a view in the node's layout."""
        if start < self._start or stop > self._stop:
            raise IndexError(f"rows {start} to {stop} are not in the buffer, {self._start} to {self._stop} are")
        at = self._at + start - self._start
        return self._layout.view(self._rows[at : at + stop - start])

    def forget(self, row: int) -> None:
        """Nobody reads the rows above `row` any more."""
        gone = min(max(row, self._start), self._stop) - self._start
        self._at += gone
        self._start += gone

    @property
    def nbytes(self) -> int:
        return self._rows.nbytes


def _move_up(rows: Tensor, at: int, count: int) -> None:
    """Moves `count` rows from `at` to the top, in parts that do not overlap."""
    done = 0
    while done < count and at:
        part = min(at, count - done)
        rows[done : done + part].copy_(rows[at + done : at + done + part])
        done += part


class RingBuffer:
    """As many rows as attention sees, each written over the oldest: nothing is ever moved.

    Their order in memory is that of a ring, which a softmax over keys does not mind.
    """

    def __init__(self, plane: Plane, *, room: int, dtype: torch.dtype, device: torch.device) -> None:
        self._layout = _Layout(plane)
        self._rows = torch.zeros((room, plane.width, *self._layout.others), dtype=dtype, device=device)
        self._numbers = torch.full((room,), ABSENT, dtype=torch.int64, device=device)
        self._stop = 0

    def begin(self, row: int) -> None:
        """Empties the buffer; the next row to come is `row`."""
        self._numbers.fill_(ABSENT)
        self._rows.zero_()
        self._stop = row

    def append(self, count: int) -> list[tuple[int, int, Tensor]]:
        """Where the next rows have to be written: (first row, row behind the last, view), one or two."""
        parts = []
        room = len(self._rows)
        while count:
            at = self._stop % room
            part = min(count, room - at)
            self._numbers[at : at + part] = torch.arange(self._stop, self._stop + part)
            parts.append((self._stop, self._stop + part, self._layout.view(self._rows[at : at + part])))
            self._stop += part
            count -= part
        return parts

    def read(self) -> tuple[Tensor, Tensor]:
        """All rows in the ring's order, and their numbers; ABSENT where there is none yet."""
        return self._layout.view(self._rows), self._numbers

    @property
    def nbytes(self) -> int:
        return self._rows.nbytes


ABSENT = -(1 << 40)
"""The number of a row that was never written: far from every query."""


class _Layout:
    """Between memory (rows, columns, others) and the layout of a node (batch first, then any order)."""

    def __init__(self, plane: Plane) -> None:
        dims = len(plane.shape)
        others = [dim for dim in range(1, dims) if dim not in (plane.row_dim, plane.column_dim)]
        self.others = tuple(plane.shape[dim] for dim in others)
        in_memory = [0, plane.row_dim, plane.column_dim, *others]
        self._order = [in_memory.index(dim) for dim in range(dims)]

    def view(self, rows: Tensor) -> Tensor:
        """Rows as they lie in memory, seen in the node's layout, without a copy."""
        return rows.unsqueeze(0).permute(self._order)
