"""The mask: class labels as a pyramidal TIFF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialcli.geometry import Block, Box, label_dtype
from axialcli.output.counting import count_labels
from axialcli.output.folder import WorkFolder
from axialcli.output.info import MaskInfo
from axialcli.output.journal import MASK_FILE
from axialcli.output.raster import TiledRaster
from axialcli.output.reduce import mode_2x2
from axialcli.output.spooled import SpooledSink
from axialcli.output.tiff import write_tiff

_EFFORT = 6


class MaskSink(SpooledSink):
    """A Sink for `block.labels_HW`: labels of 8 or 16 bits, tiled 512, zlib, with a pyramid by mode."""

    def __init__(self, folder: WorkFolder, info: MaskInfo) -> None:
        """Opens the spool in `folder`. Raises OutputError."""
        self._info = info
        self._path = folder.file(MASK_FILE)
        dtype = label_dtype(len(info.classes))
        super().__init__(
            TiledRaster(folder.path, info.size, planes=1, dtype=dtype, effort=_EFFORT, reduce=mode_2x2)
        )
        self._built = False

    def write(self, block: Block) -> None:
        """Spools the labels of a block. Raises OutputError."""
        self._raster.write(block.box, block.labels_HW[np.newaxis])
        self._built = False

    def finish(self) -> Path:
        """Builds pyramid and file in the work folder; returns the file. Raises OutputError."""
        self._build()
        return write_tiff(self._path, self._raster, self._info, what="mask", layout=self._info.chosen_layout)

    def labels_at_most(self, max_px: int) -> NDArray[Any]:
        """The whole mask, its longer side at most `max_px`: the next larger level, then nearest pixels.

        [H, W], in the mask's dtype. All blocks must have been written. Raises OutputError.
        """
        self._build()
        return self._raster.at_most(max_px)

    def counts_beyond(self, covered: tuple[float, float]) -> NDArray[np.float64]:
        """How much of each class [K] lies beyond the slide, in pixels: shares of the last row and column.

        covered: which share of height and width lies on the slide; less than one pixel is missing. All blocks
        must have been written. Raises OutputError.
        """
        (height, width), classes = self._info.size, len(self._info.classes)
        below, right = (side * (1 - share) for side, share in zip((height, width), covered, strict=True))
        row, column = Box(height - 1, 0, height, width), Box(0, width - 1, height, width)
        beyond_K = np.zeros(classes)
        for share, edge in ((below, row), (right, column), (-below * right, row.intersection(column))):
            if share:
                beyond_K += share * count_labels(self._raster.read(0, 0, edge), classes)
        return beyond_K

    def _build(self) -> None:
        if not self._built:
            self._raster.build_pyramid()
            self._built = True
