"""All levels of a mask, as its readers see them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import openslide
import rasterio
import tifffile
from rasterio.errors import NotGeoreferencedWarning

from axialcli.geometry import GeoReference

UTM = GeoReference(
    pixel_scale=(2.0, 3.0, 0.0),
    tiepoints=(0.0, 0.0, 0.0, 500_000.0, 6_000_000.0, 0.0),
    geo_keys=(1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633),
)


def levels_in_tifffile(path: Path) -> list[np.ndarray]:
    with tifffile.TiffFile(path) as tif:
        assert len(tif.series) == 1
        return [level.asarray() for level in tif.series[0].levels]


def levels_in_openslide(path: Path) -> list[np.ndarray]:
    with openslide.OpenSlide(path) as slide:
        return [
            np.asarray(slide.read_region((0, 0), level, size))[:, :, 0]
            for level, size in enumerate(slide.level_dimensions)
        ]


def levels_in_gdal(path: Path) -> list[np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as base:
            levels = [base.read(1)]
            with tifffile.TiffFile(path) as tif:
                hybrid = tif.is_ome and len(tif.pages) > 1  # GDAL finds its levels twice.
            for number in range(len(base.overviews(1)) // (2 if hybrid else 1)):
                with rasterio.open(path, overview_level=number) as overview:
                    levels.append(overview.read(1))
    return levels


def assert_levels(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert [level.shape for level in found] == [level.shape for level in expected]
    for level, (left, right) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_array_equal(left, right, err_msg=f"level {level}")
