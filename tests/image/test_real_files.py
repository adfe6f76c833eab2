"""Real TIFFs: those that the libraries of the test extras ship inside their packages."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np
import pytest
import tifffile

from axialcli.geometry import whole
from axialcli.image import open_slide

SITE = Path(sysconfig.get_paths()["purelib"])
FILES = sorted(
    path
    for package in ("skimage", "rasterio", "tifffile", "imageio", "PIL")
    for pattern in ("*.tif", "*.tiff")
    for path in (SITE / package).rglob(pattern)
)


def test_there_are_some() -> None:
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_plane_equals_tifffiles_page(path: Path) -> None:
    with tifffile.TiffFile(path) as file:
        pages = [
            np.moveaxis(page.asarray(), 0, 2) if page.axes == "SYX" else page.asarray() for page in file.pages
        ]
    for z, page in enumerate(pages):
        with open_slide(path, z=z) as slide:
            read = slide.read(0, whole(slide.size))
            np.testing.assert_array_equal(read, page.astype(read.dtype).reshape(read.shape))
