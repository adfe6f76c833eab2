"""The seam certificate: windows of a run against a run of the network on each window's surroundings.

Shapes: C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from axialcli.backends import Model
from axialcli.backends.spec import ModelSpec
from axialcli.config import MASK_TILE
from axialcli.engine.background import Background
from axialcli.engine.edges import fill_edges
from axialcli.engine.mask_grid import mask_size
from axialcli.engine.memory import peak_resident_bytes, resident_bytes
from axialcli.engine.tiling import tile_unit
from axialcli.errors import ModelError, UsageError
from axialcli.geometry import Block, Box, Size, WindowFigures, whole
from axialcli.image import SlideView

WINDOW_PX = 256
"""Side of a window, in pixels of the view, and less in those of a coarser mask. A power of two, which
divides the side of a mask tile: each window lies in one of them."""

LEAST_WINDOW_PX = 16
"""Side of the smallest window, in pixels of the mask."""

LEAST_PROBABILITY = 1e-12


def window_side(stride: int) -> int:
    """The side of a window, in pixels of a mask that has one for `stride` pixels of the view."""
    side = WINDOW_PX
    while side > LEAST_WINDOW_PX and side * stride > WINDOW_PX:
        side //= 2
    return side


def choose_windows(size: Size, count: int, seed: str, *, stride: int = 1) -> list[Box]:
    """`count` different cells of a grid of windows over a mask of `size`, or all where there are fewer.

    stride: pixels of the view per pixel of the mask, which makes windows smaller. Every cell is as likely
    as any other, near a tile's border or not. Sorted, row-major; the same seed
    gives the same windows.
    """
    side = window_side(stride)
    across, down = (-(-length // side) for length in (size.width, size.height))
    cells = across * down
    chosen = random.Random(seed).sample(range(cells), min(count, cells))
    corners = ((cell // across * side, cell % across * side) for cell in sorted(chosen))
    return [Box(y, x, y + side, x + side).intersection(whole(size)) for y, x in corners]


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
    state its receptive field, or takes no surroundings of any size.
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
        self.receptive_field_px = _receptive_field(model.spec)
        self._stride = stride = model.spec.output.stride
        self._unit = tile_unit(model.spec.input.multiple, stride)
        self.windows = choose_windows(mask_size(view.size, Size(stride, stride)), count, seed, stride=stride)
        self._view, self._model, self._background, self._blended = view, model, background, blended
        before = resident_bytes()
        self._first = (self.windows[0], self._answer(self.windows[0]))
        in_a_row = max(Counter(window.y0 // MASK_TILE for window in self.windows).values())
        logits_bytes = 3 * in_a_row * window_side(stride) ** 2 * 4 * len(model.spec.classes)
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

    def _answer(self, window: Box) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """The network's own logits [K, H, W] and classes [H, W] in a window."""
        around = self.surroundings(window)
        image_HWC = self._view.read(around)
        if self._background is not None:
            image_HWC, _ = self._background.fill(image_HWC)
        # As in the run, what the network's multiples lack at the slide's end is filled.
        image_HWC = fill_edges(image_HWC, (0, -around.height % self._unit), (0, -around.width % self._unit))
        pixels = torch.from_numpy(image_HWC).permute(2, 0, 1)[None]
        corner = Box(around.y0 // self._stride, around.x0 // self._stride, 0, 0)
        y, x = window.within(corner)
        logits_KHW = self._model.predict(pixels, logits=True)[0, :, y, x].clone()
        probs_KHW = self._model.activate(logits_KHW[None])[0]
        labels_HW = self._model.decide(probs_KHW).cpu().numpy()
        return self._comparable(logits_KHW, probs_KHW), labels_HW

    def _comparable(self, logits_KHW: Tensor, probs_KHW: Tensor) -> NDArray[np.float32]:
        if self._blended:
            return logits_of(probs_KHW.cpu().numpy())
        return np.asarray(logits_KHW.cpu().numpy())

    def surroundings(self, window: Box) -> Box:
        """The view's pixels under the window, grown by the receptive field, and out to multiples of the
        network's strides, so that its grid lies as it does in the whole view; clipped to the view."""
        unit, field = math.lcm(self._model.spec.network_stride, self._unit), self.receptive_field_px
        inner = Box(*(at * self._stride for at in window))
        grown = Box(
            max(inner.y0 - field, 0) // unit * unit,
            max(inner.x0 - field, 0) // unit * unit,
            -(-(inner.y1 + field) // unit) * unit,
            -(-(inner.x1 + field) // unit) * unit,
        )
        return grown.intersection(whole(self._view.size))


def _receptive_field(spec: ModelSpec) -> int:
    """The model's, in pixels of the view. Raises UsageError where no windows can be compared."""
    if spec.task == "classification":
        raise UsageError(
            f"--certify looks for seams, and model '{spec.name}' classifies tiles, which have none"
        )
    if spec.input.size is not None:
        raise UsageError(
            f"--certify runs a model on surroundings of any size, and model '{spec.name}' takes one size only"
        )
    if spec.receptive_field_px is None:
        raise UsageError(f"--certify needs a receptive field, and model '{spec.name}' does not state one")
    return spec.receptive_field_px
