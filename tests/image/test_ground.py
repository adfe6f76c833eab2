"""How large pixels of a map are, against formulas of the ellipsoid and against GDAL."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import rasterio

from axialcli.geometry import GeoReference, Size
from axialcli.image import open_slide
from axialcli.image.ground import ground_scale
from tests.fixtures.slides import picture, write_geotiff

RGB = picture(80, 120)
A, E2 = 6378137.0, 0.00669437999014
"""Of WGS 84: the equator's radius in metres, the square of the eccentricity."""


def radii(latitude: float) -> tuple[float, float]:
    """Of a place, in metres: the curvature's radius along the meridian, and that of the parallel."""
    across = math.sqrt(1 - E2 * math.sin(latitude) ** 2)
    return A * (1 - E2) / across**3, A * math.cos(latitude) / across


def scale_of(path: Path) -> tuple[tuple[float, float] | None, str]:
    with open_slide(path) as slide:
        return slide.mpp, slide.mpp_source


@pytest.mark.parametrize("how", [{}, {"point": True}, {"matrix": True}])
@pytest.mark.parametrize("easting", [500_000.0, 820_000.0])
def test_a_metre_of_a_zone_s_map_is_a_metre(tmp_path: Path, how: dict[str, bool], easting: float) -> None:
    write_geotiff(tmp_path / "a.tif", RGB, pixel=10.0, epsg=32632, origin=(easting, 4.6e6), **how)
    assert scale_of(tmp_path / "a.tif") == ((1e7, 1e7), "georeference, EPSG:32632")


@pytest.mark.parametrize("epsg", [2263, 3035, 27700])
def test_the_unit_is_the_one_that_gdal_knows(tmp_path: Path, epsg: int) -> None:
    """New York in feet of the US survey, Europe, Great Britain; the key that names the unit is missing."""
    middle = {2263: (1e6, 2e5), 3035: (4.3e6, 3.2e6), 27700: (4e5, 3e5)}[epsg]
    write_geotiff(tmp_path / "a.tif", RGB, pixel=2.0, epsg=epsg, origin=middle)
    with rasterio.open(tmp_path / "a.tif") as theirs:
        metres = 2.0 * theirs.crs.linear_units_factor[1]
    mpp, source = scale_of(tmp_path / "a.tif")
    assert mpp == pytest.approx((metres * 1e6, metres * 1e6), rel=1e-9)
    assert source == f"georeference, EPSG:{epsg}"


@pytest.mark.parametrize("latitude", [0.0, 48.0, -33.0, 71.0])
def test_degrees_are_as_long_as_the_latitude_makes_them(tmp_path: Path, latitude: float) -> None:
    pixel = 1e-4
    write_geotiff(
        tmp_path / "a.tif", RGB, pixel=pixel, epsg=4326,
        origin=(11.0 - 60 * pixel, latitude + 40 * pixel),
    )  # fmt: skip
    along, across = (math.radians(pixel) * 1e6 * radius for radius in radii(math.radians(latitude)))
    mpp, source = scale_of(tmp_path / "a.tif")
    assert mpp == pytest.approx((along, across), rel=1e-6)
    assert source == "georeference, EPSG:4326, on the ground at the picture's middle"


@pytest.mark.parametrize("latitude", [48.0, -33.0, 71.0])
def test_a_mercator_map_is_too_large(tmp_path: Path, latitude: float) -> None:
    angle = math.radians(latitude)
    north = A * math.log(math.tan(math.pi / 4 + angle / 2))
    write_geotiff(tmp_path / "a.tif", RGB, pixel=10.0, epsg=3857, origin=(1e6 - 600, north + 400))
    # The map is a sphere's: a metre of it is 1 / A of an angle's measure, stretched by 1 / cos.
    along, across = radii(angle)
    wanted = (10e6 * along * math.cos(angle) / A, 10e6 * across / A)
    assert scale_of(tmp_path / "a.tif")[0] == pytest.approx(wanted, rel=1e-6)


def test_near_the_equator_mercator_is_taken_at_its_word(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "a.tif", RGB, pixel=10.0, epsg=3857, origin=(1e6, 0.0))
    assert scale_of(tmp_path / "a.tif") == ((1e7, 1e7), "georeference, EPSG:3857")


def test_grads_are_no_degrees(tmp_path: Path) -> None:
    """France's old system: a quarter of the meridian, ten thousand kilometres, has a hundred grads."""
    write_geotiff(tmp_path / "a.tif", RGB, pixel=1e-4, epsg=4807, origin=(0.0, 50.0))
    mpp, _ = scale_of(tmp_path / "a.tif")
    assert mpp is not None
    assert mpp[0] == pytest.approx(10e6, rel=2e-3)


def reference(**keys: int) -> GeoReference:
    entries = [(int(name[1:]), 0, 1, value) for name, value in keys.items()]
    flat = [number for entry in [(1, 1, 0, len(entries)), *entries] for number in entry]
    return GeoReference(
        pixel_scale=(3.0, 2.0, 0.0), tiepoints=(0.0, 0.0, 0.0, 5e5, 5e6, 0.0), geo_keys=tuple(flat)
    )


@pytest.mark.parametrize(("unit", "metres"), [(9001, 1.0), (9002, 0.3048), (9003, 0.3048006096)])
@pytest.mark.parametrize("datum", [{}, {"k2048": 4269}])
def test_of_a_map_without_a_number_the_unit_is_believed(
    unit: int, metres: float, datum: dict[str, int]
) -> None:
    """As GDAL writes the grids of Albers for America, whose datum has a number of its own."""
    found = ground_scale(reference(k1024=1, k3072=32767, k3075=11, k3076=unit, **datum), Size(10, 10))
    assert found.mpp == pytest.approx((2 * metres * 1e6, 3 * metres * 1e6), rel=1e-9)
    assert found.source == "georeference, the map's own unit"


WITHOUT = "georeferenced, in a system of coordinates without a number"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"k3072": 32767, "k3075": 1}, WITHOUT),
        ({"k1024": 1}, WITHOUT),
        # Mercator's: a metre of it is any length; degrees, with a unit for heights.
        ({"k3072": 32767, "k3075": 7, "k3076": 9001}, WITHOUT),
        ({"k2048": 32767, "k3076": 9001}, WITHOUT),
        ({"k3072": 54009, "k2048": 4326, "k3076": 9001}, WITHOUT),
        ({"k3072": 1}, "georeferenced, in a system of coordinates that is not known (EPSG:1)"),
        # The library knows it and cannot compute with it.
        ({"k3072": 3173}, "georeferenced, in a system of coordinates that is not known (EPSG:3173)"),
        ({"k2048": 4978}, "georeferenced, in a system of coordinates that is no map's (EPSG:4978)"),
    ],
)
def test_what_is_not_known_is_said(keys: dict[str, int], says: str) -> None:
    assert ground_scale(reference(**keys), Size(10, 10)) == (None, says)


def test_control_points_alone_have_no_scale() -> None:
    points = GeoReference(tiepoints=(0.0, 0.0, 0.0, 5e5, 5e6, 0.0), geo_keys=(1, 1, 0, 1, 3072, 0, 1, 32632))
    assert ground_scale(points, Size(10, 10)) == (None, "georeferenced by control points alone")


@pytest.mark.parametrize("epsg", [4326, 3857, 32632])
@pytest.mark.parametrize("x", [1e30, math.inf, math.nan])
def test_a_place_that_is_nowhere_is_not_believed(epsg: int, x: float) -> None:
    key = 2048 if epsg == 4326 else 3072
    nowhere = GeoReference(
        pixel_scale=(1.0, 1.0, 0.0),
        tiepoints=(0.0, 0.0, 0.0, x, x, 0.0),
        geo_keys=(1, 1, 0, 1, key, 0, 1, epsg),
    )
    mpp, source = ground_scale(nowhere, Size(10, 10))
    assert mpp is None
    assert "not believed" in source
