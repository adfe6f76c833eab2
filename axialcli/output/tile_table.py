"""The table of tiles: where each lies, its class, and how probable each class is; a CSV.

Shapes: K classes, H height, W width, in tiles.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialcli.config import MASK_TILE, distinct_names
from axialcli.geometry import Block, Box
from axialcli.output.files import open_file, writing
from axialcli.output.folder import WorkFolder
from axialcli.output.info import MaskInfo
from axialcli.output.journal import TABLE_FILE
from axialcli.output.raster import TiledRaster
from axialcli.output.reduce import mean_2x2
from axialcli.output.spooled import SpooledSink

_EFFORT = 1
_BUFFER_BYTES = 1 << 20
_READ_BYTES = 256 << 20
"""Of the numbers that are read back at once: so many rows of tiles, one at least."""


class TileTable(SpooledSink):
    """A Sink for labels and probabilities of a model that classifies tiles: one line per pixel of the mask.

    Numbers wait in a spool, exactly as they were computed, so that a continued run writes the same file.
    """

    def __init__(self, folder: WorkFolder, info: MaskInfo) -> None:
        """Opens the spool in `folder`, which is no other sink's. Raises OutputError."""
        self._info = info
        self._path = folder.file(TABLE_FILE)
        self._names = distinct_names([entry.name for entry in info.classes])
        # The label is the first plane: a threshold may have decided it, so probabilities alone do not say it.
        planes = 1 + len(info.classes)
        super().__init__(
            TiledRaster(
                folder.path, info.size, planes=planes, dtype=np.float32, effort=_EFFORT, reduce=mean_2x2
            )
        )

    def write(self, block: Block) -> None:
        """Spools the numbers of a block, which must have probabilities. Raises OutputError."""
        assert block.probs_KHW is not None, block.box
        labels_1HW = block.labels_HW[np.newaxis].astype(np.float32)
        self._raster.write(block.box, np.concatenate((labels_1HW, block.probs_KHW)))

    def finish(self) -> Path:
        """Writes the table in the work folder; returns the file. Raises OutputError."""
        with (
            writing(self._path),
            io.BufferedRandom(open_file(self._path, create=True), _BUFFER_BYTES) as file,
        ):
            text = io.TextIOWrapper(file, "utf-8", newline="")
            lines = csv.writer(text, lineterminator="\n")
            lines.writerow(self._heading())
            for first, last in self._bands():
                lines.writerows(self._rows(first, last))
            text.flush()
            text.detach()
        return self._path

    def _heading(self) -> list[str]:
        place = [] if self._affine is None else ["map_x", "map_y"]
        return ["x", "y", "width", "height", *place, "class", *(f"p_{name}" for name in self._names)]

    def _bands(self) -> Iterator[tuple[int, int]]:
        """Rows of the mask that fit into memory with all their numbers, twice; each in one row of the spool's
        tiles."""
        height, width = self._info.size
        rows = _READ_BYTES // (2 * 4 * width * (1 + len(self._names)))
        step = max(1, min(rows, MASK_TILE))
        for top in range(0, height, MASK_TILE):
            bottom = min(top + MASK_TILE, height)
            for first in range(top, bottom, step):
                yield first, min(first + step, bottom)

    def _rows(self, first: int, last: int) -> Iterator[list[str]]:
        """The lines of the mask's rows [first, last), from left to right."""
        info = self._info
        box = Box(first, 0, last, info.size.width)
        planes = [self._raster.read(0, plane, box) for plane in range(1 + len(self._names))]
        numbers_HWK: NDArray[Any] = np.stack(planes, axis=-1)
        for row in range(first, last):
            for column in range(info.size.width):
                label, *probs = numbers_HWK[row - first, column].tolist()
                yield [
                    *self._place(row, column),
                    self._names[int(label)],
                    *(f"{one:.6f}" for one in probs),
                ]

    def _place(self, row: int, column: int) -> list[str]:
        """Of what a pixel of the mask covers, left, top, width and height on the slide's level 0, and its
        centre on the map."""
        assert self._info.slide_size is not None
        (height, width), (cell_y, cell_x) = self._info.slide_size, self._info.cell_px
        y0, x0 = row * cell_y, column * cell_x
        y1, x1 = min(y0 + cell_y, height), min(x0 + cell_x, width)
        place = [_pixels(one) for one in (x0, y0, x1 - x0, y1 - y0)]
        if self._affine is not None:
            centre = (y0 + y1) / 2 / cell_y, (x0 + x1) / 2 / cell_x
            place += [f"{one:.12g}" for one in self._affine.world(*centre)]
        return place

    @property
    def _affine(self) -> Any:
        return None if self._info.georeference is None else self._info.georeference.affine


def _pixels(value: float) -> str:
    """A length in pixels, whole where it is; resampled slides have tiles of broken size."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
