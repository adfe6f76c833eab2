"""Two masks counted against each other, a few rows at a time.

Shapes: H height, W width of the truth's grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialcli.config import FEW_CLASSES
from axialcli.errors import UsageError
from axialcli.evaluate.counts import VALUES, PairCounts
from axialcli.evaluate.place import Placement
from axialcli.geometry import Box
from axialcli.image import LabelPicture

IGNORED_OBJECT = 2
"""What an object counts as that is left out, where others count as 1 and nothing as 0."""

BAND_PX = 2**22
"""Pixels of a band of either picture: what a comparison keeps in memory at once, some 60 MB."""


def count_pairs(
    pred: LabelPicture,
    truth: LabelPicture,
    placement: Placement,
    *,
    instances: bool = False,
    ignored: frozenset[int] = frozenset(),
) -> PairCounts:
    """How many pixels have which value in the truth and which in the prediction.

    instances: the truth's values above 0 count as 1, and those that are `ignored` as IGNORED_OBJECT. Raises
    UsageError where a value is no class, that is, not below `values_of` the prediction.
    """
    values, found = values_of(pred), []
    for box in _bands(pred, placement):
        truth_HW = truth.read(box)
        if instances:
            truth_HW = _foreground(truth_HW, ignored)
        _check_values(truth_HW, truth, values, hint="; if it numbers the objects, say --instances")
        pred_HW = read_at(pred, placement, box)
        _check_values(pred_HW, pred, values)
        found.append(PairCounts.of(truth_HW, pred_HW))
        if len(found) > 1:
            found = [PairCounts.total(found)]
    return found[0]


def values_of(pred: LabelPicture) -> int:
    """Classes are numbers below this one: 256, or 65,536 where the prediction has more than 8 bits.

    Larger numbers in the truth of a mask of 8 bits are those of objects.
    """
    return FEW_CLASSES if pred.dtype.itemsize == 1 else VALUES


def read_at(pred: LabelPicture, placement: Placement, box: Box) -> NDArray[Any]:
    """The prediction on the truth's grid, [H, W]: of each pixel of `box` the nearest one."""
    rows = placement.rows.at(box.y0, box.y1, pred.size.height)
    columns = placement.columns.at(box.x0, box.x1, pred.size.width)
    # Steps are above 0, so the first and the last are the outermost.
    own = Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    pixels_HW = pred.read(own)
    if pixels_HW.shape == (box.height, box.width):
        return pixels_HW
    return np.ascontiguousarray(pixels_HW[(rows - own.y0)[:, None], columns - own.x0])


def _bands(pred: LabelPicture, placement: Placement) -> Iterator[Box]:
    """Bands of what both cover, from top to bottom."""
    box, step = placement.box, placement.rows.step
    width = max(box.width, min(round(box.width * placement.columns.step), pred.size.width))
    rows = max(1, int(BAND_PX / (width * max(step, 1.0))))
    for y in range(box.y0, box.y1, rows):
        yield Box(y, box.x0, min(y + rows, box.y1), box.x1)


def _foreground(truth_HW: NDArray[Any], ignored: frozenset[int]) -> NDArray[np.uint8]:
    classes_HW = (truth_HW > 0).astype(np.uint8)
    if ignored:
        classes_HW[np.isin(truth_HW, sorted(ignored))] = IGNORED_OBJECT
    return classes_HW


def _check_values(labels_HW: NDArray[Any], picture: LabelPicture, values: int, hint: str = "") -> None:
    if labels_HW.dtype == np.uint8:
        return
    for value in (int(labels_HW.max()), int(labels_HW.min())):
        if not 0 <= value < values:
            raise UsageError(f"{picture.path}: holds {value}, and classes are 0 to {values - 1}{hint}")
