"""Polarity, palettes, alpha, bits: what samples mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import rasterio
import tifffile

from axialcli.geometry import Box, whole
from axialcli.image import Slide, open_slide
from tests.fixtures.slides import picture, write_ndpi, write_philips, write_svs

RGB = picture(90, 131)
GREY = picture(90, 131, 1)[..., 0]


def read_all(slide: Slide) -> Any:
    return slide.read(0, whole(slide.size))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_is_inverted(dtype: Any, tmp_path: Path) -> None:
    image = picture(90, 131, 1, dtype)[..., 0]
    for name, options in (
        ("tiled", {"tile": (32, 32), "compression": "zlib"}),
        ("strips", {"rowsperstrip": 9}),
    ):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, image, photometric="miniswhite", **options)
        with open_slide(path) as slide:
            np.testing.assert_array_equal(read_all(slide)[..., 0], np.iinfo(dtype).max - image)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_palette_becomes_rgb(compression: str | None, tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (3, 256), dtype=np.uint16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, GREY, photometric="palette", colormap=colours * 257, tile=(32, 32), compression=compression
    )
    with open_slide(path) as slide, rasterio.open(path) as other:
        assert (slide.channels, slide.dtype) == (3, np.uint8)
        np.testing.assert_array_equal(read_all(slide), np.moveaxis(colours[:, GREY], 0, 2))
        table = other.colormap(1)
        assert [tuple(int(one) for one in colours[:, at]) for at in range(256)] == [
            table[at][:3] for at in range(256)
        ]


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_alpha_is_dropped(planar: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    image = np.concatenate([RGB, GREY[..., None]], axis=2)
    stored = np.moveaxis(image, 2, 0) if planar == "separate" else image
    tifffile.imwrite(
        path, stored, photometric="rgb", planarconfig=planar, extrasamples=["unassalpha"], tile=(32, 32)
    )
    with open_slide(path) as slide:
        np.testing.assert_array_equal(read_all(slide), RGB)


def test_a_fourth_band_that_is_no_alpha_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    image = np.concatenate([RGB, GREY[..., None]], axis=2)
    tifffile.imwrite(path, image, photometric="rgb", extrasamples=["unspecified"])
    with open_slide(path) as slide:
        np.testing.assert_array_equal(read_all(slide), image)


def test_alpha_of_grey_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    image = np.stack([GREY, np.full_like(GREY, 200)], axis=2)
    tifffile.imwrite(
        path,
        image,
        photometric="minisblack",
        planarconfig="contig",
        extrasamples=["assocalpha"],
        rowsperstrip=9,
    )
    with open_slide(path) as slide:
        assert slide.channels == 1
        np.testing.assert_array_equal(read_all(slide)[..., 0], GREY)


@pytest.mark.parametrize("compression", [None, "zlib", "packbits"])
def test_bilevel_is_black_and_white(compression: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY > 128, photometric="minisblack", compression=compression, rowsperstrip=16)
    with open_slide(path) as slide:
        assert slide.dtype == np.uint8
        np.testing.assert_array_equal(read_all(slide)[..., 0], np.where(GREY > 128, 255, 0))
        np.testing.assert_array_equal(
            slide.read(0, Box(3, 5, 60, 99))[..., 0], np.where(GREY > 128, 255, 0)[3:60, 5:99]
        )


def test_four_bits_are_stretched(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    four = (GREY >> 4).astype(np.uint8)
    profile = {"driver": "GTiff", "height": 90, "width": 131, "count": 1, "dtype": "uint8", "NBITS": 4}
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(path, "w", **profile) as file:
        file.write(four, 1)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(read_all(slide)[..., 0], four * 17)


def test_subsampled_ycc_jpeg_equals_libjpeg(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, RGB, photometric="ycbcr", compression="jpeg", subsampling=(2, 2), tile=(48, 64),
    )  # fmt: skip
    with tifffile.TiffFile(path) as file:
        expected = file.pages[0].asarray()
    with open_slide(path) as slide:
        np.testing.assert_array_equal(read_all(slide), expected)


def test_rgb_jpeg_without_a_colour_transform(tmp_path: Path) -> None:
    """Aperio's way: RGB in a JPEG whose stream does not say so."""
    path = tmp_path / "a.tif"
    streams = [
        imagecodecs.jpeg_encode(
            np.ascontiguousarray(RGB[:64, x : x + 64]), level=98, colorspace="RGB", outcolorspace="RGB"
        )
        for x in (0, 64)
    ]
    # Without the Adobe marker a decoder would guess YCbCr.
    streams = [one[:2] + one[18:] if one[2:4] == b"\xff\xee" else one for one in streams]
    tifffile.imwrite(
        path, iter(streams), shape=(64, 128, 3), dtype=np.uint8, tile=(64, 64), compression="jpeg",
        photometric="rgb",
    )  # fmt: skip
    with open_slide(path) as slide:
        difference = np.abs(read_all(slide).astype(int) - RGB[:64, :128])
        assert difference.mean() < 3


@pytest.mark.parametrize("write", [write_svs, write_philips, write_ndpi])
def test_a_jpeg_slide_has_the_colours_of_the_picture_that_went_in(tmp_path: Path, write: Any) -> None:
    """Against the picture itself: readers that all take RGB for YCbCr would agree with each other."""
    ramp = np.linspace(40, 220, 512).astype(np.uint8)
    image = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], np.uint8(90)), axis=-1)
    write(tmp_path / "slide.tif", np.ascontiguousarray(image))

    with open_slide(tmp_path / "slide.tif") as slide:
        # Below the first row of tiles, one of which Philips' fixture leaves out.
        found = slide.read(0, Box(80, 0, 280, 200)).astype(int)

    assert np.abs(found - image[80:280, :200]).mean() < 4
