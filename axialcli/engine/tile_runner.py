"""Runs a model on the tiles of a row: batches of one shape, edges filled, blank tiles run once.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from axialcli.backends import Model
from axialcli.engine.background import Background
from axialcli.engine.edges import fill_edges
from axialcli.engine.grid import TileSpan
from axialcli.engine.slabs import Slab
from axialcli.engine.stopwatch import Stopwatch
from axialcli.engine.tiling import Tiling
from axialcli.errors import ModelError


class TileRunner:
    """Probabilities of tiles on the mask's grid.

    background: of tiles that are blank everywhere; dtype: of the view's pixels. tiles_run, tiles_skipped:
    how many tiles were computed, and how many were blank.
    """

    def __init__(
        self,
        model: Model,
        tiling: Tiling,
        *,
        background: Background | None,
        dtype: np.dtype[Any],
        stopwatch: Stopwatch,
    ) -> None:
        self._model, self._tiling, self._stopwatch = model, tiling, stopwatch
        self._background, self._dtype = background, dtype
        self._blank_probs: dict[tuple[int, int], Tensor] = {}
        self.tiles_run = self.tiles_skipped = 0

    def run_row(
        self, row: TileSpan, columns: list[TileSpan], slab: Slab, batch: int
    ) -> Iterator[tuple[list[TileSpan], Tensor]]:
        """Probabilities [B, K, H, W] of the row's tiles, up to `batch` at a time; blank tiles first.

        slab: the row's pixels, from the first tile's first column on. Raises ModelError where the model
        answers another shape than its description says.
        """
        left = columns[0].first
        blank_W = slab.blank_columns()
        mixed = []
        for span in columns:
            if blank_W[span.first - left : span.last - left].all():
                self.tiles_skipped += 1
                yield [span], self._blank_tile(row.length, span.length)
            else:
                mixed.append(span)
        self.tiles_run += len(mixed)
        for spans in _batches(mixed, batch):
            device = self._model.device
            with self._stopwatch.stage("to device"):
                images_BHWC = torch.stack([self._tile(slab.image_HWC, row, span, left) for span in spans])
                images_BHWC = images_BHWC.to(device)
            with self._stopwatch.stage("network", device):
                probs_BKHW = self.predict(images_BHWC)
            yield spans, probs_BKHW

    def predict(self, images_BHWC: Tensor) -> Tensor:
        """Probabilities [B, K, H, W] of whole tiles, on the mask's grid: [B, K, 1, 1] of a classifier.

        Raises ModelError where the model answers another shape.
        """
        probs = self._model.predict(images_BHWC.permute(0, 3, 1, 2))
        batch, height, width, _ = images_BHWC.shape
        spec, stride = self._model.spec, self._tiling.output_stride
        wanted: tuple[int, ...] = (batch, len(spec.classes))
        if not self._tiling.classifies:
            wanted = (*wanted, height // stride, width // stride)
        if tuple(probs.shape) != wanted:
            raise ModelError(
                f"model '{spec.name}' answers {list(probs.shape)} for {batch} tiles of {height} x {width} "
                f"and not {list(wanted)}: correct its task, classes or output stride ({spec.output.stride})"
            )
        return probs[:, :, None, None] if self._tiling.classifies else probs

    def _tile(self, slab_HWC: NDArray[Any], row: TileSpan, column: TileSpan, left: int) -> Tensor:
        """What the network sees of one tile [H, W, C]; the slab's first column is the view's `left`.

        A classifier answers for all that it sees: beyond the view, that is the tile's own mirror image. Of a
        segmentation edges are repeated: glass goes on as glass, and no object has a twin.
        """
        image_HWC = slab_HWC[:, column.first - left : column.last - left]
        rows, columns = (row.before, row.after), (column.before, column.after)
        return torch.from_numpy(fill_edges(image_HWC, rows, columns, mirrored=self._tiling.classifies))

    def _blank_tile(self, height: int, width: int) -> Tensor:
        """The probabilities [1, K, H, W] of a tile that is blank everywhere: a network is a function of its
        input, so all such tiles of one shape have the same ones."""
        assert self._background is not None
        if (height, width) not in self._blank_probs:
            colour_C = np.asarray(self._background.colour_C, self._dtype)
            image_HWC: NDArray[Any] = np.broadcast_to(colour_C, (height, width, len(colour_C))).copy()
            with self._stopwatch.stage("network"):
                self._blank_probs[height, width] = self.predict(torch.from_numpy(image_HWC)[None])
        return self._blank_probs[height, width]


def _batches(spans: list[TileSpan], most: int) -> Iterator[list[TileSpan]]:
    """The spans in order, up to `most` at a time, all of one length."""
    batch: list[TileSpan] = []
    for span in spans:
        if batch and (len(batch) == most or span.length != batch[0].length):
            yield batch
            batch = []
        batch.append(span)
    if batch:
        yield batch
