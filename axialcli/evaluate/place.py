"""Where the pixels of a prediction lie on the grid of the truth."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from axialcli.errors import UsageError
from axialcli.geometry import Affine, Box, Size, whole
from axialcli.image import LabelPicture

logger = logging.getLogger("axial")

_SAME = 1e-3
"""Steps that differ by less than this share are the same."""


class Axis(NamedTuple):
    """Along one axis: the centre of the truth's pixel t lies at `start` + (t + 0.5) * `step` of the
    prediction, counted from its edge."""

    start: float
    step: float

    def at(self, first: int, last: int, length: int) -> NDArray[np.intp]:
        """The nearest of the prediction's `length` pixels for each of the truth's [first, last)."""
        centres = self.start + (np.arange(first, last) + 0.5) * self.step
        pixels: NDArray[np.intp] = np.clip(np.floor(centres), 0, length - 1).astype(np.intp)
        return pixels

    def inside(self, truth: int, pred: int) -> tuple[int, int]:
        """The truth's pixels [first, last) whose centres lie on the prediction."""
        first = math.ceil(-self.start / self.step - 0.5 - 1e-6)
        last = math.ceil((pred - self.start) / self.step - 0.5 - 1e-6)
        return max(first, 0), min(last, truth)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How two masks lie on each other. box: of the truth, what both cover. by: georeference, mpp or size."""

    rows: Axis
    columns: Axis
    box: Box
    by: str


def place(pred: LabelPicture, truth: LabelPicture, *, by_size: bool = False) -> Placement:
    """By georeference where both have one, else by microns per pixel, else, or if asked to, by size.

    By microns or size they share their upper left corner and their field. Raises UsageError where they
    do not: another system of coordinates, another place, another size in microns, another shape.
    """
    if not by_size and pred.georeference and truth.georeference:
        ours, theirs = pred.georeference.affine, truth.georeference.affine
        if ours is not None and theirs is not None:
            _check_crs(pred, truth)
            return _by_affine(pred, truth, ours, theirs)
    if not by_size and pred.mpp and truth.mpp:
        steps, by = _steps_by_mpp(pred, truth), "mpp"
    else:
        steps, by = _steps_by_size(pred, truth), "size"
    rows, columns = (Axis(0.0, step) for step in steps)
    return Placement(rows=rows, columns=columns, box=whole(truth.size), by=by)


def _steps_by_mpp(pred: LabelPicture, truth: LabelPicture) -> list[float]:
    assert pred.mpp is not None
    assert truth.mpp is not None
    steps = [_whole(theirs / ours) for ours, theirs in zip(pred.mpp, truth.mpp, strict=True)]
    for step, own, other in zip(steps, pred.size, truth.size, strict=True):
        # The last pixel of the coarser one may reach over the edge.
        if abs(other * step - own) > 1 + max(step, 1):
            raise UsageError(
                f"{pred.path} shows {_field(pred)} and {truth.path} {_field(truth)}: not the same "
                "picture, or a wrong resolution in one file; --by-size compares them as one field"
            )
    return steps


def _whole(step: float) -> float:
    """The step, made exact where it is nearly a whole number or one over a whole number."""
    factor = max(round(max(step, 1 / step)), 1)
    exact = float(factor) if step > 1 else 1 / factor
    return exact if abs(step / exact - 1) < _SAME else step


def _steps_by_size(pred: LabelPicture, truth: LabelPicture) -> list[float]:
    """The ratio of the sizes, or the factor of which one of them shows that it was rounded up."""
    steps = [own / other for own, other in zip(pred.size, truth.size, strict=True)]
    if abs(steps[0] - steps[1]) > sum(1 / side for side in truth.size):
        raise UsageError(
            f"{pred.path} is {_sides(pred.size)} and {truth.path} {_sides(truth.size)}: "
            "sizes of different shape are not the same field"
        )
    finer = pred.size if min(steps) > 1 else truth.size
    coarser = truth.size if finer is pred.size else pred.size
    factor = _rounded_factor(finer, coarser)
    if factor is None:
        logger.warning("%s is laid on %s by size, %.3g x %.3g", pred.path, truth.path, *steps)
        return steps
    return [float(factor) if finer is pred.size else 1 / factor] * 2


def _rounded_factor(finer: Size, coarser: Size) -> int | None:
    """The whole factor by which `coarser` is smaller, rounded up; None where there is none.

    Where several would do, the exact one, or else the roundest: strides are powers of two.
    """
    ratios = [one / other for one, other in zip(finer, coarser, strict=True)]
    if ratios[0] == ratios[1] == round(ratios[0]):
        return round(ratios[0])
    # No other factor than from the ratio up to where a row or column fewer would do.
    last = min(one // (other - 1) if other > 1 else one for one, other in zip(finer, coarser, strict=True))
    fitting = [
        factor
        for factor in range(max(math.ceil(max(ratios)), 1), last + 1)
        if all(-(-one // factor) == other for one, other in zip(finer, coarser, strict=True))
    ]
    return max(fitting, key=lambda factor: (factor & -factor, -factor), default=None)


def _by_affine(pred: LabelPicture, truth: LabelPicture, ours: Affine, theirs: Affine) -> Placement:
    try:
        corner = ours.place(*theirs.world(0, 0))
        down = ours.place(*theirs.world(truth.size.height, 0))
        right = ours.place(*theirs.world(0, truth.size.width))
    except ZeroDivisionError:
        raise UsageError(f"{pred.path}: its georeference has no area; --by-size leaves it out") from None
    steps = (down[0] - corner[0]) / truth.size.height, (right[1] - corner[1]) / truth.size.width
    if max(abs(down[1] - corner[1]), abs(right[0] - corner[0])) > 0.5 or min(steps) <= 0:
        raise UsageError(f"{pred.path} and {truth.path} are turned against each other: warp one of them")
    rows, columns = (Axis(start, step) for start, step in zip(corner, steps, strict=True))
    y0, y1 = rows.inside(truth.size.height, pred.size.height)
    x0, x1 = columns.inside(truth.size.width, pred.size.width)
    if y0 >= y1 or x0 >= x1:
        raise UsageError(f"{pred.path} and {truth.path} lie at different places and do not meet")
    return Placement(rows=rows, columns=columns, box=Box(y0, x0, y1, x1), by="georeference")


def _check_crs(pred: LabelPicture, truth: LabelPicture) -> None:
    ours, theirs = (one.georeference.crs if one.georeference else 0 for one in (pred, truth))
    if ours and theirs and ours != theirs:
        raise UsageError(
            f"{pred.path} and {truth.path} have different systems of coordinates ({ours} and {theirs}): "
            "warp one of them"
        )


def _field(picture: LabelPicture) -> str:
    assert picture.mpp is not None
    height, width = (side * mpp for side, mpp in zip(picture.size, picture.mpp, strict=True))
    return f"{height:.6g} x {width:.6g} um"


def _sides(size: Size) -> str:
    return f"{size.height} x {size.width} pixels"
