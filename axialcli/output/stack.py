"""The mask of a volume: labels in any order of parts, then an OME-TIFF of one page a plane.

Shapes: D depth, H height, W width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialcli.geometry import VolumePart
from axialcli.output.closing import Closing
from axialcli.output.counting import count_labels
from axialcli.output.files import open_file, write_at, writing
from axialcli.output.folder import WorkFolder, partial_folder
from axialcli.output.info import MaskInfo
from axialcli.output.journal import LABELS_FILE, MASK_FILE, OURS, REPORT_FILE
from axialcli.output.publishing import publish_all
from axialcli.output.report import write_report
from axialcli.output.targets import Outputs, note_publishing
from axialcli.output.tiff import write_stack

logger = logging.getLogger("axial")


class StackFiles(Closing):
    """Mask and report of a volume, from the first part in a work folder to the files under their names.

    The labels wait there as they are, a byte a voxel, for parts come in an order that no file has. Such a
    run is not continued: what an earlier one left is deleted, and so is the folder when this one fails.
    counts_K: voxels of each class so far. Raises OutputError, here and everywhere.
    """

    def __init__(self, outputs: Outputs, info: MaskInfo) -> None:
        self._outputs, self._info = outputs, info
        self.counts_K = np.zeros(len(info.classes), np.int64)
        with ExitStack() as opened:
            path = partial_folder(outputs.mask)
            left = path.exists()
            self._folder = opened.enter_context(WorkFolder.open(path, OURS))
            if left:
                logger.warning("%s: starting over, runs over volumes are not continued", path)
            self._folder.clear()
            self._labels_path = self._folder.file(LABELS_FILE)
            with writing(self._labels_path):
                self._labels = opened.enter_context(open_file(self._labels_path, create=True))
            opened.pop_all()
        self._publishing = False

    def write(self, part: VolumePart) -> None:
        """Takes finished labels; a part may come at any time, but once."""
        size = self._info.size
        self.counts_K += count_labels(part.labels_DHW, len(self.counts_K))
        with writing(self._labels_path):
            for z, labels_HW in enumerate(part.labels_DHW, part.z0):
                write_at(self._labels, (z * size.height + part.y0) * size.width, labels_HW.tobytes())

    def finish(self) -> None:
        """Makes the TIFF in the work folder. All parts must have been written."""
        path = self._folder.file(MASK_FILE)
        with writing(self._labels_path):
            self._labels.seek(0)
        write_stack(path, self._planes(), self._info)

    def publish(self, report: Mapping[str, Any]) -> None:
        """Moves report and mask to their names, the mask last, and removes the work folder."""
        mask, note = self._folder.file(MASK_FILE), self._folder.file(REPORT_FILE)
        write_report(note, report)
        note_publishing(self._folder, self._outputs)
        # From here on a file may have its name: what says so stays until all of them have.
        self._publishing = True
        publish_all([(note, self._outputs.report), (mask, self._outputs.mask)])
        self._publishing = False

    def close(self) -> None:
        """Removes the work folder; it stays where files could not all be given their names."""
        if self._labels.closed:
            return
        self._labels.close()
        if self._publishing:
            self._folder.close()
        else:
            self._folder.remove()

    def _planes(self) -> Iterator[NDArray[np.uint8]]:
        """The labels [H, W] of each plane, from the first to the last."""
        height, width = self._info.size
        for _ in range(self._info.depth):
            labels_HW = np.empty((height, width), np.uint8)
            with writing(self._labels_path):
                left = memoryview(labels_HW.data).cast("B")
                while left:
                    left = left[self._labels.readinto(left) :]
            yield labels_HW
