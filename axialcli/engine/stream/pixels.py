"""The pixels that a stream is fed: read ahead, blank ones filled, on their way to the device.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from axialcli.backends import Model
from axialcli.engine.background import Background
from axialcli.engine.filled import FilledView
from axialcli.engine.stopwatch import Stopwatch
from axialcli.engine.stream.transfer import Upload, Uploader
from axialcli.geometry import Box
from axialcli.image import SlideView


@dataclass(frozen=True)
class Slab:
    """Rows of pixels. blank_HW: which of them are background; None where nobody looks for it."""

    image_HWC: Upload
    blank_HW: NDArray[np.bool_] | None


class Pixels:
    """Reads slabs of a view and makes of them what the network sees. filled: what reads and counts them."""

    def __init__(
        self, view: SlideView, model: Model, background: Background | None, stopwatch: Stopwatch
    ) -> None:
        self._view, self._model, self._background = view, model, background
        self._stopwatch = stopwatch
        self._uploader = Uploader(model.device)
        self.filled = FilledView(view, background)

    def slabs(self, wanted: Iterable[tuple[int, int]], columns: tuple[int, int]) -> Iterator[Slab | None]:
        """The slabs of these rows [start, stop), None where the two are equal."""
        for start, stop in wanted:
            slab = None if start == stop else self.read(Box(start, columns[0], stop, columns[1]))
            yield slab
            # The consumer alone decides how long a slab lives.
            del slab

    def read(self, box: Box) -> Slab:
        """One slab."""
        with self._stopwatch.stage("read"):
            image_HWC, blank_HW = self.filled.read(box)
        with self._stopwatch.stage("to device"):
            return Slab(self._uploader.start(image_HWC), blank_HW)

    def normalised(self, image_HWC: Tensor) -> Tensor:
        """Pixels [H, W, C] as the network sees them, [1, C, H, W]."""
        return self._model.normalise(image_HWC.permute(2, 0, 1)[None])

    def blank_pixel(self) -> Tensor | None:
        """One pixel of background as the network sees it, [1, C, 1, 1]."""
        if self._background is None:
            return None
        colour_HWC = np.asarray(self._background.colour_C, self._view.dtype)[None, None]
        return self.normalised(torch.from_numpy(colour_HWC).to(self._model.device))
