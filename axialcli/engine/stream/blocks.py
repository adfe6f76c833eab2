"""From rows of logits to the finished blocks of the output.

Shapes: B batch, K classes (or logits), H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from axialcli.backends import Model
from axialcli.engine.stream.late_shuffle import LateShuffle
from axialcli.engine.stream.transfer import Download
from axialcli.geometry import Block, Box, label_dtype


@dataclass
class _Arriving:
    """Rows of a block on their way from the device."""

    rows: Box
    labels_HW: Download
    probs_KHW: Download | None
    logits_KHW: dict[Box, Download]


class BlockRows:
    """Collects rows from top to bottom until they fill the next wanted block.

    wanted: blocks of equal columns, from top to bottom; other rows are dropped. probs: whether the
    blocks carry probabilities. windows: those whose logits the blocks carry; each lies in one block.
    late: how the rows that come become pixels. Rows are stored one step after they were decided, so that
    a GPU copies them while it computes.
    """

    def __init__(
        self,
        model: Model,
        wanted: list[Box],
        *,
        probs: bool,
        windows: Sequence[Box],
        late: LateShuffle,
    ) -> None:
        self._model, self._wanted, self._with_probs, self._windows = model, list(wanted), probs, windows
        self._late = late
        self._arriving: list[_Arriving] = []
        self._last_row = wanted[-1].y1
        self._open()

    @property
    def complete(self) -> bool:
        """All wanted rows were added; the last blocks may still have to be finished."""
        return not self._wanted or (bool(self._arriving) and self._arriving[-1].rows.y1 == self._last_row)

    def add(self, first_row: int, logits: Tensor) -> Iterator[Block]:
        """Takes the rows from `first_row` on, over the blocks' columns; yields the blocks that earlier rows
        have completed.

        Rows and columns are positions of `late`, and logits [1, K * S, H, W] of them; what lies beyond the
        blocks is dropped.
        """
        yield from self.finish()
        factor = self._late.factor
        first_row, last_row = first_row * factor, (first_row + logits.shape[2]) * factor
        for box in self._wanted:
            rows = Box(max(first_row, box.y0), box.x0, min(last_row, box.y1), box.x1)
            if rows.empty:
                return
            inside = self._late.positions(rows.y0 - first_row, rows.y1 - first_row)
            self._decide(rows, logits[:, :, inside].float())

    def finish(self) -> Iterator[Block]:
        """Stores what has arrived; yields the blocks that it completes."""
        for part in self._arriving:
            box = self._wanted[0]
            self._store(box, part)
            if part.rows.y1 == box.y1:
                yield Block(
                    box=box,
                    labels_HW=self._labels_HW,
                    probs_KHW=self._probs_KHW,
                    windows=tuple(self._logits.items()),
                )
                self._wanted.pop(0)
                self._open()
        self._arriving.clear()

    def _open(self) -> None:
        """Room for the next block."""
        self._probs_KHW: NDArray[np.float32] | None = None
        self._logits: dict[Box, NDArray[np.float32]] = {}
        if not self._wanted:
            return
        box = self._wanted[0]
        classes = len(self._model.spec.classes)
        self._labels_HW = np.empty((box.height, box.width), label_dtype(classes))
        if self._with_probs:
            self._probs_KHW = np.empty((classes, box.height, box.width), np.float32)

    def _decide(self, rows: Box, logits: Tensor) -> None:
        labels_HW = self._late.labels(self._model, logits)[: rows.height, : rows.width]
        parts = {window: window.intersection(rows) for window in self._windows}
        parts = {window: part for window, part in parts.items() if not part.empty}
        probs_KHW, of_windows = None, {}
        if parts or self._with_probs:
            logits_BKHW = self._late.pixels(logits)[..., : rows.height, : rows.width]
            if self._with_probs:
                probs_KHW = Download(self._model.activate(logits_BKHW)[0])
            of_windows = {
                window: Download(logits_BKHW[(0, slice(None), *part.within(rows))])
                for window, part in parts.items()
            }
        self._arriving.append(_Arriving(rows, Download(labels_HW), probs_KHW, of_windows))

    def _store(self, box: Box, part: _Arriving) -> None:
        inside = slice(part.rows.y0 - box.y0, part.rows.y1 - box.y0)
        self._labels_HW[inside] = part.labels_HW.array()
        if self._probs_KHW is not None and part.probs_KHW is not None:
            self._probs_KHW[:, inside] = part.probs_KHW.array()
        for window, download in part.logits_KHW.items():
            logits_KHW = download.array()
            if window not in self._logits:
                shape = (len(logits_KHW), window.height, window.width)
                self._logits[window] = np.empty(shape, np.float32)
            filled = window.intersection(part.rows).within(window)
            self._logits[window][(slice(None), *filled)] = logits_KHW
