"""What the sinks of mask and probabilities have in common: their picture waits in a spool."""

from __future__ import annotations

from axialcli.geometry import Box
from axialcli.output.closing import Closing
from axialcli.output.raster import TiledRaster


class SpooledSink(Closing):
    """The part of a Sink that speaks to the spool; `write` and `finish` are the subclass's."""

    def __init__(self, raster: TiledRaster) -> None:
        """raster: open; closed with the sink."""
        self._raster = raster

    @property
    def encode_s(self) -> float:
        """Seconds spent on compressing, summed over the threads."""
        return self._raster.encode_s

    def has(self, box: Box) -> bool:
        """Whether every tile of `box` is in the spool, undamaged when it was opened."""
        return self._raster.has(box)

    def sync(self) -> None:
        """Returns when the disk holds all tiles. Raises OutputError."""
        self._raster.sync()

    def close(self) -> None:
        """Lets go of files and threads; the spool stays."""
        self._raster.close()
