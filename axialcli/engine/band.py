"""The rows of a strip that tiles are still being added to, until they leave as blocks.

Shapes: K classes, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from axialcli.backends import Model
from axialcli.engine.certify import logits_of
from axialcli.engine.grid import TileSpan
from axialcli.geometry import Block, Box, label_dtype


class Band:
    """Sums of weighted probabilities from the mask's row `top` on, on the model's device.

    columns: what the strip owns, [x0, x1). wanted: the blocks to yield, from top to bottom; rows
    above the first are computed and dropped. probs: whether the blocks carry probabilities. windows:
    those whose logits the blocks carry; each lies in one block.
    """

    def __init__(
        self,
        model: Model,
        *,
        top: int,
        columns: tuple[int, int],
        wanted: list[Box],
        probs: bool,
        windows: Sequence[Box] = (),
    ) -> None:
        x0, x1 = columns
        self._model, self._x0, self._x1 = model, x0, x1
        self._wanted = list(wanted)
        self._top = self._kept_from = top
        self._sum_KHW = torch.zeros((len(model.spec.classes), 0, x1 - x0), device=model.device)
        # Final rows that no block has taken yet; the probabilities stay empty where nobody wants them.
        self._labels_HW = np.empty((0, x1 - x0), label_dtype(len(model.spec.classes)))
        self._probs_KHW = np.empty((len(model.spec.classes), 0, x1 - x0), np.float32) if probs else None
        self._windows = {box: [w for w in windows if box.contains(w)] for box in self._wanted}
        self._window_probs: dict[Box, NDArray[np.float32]] = {}

    def open(self, row: TileSpan) -> None:
        """Makes room for a row of tiles, below what earlier rows have left."""
        missing = row.stop - self._top - self._sum_KHW.shape[1]
        if missing > 0:
            self._sum_KHW = F.pad(self._sum_KHW, (0, 0, 0, missing))

    def add(self, probs_KHW: Tensor, row: TileSpan, column: TileSpan) -> None:
        """Adds one tile, weighted, to the part of it that the strip owns.

        probs_KHW: from the tile's first pixel of the mask on; what lies beyond the mask is dropped.
        """
        first, last = max(column.start, self._x0), min(column.stop, self._x1)
        inside = slice(first - column.start, last - column.start)
        weight_H, weight_W = torch.from_numpy(row.weight), torch.from_numpy(column.weight[inside])
        weight_HW = (weight_H[:, None] * weight_W[None]).to(self._sum_KHW.device)
        rows = slice(row.start - self._top, row.stop - self._top)
        self._sum_KHW[:, rows, first - self._x0 : last - self._x0].addcmul_(
            probs_KHW[:, : row.stop - row.start, inside], weight_HW
        )

    def finish(self, stop: int) -> Iterator[Block]:
        """Takes the rows above `stop` as final; yields the blocks that they complete."""
        final = stop - self._top
        final_KHW = self._sum_KHW[:, :final]
        # A copy of the few rows that stay lets go of the many that leave.
        self._sum_KHW = self._sum_KHW[:, final:].clone()
        self._keep_windows(final_KHW)
        self._top = stop
        self._labels_HW = np.concatenate((self._labels_HW, self._model.decide(final_KHW).cpu().numpy()))
        if self._probs_KHW is not None:
            self._probs_KHW = np.concatenate((self._probs_KHW, final_KHW.cpu().numpy()), 1)
        del final_KHW
        while self._wanted and self._wanted[0].y1 <= stop:
            yield self._take(self._wanted.pop(0))

    def _keep_windows(self, final_KHW: Tensor) -> None:
        """Keeps, of final rows from `top` on, what lies in windows of blocks that are still to come."""
        rows = Box(self._top, self._x0, self._top + final_KHW.shape[1], self._x1)
        for window in (window for windows in self._windows.values() for window in windows):
            part = window.intersection(rows)
            if part.empty:
                continue
            if window not in self._window_probs:
                shape = (len(final_KHW), window.height, window.width)
                self._window_probs[window] = np.empty(shape, np.float32)
            y, x = part.within(rows)
            kept_KHW = self._window_probs[window]
            kept_KHW[(slice(None), *part.within(window))] = final_KHW[:, y, x].cpu().numpy()

    def _take(self, box: Box) -> Block:
        """The block of `box`, whose rows are then no longer kept."""
        skipped, taken = box.y0 - self._kept_from, box.y1 - self._kept_from
        labels_HW = self._labels_HW[skipped:taken].copy()
        probs_KHW: NDArray[np.float32] | None = None
        self._labels_HW = self._labels_HW[taken:]
        if self._probs_KHW is not None:
            probs_KHW = self._probs_KHW[:, skipped:taken].copy()
            self._probs_KHW = self._probs_KHW[:, taken:]
        self._kept_from = box.y1
        windows = tuple(
            (window, logits_of(self._window_probs.pop(window))) for window in self._windows.pop(box)
        )
        return Block(box=box, labels_HW=labels_HW, probs_KHW=probs_KHW, windows=windows)
