"""What a mask says of itself: scale, place, orientation, classes; and nothing that is not known."""

from __future__ import annotations

from pathlib import Path

import openslide
import pytest
import rasterio
import tifffile

from axialcli.config import ClassInfo, Layout
from axialcli.geometry import GeoReference
from tests.output.readers import UTM, levels_in_gdal, levels_in_tifffile
from tests.output.runs import (
    CLASSES,
    make_labels,
    write_mask,
)


@pytest.mark.parametrize("layout", ["ome", "generic"])
def test_the_scale_stands_on_every_level(tmp_path: Path, layout: Layout) -> None:
    out = write_mask(tmp_path / "m.tif", make_labels((1100, 600)), layout=layout, mpp=(0.5, 0.2527))
    with tifffile.TiffFile(out) as tif:
        for level, page in enumerate(tif.pages):
            assert int(page.resolutionunit) == 3
            across, down = page.resolution
            assert 1e4 / across == pytest.approx(0.2527 * 2**level, rel=1e-6)
            assert 1e4 / down == pytest.approx(0.5 * 2**level, rel=1e-6)
        if layout == "ome":
            pixels = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Pixels"]
            assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeY"]) == (0.2527, 0.5)
            assert pixels["PhysicalSizeXUnit"] == "µm"
    with openslide.OpenSlide(out) as slide:
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.2527, rel=1e-6)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.5, rel=1e-6)


def test_no_scale_is_invented(tmp_path: Path) -> None:
    out = write_mask(tmp_path / "m.tif", make_labels((60, 60)), mpp=None)
    with tifffile.TiffFile(out) as tif:
        assert "PhysicalSize" not in (tif.ome_metadata or "")
        assert tif.pages[0].tags[296].value == 1
    with openslide.OpenSlide(out) as slide:
        assert "openslide.mpp-x" not in slide.properties


def test_class_names_and_colours_survive_in_ome(tmp_path: Path) -> None:
    out = write_mask(tmp_path / "m.tif", make_labels((60, 60)))
    with tifffile.TiffFile(out) as tif:
        notes = tifffile.xml2dict(tif.ome_metadata)["OME"]["StructuredAnnotations"]["MapAnnotation"]
    found = {note["Namespace"]: note["Value"]["M"] for note in notes}
    names = [entry["value"] for entry in found["axial/classes"]]
    assert names == [entry.name for entry in CLASSES]
    assert [entry["value"] for entry in found["axial/colours"]][1:3] == ["#ff000a", "#0080ff"]


def test_class_names_survive_in_generic_files(tmp_path: Path) -> None:
    out = write_mask(tmp_path / "m.tif", make_labels((60, 60)), georeference=UTM)
    with rasterio.open(out) as mask:
        tags = mask.tags(1)
        assert mask.descriptions == ("labels",)
    assert [tags[f"CLASS_{label}"] for label in range(4)] == [entry.name for entry in CLASSES]


@pytest.mark.parametrize("layout", ["ome", "generic"])
def test_names_with_control_characters_make_a_file_that_opens(tmp_path: Path, layout: Layout) -> None:
    classes = (CLASSES[0], ClassInfo(name="a\x00b\x1b\ud800c", colour=(1, 2, 3)))
    out = write_mask(tmp_path / "m.tif", make_labels((60, 60), classes=2), classes=classes, layout=layout)
    assert len(levels_in_tifffile(out)) == 1
    assert len(levels_in_gdal(out)) == 1


@pytest.mark.parametrize("layout", ["generic", "ome"])
@pytest.mark.parametrize("point", [False, True])
@pytest.mark.parametrize("factor", [1.0, 4.0, 2.5])
def test_the_georeference_has_the_bounds_of_the_slide(
    tmp_path: Path, layout: Layout, point: bool, factor: float
) -> None:
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 2 if point else 1, 3072, 0, 1, 32633)
    slide = GeoReference(
        pixel_scale=(2.0, 3.0, 0.0),
        tiepoints=(10.0, 20.0, 0.0, 500_000.0, 6_000_000.0, 0.0),
        geo_keys=keys,
        pixel_is_point=point,
    )
    mask = GeoReference.scaled(slide, factor, factor)
    labels = make_labels((600, 700))
    out = write_mask(tmp_path / "m.tif", labels, georeference=mask, layout=layout)
    half = 0.5 if point else 0.0
    left, top = 500_000 - 2 * (10 + half), 6_000_000 + 3 * (20 + half)
    with rasterio.open(out) as found:
        assert found.crs.to_epsg() == 32633
        assert tuple(found.bounds) == pytest.approx(
            (left, top - 3 * 600 * factor, left + 2 * 700 * factor, top), abs=1e-6
        )
    with rasterio.open(out, overview_level=0) as found:
        assert found.bounds.left == pytest.approx(left, abs=1e-6)


def test_a_matrix_and_texts_are_copied_to_the_first_directory_only(tmp_path: Path) -> None:
    reference = GeoReference(
        transformation=(2.0, 1, 0, 100, 1, -2.0, 0, 200, 0, 0, 0, 0, 0, 0, 0, 1),
        geo_keys=(1, 1, 0, 4, 1024, 0, 1, 1, 1025, 0, 1, 1, 1026, 34737, 5, 0, 3072, 0, 1, 32633),
        geo_doubles=(1.5,),
        geo_ascii="name|",
    )
    out = write_mask(tmp_path / "m.tif", make_labels((600, 700)), georeference=reference)
    with tifffile.TiffFile(out) as tif:
        first, second = tif.pages
        assert first.tags[34264].value == reference.transformation
        assert first.tags[34735].value == reference.geo_keys
        assert first.tags[34736].value in (1.5, (1.5,))
        assert first.tags[34737].value == "name|"
        assert not {33550, 33922} & set(first.tags.keys())
        assert not {34264, 34735, 34736, 34737, 42112} & set(second.tags.keys())
    with rasterio.open(out) as found:
        assert tuple(found.transform)[:6] == (2, 1, 100, 1, -2, 200)


def test_the_orientation_is_copied_to_every_level(tmp_path: Path) -> None:
    out = write_mask(tmp_path / "m.tif", make_labels((600, 700)), orientation=6)
    with tifffile.TiffFile(out) as tif:
        assert [page.tags[274].value for page in tif.pages] == [6, 6]
