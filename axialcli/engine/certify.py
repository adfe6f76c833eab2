"""The seam certificate: windows of a run against a run of the network on each window's surroundings.

Shapes: C channels, H height, W width, K classes.
"""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from axialcli.backends import Model
from axialcli.config import MASK_TILE
from axialcli.engine.background import Background
from axialcli.engine.memory import peak_resident_bytes, resident_bytes
from axialcli.errors import ModelError, UsageError
from axialcli.geometry import Block, Box, Size, WindowFigures, whole
from axialcli.image import SlideView

WINDOW_PX = 256
"""Side of a window. It divides the side of a mask tile, so that a window lies in one of them."""

LEAST_PROBABILITY = 1e-12


def choose_windows(size: Size, count: int, seed: str) -> list[Box]:
    """`count` different cells of a grid of WINDOW_PX over the view, or all where there are fewer.

    Every cell is as likely as any other, near a tile's border or not. Sorted, row-major; the same seed
    gives the same windows.
    """
    across, down = (-(-side // WINDOW_PX) for side in (size.width, size.height))
    cells = across * down
    chosen = random.Random(seed).sample(range(cells), min(count, cells))
    corners = ((cell // across * WINDOW_PX, cell % across * WINDOW_PX) for cell in sorted(chosen))
    return [Box(y, x, y + WINDOW_PX, x + WINDOW_PX).intersection(whole(size)) for y, x in corners]


def logits_of(probs_KHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits that have these probabilities, float32: their logarithms, from 1e-12 on."""
    return np.asarray(np.log(np.maximum(probs_KHW, np.float32(LEAST_PROBABILITY))), np.float32)


def centred(logits_KHW: NDArray[np.float32]) -> NDArray[np.float64]:
    """The logits less each pixel's mean over the classes, which changes no probability; float64.

    One logit z of a model with two classes is the pair (-z / 2, z / 2).
    """
    logits = logits_KHW.astype(np.float64)
    if len(logits) == 1:
        return np.concatenate((-logits / 2, logits / 2))
    return np.asarray(logits - logits.mean(axis=0))


class Certifier:
    """Compares the windows of blocks with the network's answer to the window and its receptive field.

    count, seed: how many windows, and what chooses them. background: filled as in the run. blended:
    whether the run hands out logarithms of blended probabilities; the answer is then taken through its
    probabilities as well, so that rounding them is not counted as a difference.

    The first window's answer is made at once: `reserved_bytes` is the memory that such a run takes
    while the engine works on, and it cannot be known before. Raises UsageError where the model does not
    state its receptive field.
    """

    def __init__(
        self,
        view: SlideView,
        model: Model,
        *,
        count: int,
        seed: str,
        background: Background | None,
        blended: bool,
    ) -> None:
        field = model.spec.receptive_field_px
        if field is None:
            raise UsageError(
                f"--certify needs a receptive field, and model '{model.spec.name}' does not state one"
            )
        self.receptive_field_px = field
        self.windows = choose_windows(view.size, count, seed)
        self._view, self._model, self._background, self._blended = view, model, background, blended
        before = resident_bytes()
        self._first = (self.windows[0], self._answer(self.windows[0]))
        in_a_row = max(Counter(window.y0 // MASK_TILE for window in self.windows).values())
        logits_bytes = 3 * in_a_row * WINDOW_PX**2 * 4 * len(model.spec.classes)
        self.reserved_bytes = max(peak_resident_bytes() - before, 0) + logits_bytes

    def compare(self, block: Block) -> list[WindowFigures]:
        """The figures of the windows in a block. Raises ModelError where a logit is not finite."""
        return [self._compare(block, window, logits) for window, logits in block.windows]

    def _compare(self, block: Block, window: Box, logits_KHW: NDArray[np.float32]) -> WindowFigures:
        answer_KHW, answer_HW = self._first[1] if window == self._first[0] else self._answer(window)
        apart_HW = np.abs(centred(logits_KHW) - centred(answer_KHW)).max(axis=0)
        if not np.isfinite(apart_HW).all():
            raise ModelError(
                f"model '{self._model.spec.name}' answers NaN or infinity at row {window.y0}, "
                f"column {window.x0}: nothing can be certified"
            )
        differing_HW = block.labels_HW[window.within(block.box)] != answer_HW
        return WindowFigures(
            box=window,
            differing=int(np.count_nonzero(differing_HW)),
            largest=float(apart_HW.max()),
            median=float(np.median(apart_HW)),
        )

    def _answer(self, window: Box) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """The network's own logits [K, H, W] and classes [H, W] in a window."""
        around = self.surroundings(window)
        image_HWC = self._view.read(around)
        if self._background is not None:
            image_HWC, _ = self._background.fill(image_HWC)
        pixels = torch.from_numpy(image_HWC).permute(2, 0, 1)[None]
        y, x = window.within(around)
        logits_KHW = self._model.predict(pixels, logits=True)[0, :, y, x].clone()
        probs_KHW = self._model.activate(logits_KHW[None])[0]
        labels_HW = self._model.decide(probs_KHW).cpu().numpy()
        return self._comparable(logits_KHW, probs_KHW), labels_HW

    def _comparable(self, logits_KHW: Tensor, probs_KHW: Tensor) -> NDArray[np.float32]:
        if self._blended:
            return logits_of(probs_KHW.cpu().numpy())
        return np.asarray(logits_KHW.cpu().numpy())

    def surroundings(self, window: Box) -> Box:
        """The window grown by the receptive field, and out to multiples of the network's stride, so that
        the network's grid lies as it does in the whole view; clipped to the view."""
        stride, field = self._model.spec.network_stride, self.receptive_field_px
        grown = Box(
            max(window.y0 - field, 0) // stride * stride,
            max(window.x0 - field, 0) // stride * stride,
            -(-(window.y1 + field) // stride) * stride,
            -(-(window.x1 + field) // stride) * stride,
        )
        return grown.intersection(whole(self._view.size))
