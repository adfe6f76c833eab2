"""Class probabilities as a pyramidal TIFF: one plane per class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialcli.config import ProbsDtype, check_choice
from axialcli.geometry import Block
from axialcli.output.folder import WorkFolder
from axialcli.output.info import MaskInfo
from axialcli.output.journal import PROBS_FILE
from axialcli.output.raster import TiledRaster
from axialcli.output.reduce import mean_2x2
from axialcli.output.spooled import SpooledSink
from axialcli.output.tiff import write_tiff

# Probabilities hardly compress: level 1 is twice as fast as 6 and a tenth larger.
_EFFORT = 1


class ProbsSink(SpooledSink):
    """A Sink for `block.probs_KHW`: K planes, tiled 512, zlib, with a pyramid by mean.

    label: of the one class to keep; None for all.
    dtype `uint8` holds round(255 p), `float16` holds p. `generic` files have the classes as bands
    with names; OME files as channels. OME knows no float16: such a file is always `generic`.
    """

    def __init__(
        self, folder: WorkFolder, info: MaskInfo, *, dtype: ProbsDtype = "uint8", label: int | None = None
    ) -> None:
        """Opens the spool in `folder`, which is not the mask's. Raises OutputError."""
        check_choice("probs dtype", dtype, ProbsDtype)
        self._kept = slice(None)
        if label is not None:
            self._kept = slice(label, label + 1)
            info = replace(
                info, classes=info.classes[self._kept], uuid_seed=f"{info.uuid_seed}/class {label}"
            )
        self._info = info
        self._path = folder.file(PROBS_FILE)
        self._layout = "generic" if dtype == "float16" else info.chosen_layout
        planes = len(info.classes)
        super().__init__(
            TiledRaster(folder.path, info.size, planes=planes, dtype=dtype, effort=_EFFORT, reduce=mean_2x2)
        )

    def write(self, block: Block) -> None:
        """Spools the probabilities of a block, which must have them. Raises OutputError."""
        assert block.probs_KHW is not None, block.box
        self._raster.write(block.box, quantised(block.probs_KHW[self._kept], self._raster.dtype))

    def finish(self) -> Path:
        """Builds pyramid and file in the work folder; returns the file. Raises OutputError."""
        self._raster.build_pyramid()
        return write_tiff(self._path, self._raster, self._info, what="probabilities", layout=self._layout)


def quantised(probs_KHW: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Probabilities 0..1 as they are stored: round(255 p) in uint8, or p in float16."""
    if dtype == np.uint8:
        return np.asarray(np.rint(probs_KHW * np.float32(255)), np.uint8)
    return probs_KHW.astype(dtype)
