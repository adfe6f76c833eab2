"""Boxes, blocks and georeferences: the plain geometry that every floor shares.

Coordinates are (y, x) in pixels; boxes are half open.
Shapes: D depth, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Size(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int


class Box(NamedTuple):
    """A half-open rectangle [y0, y1) x [x0, x1) in pixels."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def area_px(self) -> int:
        return self.height * self.width

    @property
    def empty(self) -> bool:
        return self.height <= 0 or self.width <= 0

    def shifted(self, dy: int, dx: int) -> Box:
        """The same rectangle moved by (dy, dx)."""
        return Box(self.y0 + dy, self.x0 + dx, self.y1 + dy, self.x1 + dx)

    def intersection(self, other: Box) -> Box:
        """What both cover; `empty` where they do not touch."""
        return Box(
            max(self.y0, other.y0),
            max(self.x0, other.x0),
            min(self.y1, other.y1),
            min(self.x1, other.x1),
        )

    def contains(self, other: Box) -> bool:
        """Whether all of `other` lies inside."""
        return self.y0 <= other.y0 and other.y1 <= self.y1 and self.x0 <= other.x0 and other.x1 <= self.x1

    def within(self, outer: Box) -> tuple[slice, slice]:
        """Slices that pick this box out of an array that covers `outer`."""
        return (
            slice(self.y0 - outer.y0, self.y1 - outer.y0),
            slice(self.x0 - outer.x0, self.x1 - outer.x0),
        )


class VolumeSize(NamedTuple):
    """Depth (planes), height and width in voxels."""

    depth: int
    height: int
    width: int

    @property
    def plane(self) -> Size:
        """Height and width of each plane."""
        return Size(self.height, self.width)

    @property
    def voxels(self) -> int:
        return self.depth * self.height * self.width


def whole(size: Size) -> Box:
    """The box of a whole picture."""
    return Box(0, 0, size.height, size.width)


def level_sizes(size: Size, smallest_px: int) -> tuple[Size, ...]:
    """Sizes of the levels from `size` on, each half of the last, until the longer side is <= smallest_px."""
    sizes = [size]
    while max(sizes[-1]) > smallest_px:
        height, width = sizes[-1]
        sizes.append(Size(-(-height // 2), -(-width // 2)))
    return tuple(sizes)


def grid_boxes(box: Box, cell: int) -> Iterator[Box]:
    """Cells of an absolute grid of `cell` pixels that `box` touches, row-major, clipped to `box`."""
    for y in range(box.y0 // cell * cell, box.y1, cell):
        for x in range(box.x0 // cell * cell, box.x1, cell):
            yield Box(y, x, y + cell, x + cell).intersection(box)


@dataclass(frozen=True, kw_only=True)
class WindowFigures:
    """How one window of a certificate compares with a run of its own.

    differing: pixels of another class. largest, median: over the pixels, of the largest difference of
    a pixel's logits, after the mean over the classes is taken off both.
    """

    box: Box
    differing: int
    largest: float
    median: float


def label_dtype(classes: int) -> np.dtype[Any]:
    """What holds the label of one of so many classes: uint8 up to 256 of them, else uint16."""
    return np.dtype(np.uint8 if classes <= 1 + np.iinfo(np.uint8).max else np.uint16)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A finished rectangle of the output; it starts on the mask's tile grid and never changes again.

    labels_HW: class indices, of `label_dtype`. probs_KHW: float32 in 0..1, or None where nobody asked for
    them. windows: the windows of a certificate that lie inside `box`, each with its logits, float32
    [K, H, W] (one plane for a model of one logit).
    """

    box: Box
    labels_HW: NDArray[Any]
    probs_KHW: NDArray[np.float32] | None = None
    windows: tuple[tuple[Box, NDArray[np.float32]], ...] = ()


@dataclass(frozen=True, kw_only=True)
class VolumePart:
    """Finished rows of finished planes of a volume, over its whole width.

    labels_DHW: uint8 class indices, from plane `z0` and row `y0` on.
    """

    z0: int
    y0: int
    labels_DHW: NDArray[np.uint8]


class Affine(NamedTuple):
    """World coordinates of a place in a picture: x = x0 + column * x_column + row * x_row, y likewise.

    Rows and columns are counted from the upper left corner of the first pixel, whose centre is (0.5, 0.5).
    """

    x0: float
    x_column: float
    x_row: float
    y0: float
    y_column: float
    y_row: float

    def world(self, row: float, column: float) -> tuple[float, float]:
        """x and y of a place."""
        return (
            self.x0 + column * self.x_column + row * self.x_row,
            self.y0 + column * self.y_column + row * self.y_row,
        )

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Row and column of x and y. Raises ZeroDivisionError where the picture has no area."""
        area = self.x_column * self.y_row - self.x_row * self.y_column
        dx, dy = x - self.x0, y - self.y0
        return (
            (self.x_column * dy - self.y_column * dx) / area,
            (self.y_row * dx - self.x_row * dy) / area,
        )


CRS_KEYS, USER_DEFINED = (3072, 2048), 32767
"""GeoTIFF's keys for projected and for geographic systems of coordinates, and the first value that is not
EPSG's: it says that the file describes the system itself."""


@dataclass(frozen=True, kw_only=True)
class GeoReference:
    """The GeoTIFF tags of a picture, as they stand in its first directory.

    pixel_scale: tag 33550 (sx, sy, sz) or empty. tiepoints: tag 33922, six numbers a point, or
    empty. transformation: tag 34264, sixteen numbers row-major, or empty. geo_keys, geo_doubles,
    geo_ascii: tags 34735, 34736, 34737 verbatim. pixel_is_point: GTRasterType is 2, that is, a tie
    point means the centre of its pixel.
    """

    pixel_scale: tuple[float, ...] = ()
    tiepoints: tuple[float, ...] = ()
    transformation: tuple[float, ...] = ()
    geo_keys: tuple[int, ...] = ()
    geo_doubles: tuple[float, ...] = ()
    geo_ascii: str = ""
    pixel_is_point: bool = False

    def scaled(self, factor_y: float, factor_x: float) -> GeoReference:
        """The georeference of the same picture with pixels `factor` times as large.

        The outer bounds stay where they are, also where a tie point means a pixel's centre.
        """
        half_y, half_x = ((factor_y - 1) / 2, (factor_x - 1) / 2) if self.pixel_is_point else (0, 0)
        scale = self.pixel_scale
        tiepoints: list[float] = []
        for at in range(0, len(self.tiepoints) - 5, 6):
            i, j, k, x, y, z = self.tiepoints[at : at + 6]
            if scale:
                tiepoints += [i / factor_x, j / factor_y, k, x + half_x * scale[0], y - half_y * scale[1], z]
            else:
                # Ground control points: without a scale the raster side moves, not the world's.
                tiepoints += [(i - half_x) / factor_x, (j - half_y) / factor_y, k, x, y, z]
        matrix = list(self.transformation)
        for row in range(0, len(matrix), 4):
            matrix[row + 3] += half_x * matrix[row] + half_y * matrix[row + 1]
            matrix[row] *= factor_x
            matrix[row + 1] *= factor_y
        if scale:
            scale = (scale[0] * factor_x, scale[1] * factor_y, *scale[2:])
        return replace(self, pixel_scale=scale, tiepoints=tuple(tiepoints), transformation=tuple(matrix))

    @property
    def codes(self) -> dict[int, int]:
        """Of GeoTIFF's keys those whose values stand among the keys themselves."""
        keys = self.geo_keys
        return {keys[at]: keys[at + 3] for at in range(4, len(keys) - 3, 4) if not keys[at + 1]}

    @property
    def crs(self) -> int:
        """The number of the system of coordinates; 0 where none is named.

        It is EPSG's below USER_DEFINED. A projection comes first: its datum may have one where it has
        none itself.
        """
        return next((code for key in CRS_KEYS if (code := self.codes.get(key, 0))), 0)

    @property
    def affine(self) -> Affine | None:
        """Where pixels lie in the world; None where only control points say so, or nothing does."""
        if len(self.transformation) >= 8:
            a, b, _, x, c, d, _, y = self.transformation[:8]
            own = Affine(x, a, b, y, c, d)
        elif len(self.pixel_scale) >= 2 and len(self.tiepoints) >= 6:
            (sx, sy), (column, row, _, x, y, _) = self.pixel_scale[:2], self.tiepoints[:6]
            own = Affine(x - column * sx, sx, 0.0, y + row * sy, 0.0, -sy)
        else:
            return None
        if not self.pixel_is_point:
            return own
        x, y = own.world(-0.5, -0.5)
        return own._replace(x0=x, y0=y)
