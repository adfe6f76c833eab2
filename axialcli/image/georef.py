"""The georeference of a page, from GeoTIFF's tags."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from axialcli.geometry import GeoReference
from axialcli.image.page import Page

_RASTER_TYPE = 1025
_PIXEL_IS_POINT = 2


def georeference(page: Page) -> GeoReference | None:
    """GeoTIFF's tags of a page as they stand; None where there are none."""
    keys = tuple(int(key) for key in _numbers(page.tags.get(34735)))
    scale = tuple(float(one) for one in _numbers(page.tags.get(33550)))
    tiepoints = tuple(float(one) for one in _numbers(page.tags.get(33922)))
    matrix = tuple(float(one) for one in _numbers(page.tags.get(34264)))
    if not (keys or scale or tiepoints or matrix):
        return None
    found = GeoReference(
        pixel_scale=scale,
        tiepoints=tiepoints,
        transformation=matrix,
        geo_keys=keys,
        geo_doubles=tuple(float(one) for one in _numbers(page.tags.get(34736))),
        geo_ascii=str(page.tags.get(34737) or ""),
    )
    return replace(found, pixel_is_point=found.codes.get(_RASTER_TYPE) == _PIXEL_IS_POINT)


def _numbers(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, tuple | list) else (value,)
