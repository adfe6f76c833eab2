"""Line buffers: the rows of a node that a later step still reads.

In memory the rows come first, then the columns, then everything else of a position.
"""

from __future__ import annotations

import torch
from torch import Tensor

from axialcli.engine.stream.graph import Plane


class LineBuffer:
    """A window of rows that moves down the picture, in one piece of memory.

    Rows are appended below; those that nobody reads any more leave at the top. room: rows of memory;
    more than exist at once, so that rows move to the top only now and then.
    """

    def __init__(self, plane: Plane, *, room: int, dtype: torch.dtype, device: torch.device) -> None:
        self._layout = MemoryLayout(plane)
        self._rows = self._layout.empty(room, plane.width, dtype, device)
        self._start = self._stop = 0
        self._at = 0

    def begin(self, row: int) -> None:
        """Empties the buffer; the next row to come is `row`."""
        self._start = self._stop = row
        self._at = 0

    def append(self, count: int) -> list[tuple[int, int, Tensor]]:
        """Where the next rows have to be written: (first row, row behind the last, view)."""
        held = self._stop - self._start
        if self._at + held + count > len(self._rows):
            _move_up(self._rows, self._at, held)
            self._at = 0
        at = self._at + held
        first, self._stop = self._stop, self._stop + count
        return [(first, self._stop, self._layout.view(self._rows[at : at + count]))]

    def read(self, start: int, stop: int) -> Tensor:
        """The rows [start, stop), a view in the node's layout."""
        if start < self._start or stop > self._stop:
            raise IndexError(
                f"rows {start} to {stop} are not in the buffer, {self._start} to {self._stop} are"
            )
        at = self._at + start - self._start
        return self._layout.view(self._rows[at : at + stop - start])

    def parts(self, start: int, stop: int) -> list[tuple[int, int, Tensor]]:
        """What is there of the rows [start, stop): (first row, row behind the last, view)."""
        start = max(start, self._start)
        return [(start, stop, self.read(start, stop))] if start < stop else []

    def move_on(self, count: int) -> None:
        """The same numbers are now those of the rows `count` further down."""
        self._start += count
        self._stop += count

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

    Their order in memory is that of a ring, which a softmax over keys does not mind. numbers: which row
    lies where; ABSENT where there is none yet.
    """

    def __init__(self, plane: Plane, *, room: int, dtype: torch.dtype, device: torch.device) -> None:
        self._layout = MemoryLayout(plane)
        self._rows = self._layout.empty(room, plane.width, dtype, device)
        self.numbers = torch.full((room,), ABSENT, dtype=torch.int64, device=device)
        self._stop = 0

    def begin(self, row: int) -> None:
        """Empties the buffer; the next row to come is `row`."""
        self.numbers.fill_(ABSENT)
        # What is not there must not look like infinity: a weight of zero times infinity is none.
        self._rows.zero_()
        self._stop = row

    def append(self, count: int) -> list[tuple[int, int, Tensor]]:
        """Where the next rows have to be written: (first row, row behind the last, view), one or two."""
        first, self._stop = self._stop, self._stop + count
        room = len(self._rows)
        for start, stop, _ in (parts := self.parts(first, self._stop)):
            at = start % room
            torch.arange(start, stop, out=self.numbers[at : at + stop - start])
        return parts

    def parts(self, start: int, stop: int) -> list[tuple[int, int, Tensor]]:
        """What is there of the rows [start, stop): (first row, row behind the last, view), up to two."""
        room = len(self._rows)
        start = max(start, self._stop - room)
        found = []
        while start < stop:
            at = start % room
            end = min(stop, start + room - at)
            found.append((start, end, self._layout.view(self._rows[at : at + end - start])))
            start = end
        return found

    def read(self) -> Tensor:
        """All rows in the ring's order, a view in the node's layout."""
        return self._layout.view(self._rows)

    def move_on(self, count: int) -> None:
        """The same numbers are now those of the rows `count` further down."""
        turn = count % len(self._rows)
        self._rows.copy_(self._rows.roll(turn, 0))
        self.numbers.copy_(self.numbers.roll(turn, 0) + count)
        self._stop += count

    def forget(self, row: int) -> None:
        """Nothing: rows leave when they are written over."""

    @property
    def oldest(self) -> int:
        """The first row that was not written over yet."""
        return self._stop - len(self._rows)

    @property
    def nbytes(self) -> int:
        return self._rows.nbytes


ABSENT = -(1 << 40)
"""The number of a row that was never written: far from every query."""


class MemoryLayout:
    """Between memory (rows, columns, others) and the layout of a node (batch first, then any order)."""

    def __init__(self, plane: Plane) -> None:
        dims = len(plane.shape)
        others = [dim for dim in range(1, dims) if dim not in (plane.row_dim, plane.column_dim)]
        self.others = tuple(plane.shape[dim] for dim in others)
        in_memory = [0, plane.row_dim, plane.column_dim, *others]
        self._order = [in_memory.index(dim) for dim in range(dims)]

    def empty(self, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory for rows; zero, so that what was never written is a number."""
        return torch.zeros((rows, columns, *self.others), dtype=dtype, device=device)

    def view(self, rows: Tensor) -> Tensor:
        """Rows as they lie in memory, seen in the node's layout, without a copy."""
        return rows.unsqueeze(0).permute(self._order)
