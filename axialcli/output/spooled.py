"""What the sinks of mask and probabilities have in common: their picture waits in a spool."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from axialcli.geometry import Box
from axialcli.output.raster import TiledRaster


class SpooledSink:
    """The part of a Sink that speaks to the spool; `write` and `finish` are the subclass's."""

    def __init__(self, raster: TiledRaster) -> None:
        """raster: open; closed with the sink."""
        self._raster = raster

    def has(self, box: Box) -> bool:
        """Whether every tile of `box` is in the spool, undamaged when it was opened."""
        return self._raster.has(box)

    def sync(self) -> None:
        """Returns when the disk holds all tiles. Raises OutputError."""
        self._raster.sync()

    def close(self) -> None:
        """Lets go of files and threads; the spool stays."""
        self._raster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
