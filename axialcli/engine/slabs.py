"""The pixels under each row of tiles, blank ones filled, what two rows share read once.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialcli.engine.background import Background
from axialcli.engine.filled import FilledView
from axialcli.engine.grid import TileSpan
from axialcli.engine.stopwatch import Stopwatch
from axialcli.geometry import Box
from axialcli.image import SlideView


@dataclass(frozen=True, kw_only=True)
class Slab:
    """image_HWC: pixels. blank_HW: which of them are background; None where nobody looks for it."""

    image_HWC: NDArray[Any]
    blank_HW: NDArray[np.bool_] | None

    @property
    def height(self) -> int:
        return len(self.image_HWC)

    def below(self, other: Slab) -> Slab:
        """This slab under another one."""
        if not other.height:
            return self
        return Slab(
            image_HWC=np.concatenate((other.image_HWC, self.image_HWC)),
            blank_HW=(
                None
                if self.blank_HW is None or other.blank_HW is None
                else np.concatenate((other.blank_HW, self.blank_HW))
            ),
        )

    def rest(self, start: int) -> Slab:
        """A copy of the rows from `start` on."""
        return Slab(
            image_HWC=self.image_HWC[start:].copy(),
            blank_HW=None if self.blank_HW is None else self.blank_HW[start:].copy(),
        )

    def blank_columns(self) -> NDArray[np.bool_]:
        """Which columns are blank from top to bottom, [W]."""
        if self.blank_HW is None:
            return np.zeros(self.image_HWC.shape[1], np.bool_)
        return np.asarray(self.blank_HW.all(axis=0))


class Slabs:
    """Reads the slabs of a view. pixels: what reads them, and counts their own pixels and the blank ones."""

    def __init__(self, view: SlideView, background: Background | None, stopwatch: Stopwatch) -> None:
        self.pixels = FilledView(view, background)
        self._stopwatch = stopwatch

    def under(self, rows: list[TileSpan], reach: tuple[int, int], own: tuple[int, int]) -> Iterator[Slab]:
        """The slab of each row of tiles, over the view's columns `reach`; of these, `own` are counted."""
        x0, x1 = reach
        inside = slice(own[0] - x0, own[1] - x0)
        shared: Slab | None = None
        for row, following in zip_longest(rows, rows[1:]):
            with self._stopwatch.stage("read"):
                top = row.first + (shared.height if shared else 0)
                if shared and top == row.last:
                    # Tiles that reach beyond the view may have all their rows from the tiles before.
                    slab = shared
                else:
                    image_HWC, blank_HW = self.pixels.read(Box(top, x0, row.last, x1), inside)
                    slab = Slab(image_HWC=image_HWC, blank_HW=blank_HW)
                    if shared:
                        slab = slab.below(shared)
                if following:
                    shared = slab.rest(following.first - row.first)
            yield slab
            # The consumer alone decides how long a slab lives.
            del slab
