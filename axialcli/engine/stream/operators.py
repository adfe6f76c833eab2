"""What every operator of a stream says and does: what it needs, and how it makes one box of its output.

Coordinates are those of the whole picture on the node's own grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from axialcli.engine.stream.reach import Reach
from axialcli.geometry import Box, Size

Axes = tuple[Reach, Reach]
"""What is needed along the height, and along the width."""


@dataclass(frozen=True)
class Piece:
    """A box of a node's output. tensor: its numbers, in the node's layout. size: of the whole output.

    owned: nobody else reads the tensor, it may be overwritten. rows: where the rows of the tensor stand in
    an order of their own (a ring), their numbers; otherwise None.
    """

    tensor: Tensor
    box: Box
    size: Size
    owned: bool = False
    rows: Tensor | None = None


class Operator(ABC):
    """One kind of operator. reaches: per input. border: what lies beyond the picture's edge changes the
    numbers there (zero padding), also where the picture is of one colour."""

    border = False
    any_order = False
    """The last input may come with its rows in any order (a ring)."""
    fresh = False
    """What `run` gives back shares no memory with an input that somebody else reads."""

    def __init__(self, *reaches: Axes) -> None:
        self.reaches = reaches

    @abstractmethod
    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        """The numbers of `box`, from pieces that cover what the reaches ask for."""

    def run_into(self, pieces: Sequence[Piece], box: Box, out: Tensor) -> None:
        """The same, written into `out`."""
        out.copy_(self.run(pieces, box))


def clipped(reaches: Axes, box: Box, size: Size) -> Box:
    """What of an input of that size an operator needs for a box of its output; at least one position."""
    y0, y1 = reaches[0].clipped(box.y0, box.y1, size.height)
    x0, x1 = reaches[1].clipped(box.x0, box.x1, size.width)
    return Box(y0, x0, y1, x1)


def parts(reach: Reach, start: int, stop: int, length: int) -> tuple[int, int, int]:
    """What the outputs [start, stop) ask for: inputs before the picture, inside it, and behind it."""
    low, high = reach.needs(start, stop)
    before, behind = (max(0, min(count, high - low)) for count in (-low, high - length))
    return before, high - low - before - behind, behind
