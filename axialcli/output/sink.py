"""What the pipeline asks of every sink."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from axialcli.geometry import Block, Box


class Sink(Protocol):
    """Takes the finished blocks of a run, in any order, and makes one file of them at the end."""

    def write(self, block: Block) -> None:
        """Takes a block; it may come again after a kill. Raises OutputError."""

    def has(self, box: Box) -> bool:
        """Whether all of `box` is held, undamaged, from this run or an earlier one."""

    def sync(self) -> None:
        """Returns when the disk holds all blocks that were written. Raises OutputError."""

    def finish(self) -> Path:
        """Builds the complete file in the work folder and returns its path, to be published.

        Raises OutputError.
        """

    def close(self) -> None:
        """Lets go of files and threads; the work stays on disk. May be called twice."""
