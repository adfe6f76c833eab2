"""How large a pixel of a map is on the ground."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from axialcli.geometry import USER_DEFINED, Affine, GeoReference, Size
from axialcli.image.scale import Scale

if TYPE_CHECKING:
    import pyproj

SAME = 0.01
"""By what share a metre of a map may differ from one on the ground and be taken for it."""

METHOD_KEY, UNIT_KEY = 3075, 3076
"""GeoTIFF's keys for how a map is projected, and for its unit of length."""

TRUE_METHODS = (1, 8, 9, 10, 11, 27)
"""Projections that are made for the region that they show: transverse Mercator, Lambert's, Albers'."""

METRES = {9001: 1.0, 9002: 0.3048, 9003: 1200 / 3937}
"""Of EPSG's units of length: metre, foot, foot of the US survey."""

LEAST_M, MOST_M = 1e-4, 1e6
"""What a pixel of a map may measure."""


def ground_scale(reference: GeoReference, size: Size) -> Scale:
    """Microns per pixel, as (y, x), at the middle of a picture of that size.

    What the map's unit says, where a metre of the map is one of the ground to a hundredth, as on a map of a
    zone; else the distance on the ellipsoid: a Mercator map is too large by one over the cosine of the
    latitude, and a degree is as long as the latitude makes it. None where only control points say where the
    picture lies, or the system of coordinates is not known. One that the file describes itself is believed
    where its projection hardly stretches what it is made for.
    """
    affine = reference.affine
    if affine is None:
        return Scale(None, "georeferenced by control points alone")
    if not 0 < reference.crs < USER_DEFINED:
        unit_m = METRES.get(reference.codes.get(UNIT_KEY, 0))
        if unit_m is None or reference.codes.get(METHOD_KEY) not in TRUE_METHODS:
            return Scale(None, "georeferenced, in a system of coordinates without a number")
        return _believed(_on_the_map(affine, unit_m), "georeference, the map's own unit")
    # It takes a tenth of a second to import, which no other slide has to wait for.
    import pyproj
    from pyproj.exceptions import ProjError

    name = f"EPSG:{reference.crs}"
    try:
        crs = pyproj.CRS.from_epsg(reference.crs)
        if not (crs.is_projected or crs.is_geographic):
            return Scale(None, f"georeferenced, in a system of coordinates that is no map's ({name})")
        on_ground = _on_the_ground(affine, size, crs)
    except ProjError:
        # A number that the library does not know, or a system that it cannot compute with.
        return Scale(None, f"georeferenced, in a system of coordinates that is not known ({name})")
    if crs.is_projected:
        on_map = _on_the_map(affine, crs.axis_info[0].unit_conversion_factor)
        if all(abs(one - other) <= SAME * other for one, other in zip(on_map, on_ground, strict=True)):
            return _believed(on_map, f"georeference, {name}")
    return _believed(on_ground, f"georeference, {name}, on the ground at the picture's middle")


def _on_the_map(affine: Affine, unit_m: float) -> tuple[float, float]:
    """Height and width of a pixel in metres, for a map in units of so many metres."""
    height = math.hypot(affine.x_row, affine.y_row) * unit_m
    return height, math.hypot(affine.x_column, affine.y_column) * unit_m


def _on_the_ground(affine: Affine, size: Size, crs: pyproj.CRS) -> tuple[float, float]:
    """Height and width in metres of the pixel in the middle, along the ellipsoid."""
    import pyproj

    row, column = size.height / 2, size.width / 2
    sides = ((row - 0.5, column), (row + 0.5, column), (row, column - 0.5), (row, column + 0.5))
    # To longitude and latitude of the system itself: nothing is shifted, no grid is needed.
    own = crs.geodetic_crs
    assert own is not None
    to_angles = pyproj.Transformer.from_crs(crs, own, always_xy=True)
    degrees = math.degrees(own.axis_info[0].unit_conversion_factor)
    top, bottom, left, right = (
        [degrees * angle for angle in to_angles.transform(*affine.world(*side))] for side in sides
    )
    geod = own.get_geod()
    assert geod is not None
    (_, _, height), (_, _, width) = geod.inv(*top, *bottom), geod.inv(*left, *right)
    return float(height), float(width)


def _believed(side_m: tuple[float, float], source: str) -> Scale:
    """Metres as microns, where they are a size that a pixel of a map can have."""
    if not all(math.isfinite(side) and LEAST_M <= side <= MOST_M for side in side_m):
        return Scale(None, f"{source}: not believed (pixels of {side_m[1]:.6g} x {side_m[0]:.6g} m)")
    return Scale((side_m[0] * 1e6, side_m[1] * 1e6), source)
