"""What is chosen, at what scale, and what the other images are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import tifffile
from openslide import OpenSlide
from rasterio.transform import Affine

from axialcli.errors import ImageError, UsageError
from axialcli.geometry import Box, whole
from axialcli.image import describe, open_slide
from tests.fixtures.slides import (
    Made,
    picture,
    write_geotiff,
    write_imagej,
    write_ndpi,
    write_ome,
    write_ome_files,
    write_philips,
    write_qptiff,
    write_scn,
    write_strips,
    write_svs,
    write_tiled,
)
from tests.image.layouts import BLOCKS, FIVE16, RGB

FORMATS = {
    "svs": ("svs", (0.5, 0.5), "Aperio's MPP"),
    "ndpi": ("ndpi", (0.25, 0.25), "resolution tags"),
    "ndpi-named-tif": ("ndpi", (0.25, 0.25), "resolution tags"),
    "philips": ("philips", (0.25, 0.25), "Philips' DICOM_PIXEL_SPACING"),
    "scn": ("scn", (0.5, 0.5), "Leica's view"),
    "qptiff": ("qptiff", (0.5, 0.5), "resolution tags"),
    "ome": ("ome", (0.5, 0.5), "OME's PhysicalSize"),
    "ome-files": ("ome", (0.5, 0.5), "OME's PhysicalSize"),
    "imagej": ("imagej", (0.5, 0.5), "ImageJ description"),
    "tiled-jpeg": ("generic", (0.5, 0.5), "resolution tags"),
    "tiled-none": ("generic", None, "none in the file"),
    "geotiff": ("geotiff", (5e5, 5e5), "georeference, EPSG:32618"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_format_and_scale(name: str, made: dict[str, Made]) -> None:
    with open_slide(made[name].path) as slide:
        kind, mpp, source = FORMATS[name]
        assert slide.format == kind
        assert slide.mpp == (None if mpp is None else pytest.approx(mpp, rel=1e-4))
        assert slide.mpp_source == source


@pytest.mark.parametrize("name", ["svs", "ndpi", "philips", "tiled-jpeg"])
def test_scale_is_openslides(name: str, made: dict[str, Made]) -> None:
    with open_slide(made[name].path) as slide, OpenSlide(str(made[name].path)) as other:
        theirs = [float(other.properties[f"openslide.mpp-{axis}"]) for axis in "yx"]
        assert slide.mpp == pytest.approx(theirs, rel=1e-5)


ROLES = {
    "svs": {"main": 1, "level": 2, "thumbnail": 1, "label": 1, "macro": 1},
    "svs-without-thumbnail": {"main": 1, "level": 2, "label": 1, "macro": 1},
    "ndpi": {"main": 1, "level": 1, "macro": 1},
    "philips": {"main": 1, "level": 2, "macro": 1, "label": 1},
    "scn": {"macro": 1, "main": 1, "level": 1},
    "qptiff": {"main": 5, "level": 10, "thumbnail": 1, "macro": 1, "label": 1},
    "ome-channels": {"main": 5, "level": 10},
    "geotiff": {"main": 1, "level": 2, "mask": 3},
}


@pytest.mark.parametrize("name", ROLES)
def test_every_image_has_its_role(name: str, made: dict[str, Made]) -> None:
    with open_slide(made[name].path) as slide:
        found: dict[str, int] = {}
        for image in slide.images:
            found[image.role] = found.get(image.role, 0) + image.planes
        assert found == ROLES[name]


LEVELS = {
    "svs": [(211, 307), (53, 77), (27, 39)],
    "svs-without-thumbnail": [(211, 307), (53, 77), (27, 39)],
    "philips": [(211, 307), (105, 153), (52, 76)],
    "tiled-uneven-factors": [(211, 307), (53, 77), (27, 39), (9, 13)],
    "tiled-unmarked": [(211, 307), (106, 154), (53, 77)],
    "tiled-subifds": [(211, 307), (106, 154), (53, 77)],
    "scn": [(211, 307), (106, 154)],
    "qptiff": [(211, 307), (105, 153), (52, 76)],
    "geotiff": [(211, 307), (106, 154), (53, 77)],
}


@pytest.mark.parametrize("name", LEVELS)
def test_levels_are_built_whatever_their_factors(name: str, made: dict[str, Made]) -> None:
    with open_slide(made[name].path) as slide:
        assert [tuple(level.size) for level in slide.levels] == LEVELS[name]
        down = slide.levels[1].downsample
        height, width = LEVELS[name][1]
        assert down == (211 / height, 307 / width)


def test_chosen_says_which_and_why(made: dict[str, Made]) -> None:
    with open_slide(made["scn"].path) as slide:
        assert slide.chosen == "directory 1 (307 x 211) was chosen: it is the largest of Leica's collection"
    with open_slide(made["svs"].path) as slide:
        assert slide.chosen == (
            "directory 0 (307 x 211) was chosen: it is Aperio's first directory, the slide itself"
        )


def test_the_largest_of_several_regions_is_read(tmp_path: Path) -> None:
    path, truth = write_scn(tmp_path / "a.scn", RGB, regions=2)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(0, whole(slide.size)), truth)
        assert slide.warnings == ("2 scanned regions: the largest is read",)


def test_a_thumbnail_before_the_picture_is_not_chosen(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(picture(40, 60), photometric="rgb", metadata=None)
        file.write(RGB, photometric="rgb", tile=(64, 64), metadata=None)
    with open_slide(path) as slide:
        assert slide.chosen == "directory 1 (307 x 211) was chosen: it is the largest"


def test_a_comma_in_aperios_mpp(tmp_path: Path) -> None:
    with open_slide(write_svs(tmp_path / "a.svs", RGB, mpp=0.4991, comma=True).path) as slide:
        assert slide.mpp == (0.4991, 0.4991)


@pytest.mark.parametrize("dpi", [1, 72, 96, 150, 300, 600])
def test_a_screens_resolution_is_not_believed(dpi: int, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, RGB, photometric="rgb", resolution=(dpi, dpi), resolutionunit="INCH", metadata=None
    )
    with open_slide(path) as slide:
        assert slide.mpp is None
        assert slide.mpp_source == (f"resolution tags: not believed ({dpi} dpi is a screen's or a printer's)")


def test_pixels_per_inch_are_believed_where_they_are_a_microscopes(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", resolution=(50800, 50800), resolutionunit="INCH")
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx((0.5, 0.5))


def test_mpp_override(made: dict[str, Made]) -> None:
    with open_slide(made["svs"].path, mpp_override=0.3) as slide:
        assert (slide.mpp, slide.mpp_source) == ((0.3, 0.3), "given by hand")
    with pytest.raises(UsageError, match="0 microns per pixel make no sense"):
        open_slide(made["svs"].path, mpp_override=0)


@pytest.mark.parametrize("unit", ["µm", "nm", "mm"])
def test_omes_units(unit: str, tmp_path: Path) -> None:
    with open_slide(write_ome(tmp_path / "a.ome.tif", RGB, mpp=0.37, unit=unit).path) as slide:
        assert slide.mpp == pytest.approx((0.37, 0.37))


@pytest.mark.parametrize("unit", ["um", "micron", "\\u00B5m"])
def test_imagejs_units(unit: str, tmp_path: Path) -> None:
    stack = picture(3 * 50, 60, 1, np.uint16).reshape(3, 50, 60, 1)
    with open_slide(write_imagej(tmp_path / "a.tif", stack, mpp=0.65, unit=unit).path) as slide:
        assert slide.mpp == pytest.approx((0.65, 0.65), rel=1e-4)


def test_a_stack_without_z_reads_its_middle_and_says_so(made: dict[str, Made]) -> None:
    with open_slide(made["imagej"].path) as slide:
        assert slide.warnings == ("a stack of 5 planes: 2, the middle, is read; choose with --z",)
    stack = picture(5 * 90, 77, 2, np.uint16).reshape(5, 90, 77, 2)
    for z in range(5):
        with open_slide(made["imagej"].path, z=z) as slide:
            assert slide.warnings == ()
            np.testing.assert_array_equal(slide.read(0, whole(slide.size)), stack[z])


def test_pages_of_one_size_are_a_stack(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pages = [picture(60, 70, seed=seed) for seed in range(4)]
    with tifffile.TiffWriter(path) as file:
        for page in pages:
            file.write(page, photometric="rgb", metadata=None, compression="zlib")
    with open_slide(path, z=3) as slide:
        np.testing.assert_array_equal(slide.read(0, Box(0, 0, 60, 70)), pages[3])
    with pytest.raises(UsageError, match=r"has planes 0 to 3; --z 4 does not exist"):
        open_slide(path, z=4)


def test_a_channel_that_does_not_exist(made: dict[str, Made]) -> None:
    with pytest.raises(UsageError, match=r"channel 5 does not exist; the picture has 0 to 4"):
        open_slide(made["qptiff"].path, channels=[0, 5])


def test_qptiff_without_image_types(tmp_path: Path) -> None:
    path, truth = write_qptiff(tmp_path / "a.qptiff", FIVE16, named=False)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(0, whole(slide.size)), truth)
        assert len(slide.levels) == 3


def test_a_missing_file_of_an_ome_picture(tmp_path: Path) -> None:
    path, truth = write_ome_files(tmp_path, RGB)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(0, whole(slide.size)), truth)
    (tmp_path / "channel2.ome.tif").unlink()
    with pytest.raises(ImageError) as error:
        open_slide(path)
    assert str(error.value) == f"{path}: its file 'channel2.ome.tif' is missing; put it beside it"


def test_an_ome_picture_that_asks_for_a_name_too_long_for_a_file(tmp_path: Path) -> None:
    path, _ = write_ome_files(tmp_path, RGB)
    data = path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        text = tif.pages.first.description
    tifffile.tiffcomment(path, text.replace("channel2.ome.tif", "a" * 5000))
    assert path.read_bytes() != data
    with pytest.raises(ImageError) as error:
        open_slide(path)
    assert str(error.value) == f"{path}: its file '{'a' * 80}' is missing; put it beside it"


def test_a_picture_of_several_files_names_them_all_its_own_first(tmp_path: Path) -> None:
    path, _ = write_ome_files(tmp_path, RGB)
    with open_slide(path) as slide:
        assert slide.files[0] == path
        assert set(slide.files) == set(tmp_path.iterdir())
        assert len(slide.files) == len(set(slide.files)) > 1


def test_a_picture_of_one_file_names_that(made: dict[str, Made]) -> None:
    with open_slide(made["svs"].path) as slide:
        assert slide.files == (made["svs"].path,)


def test_a_slide_remembers_what_was_selected(made: dict[str, Made]) -> None:
    path = made["qptiff"].path
    with open_slide(path) as slide:
        assert slide.selection == {"channels": None, "z": None, "mpp_override": None}
    with open_slide(path, channels=(4, 1), z=0, mpp_override=0.3) as slide:
        assert slide.selection == {"channels": [4, 1], "z": 0, "mpp_override": 0.3}


def test_ndpi_of_several_levels_and_no_restart_table(tmp_path: Path) -> None:
    path, truth = write_ndpi(tmp_path / "a.ndpi", picture(256, 512), factors=(2, 2), mcu_starts=False)
    with open_slide(path) as slide:
        assert [tuple(level.size) for level in slide.levels] == [(256, 512), (128, 256), (64, 128)]
        np.testing.assert_array_equal(slide.read(0, whole(slide.size)), truth)


def test_philips_missing_tiles_are_glass(tmp_path: Path) -> None:
    path, _ = write_philips(tmp_path / "a.tif", RGB, missing=((0, 1, 1),))
    with open_slide(path) as slide:
        assert (slide.read(0, Box(64, 64, 128, 128)) == 255).all()


def test_a_sparse_geotiff_is_filled_with_its_nodata(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    profile = {"driver": "GTiff", "height": 300, "width": 300, "count": 1, "dtype": "uint8", "tiled": True,
               "blockxsize": 128, "blockysize": 128, "SPARSE_OK": True, "nodata": 7, "crs": "EPSG:32618",
               "transform": Affine(0.5, 0, 5e5, 0, -0.5, 4.6e6)}  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.full((1, 128, 128), 9, np.uint8), window=((0, 128), (128, 256)))
    with open_slide(path) as slide, rasterio.open(path) as other:
        np.testing.assert_array_equal(slide.read(0, whole(slide.size))[..., 0], other.read(1))
        assert slide.counts.missing_segments == 8


@pytest.mark.parametrize(("point", "matrix"), [(False, False), (True, False), (False, True)])
def test_georeference(point: bool, matrix: bool, tmp_path: Path) -> None:
    path, _ = write_geotiff(tmp_path / "a.tif", RGB, point=point, matrix=matrix)
    with open_slide(path) as slide:
        geo = slide.georeference
        assert geo is not None
        assert geo.pixel_is_point is point
        assert geo.geo_ascii == "test|"
        assert geo.geo_keys[:4] == (1, 1, 0, 4)
        if matrix:
            assert geo.transformation == (0.5, 0, 0, 5e5, 0, -0.5, 0, 4.6e6, 0, 0, 0, 0, 0, 0, 0, 1)
        else:
            assert geo.pixel_scale == (0.5, 0.5, 0)
            assert geo.tiepoints == (0, 0, 0, 5e5, 4.6e6, 0)
        level = slide.view(level=1)
        assert level.georeference == geo.scaled(211 / 106, 307 / 154)


def test_a_cog_with_a_mask(tmp_path: Path) -> None:
    source, path = tmp_path / "source.tif", tmp_path / "cog.tif"
    profile = {"driver": "GTiff", "height": 1100, "width": 900, "count": 3, "dtype": "uint8",
               "crs": "EPSG:32618", "transform": Affine(0.5, 0, 5e5, 0, -0.5, 4.6e6)}  # fmt: skip
    image = picture(1100, 900)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(source, "w", **profile) as file:
        file.write(np.moveaxis(image, 2, 0))
        file.write_mask(np.arange(1100)[:, None] + np.zeros((1, 900)) > 100)
    rasterio.shutil.copy(source, path, driver="COG", compress="deflate", blocksize=256, overview_count=2)
    with open_slide(path) as slide, rasterio.open(path) as other:
        np.testing.assert_array_equal(slide.read(0, whole(slide.size)), np.moveaxis(other.read(), 0, 2))
        assert [tuple(level.size) for level in slide.levels] == [(1100, 900), (550, 450), (275, 225)]
        assert {image.role for image in slide.images} == {"main", "level", "mask"}
        geo = slide.georeference
        assert geo is not None
        assert geo.tiepoints[3:5] == (other.transform.c, other.transform.f)


@pytest.mark.parametrize("name", ["svs", "imagej", "geotiff", "qptiff", "strip-none"])
def test_describe_is_plain_data(name: str, made: dict[str, Made]) -> None:
    with open_slide(made[name].path) as slide:
        said = json.loads(json.dumps(describe(slide)))
    assert said["path"] == str(made[name].path)
    assert said["size"] == list(made[name].truth.shape[:2])
    assert set(said) == {
        *(
            "path",
            "format",
            "size",
            "planes",
            "spacing_um",
            "channels",
            "dtype",
            "mpp",
            "mpp_source",
            "compression",
            "levels",
        ),
        *("georeference", "orientation", "chosen", "images", "warnings"),
    }


def test_orientation_is_kept_and_not_applied(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", metadata=None, extratags=[(274, 3, 1, 6, True)])
    with open_slide(path) as slide:
        assert slide.orientation == 6
        np.testing.assert_array_equal(slide.read(0, whole(slide.size)), RGB)


def test_fingerprint_changes_with_the_file(tmp_path: Path) -> None:
    path, _ = write_tiled(tmp_path / "a.tif", BLOCKS)
    with open_slide(path) as slide:
        before = slide.fingerprint()
        assert slide.fingerprint() == before
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with open_slide(path) as slide:
        assert slide.fingerprint() != before


def test_a_slide_is_closed_by_its_with_block(tmp_path: Path) -> None:
    path, _ = write_strips(tmp_path / "a.tif", RGB)
    with open_slide(path) as slide:
        slide.read(0, Box(0, 0, 5, 5))
    with pytest.raises(ValueError, match="the slide is closed"):
        slide.read(0, Box(0, 0, 5, 5))
