"""Masks read back as they were written: all levels, in every reader, at the right place and scale."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from axialcli.config import ClassInfo, Layout
from axialcli.geometry import Block, Box, GeoReference, Size, level_sizes, whole
from axialcli.output import Journal, MaskInfo, MaskSink
from axialcli.output.tiff import is_big
from tests.output.readers import UTM, assert_levels, levels_in_gdal, levels_in_openslide, levels_in_tifffile
from tests.output.runs import (
    CLASSES,
    boxes_of,
    make_info,
    make_labels,
    naive_levels,
    sha256,
    write_mask,
)

SIZES = [(1, 1), (511, 512), (512, 513), (513, 511), (1100, 1337), (3, 1500), (1300, 1)]
LAYOUTS: list[Layout] = ["ome", "ome-strict", "generic"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_levels_read_back_equal(tmp_path: Path, size: tuple[int, int], layout: Layout) -> None:
    labels = make_labels(size)
    expected = naive_levels(labels)
    palette = False if layout == "generic" else None  # OpenSlide shows a palette's colours.
    out = write_mask(tmp_path / "m.tif", labels, layout=layout, palette=palette)
    if size != (1300, 1):  # tifffile finds no pyramid where a side cannot shrink.
        assert_levels(levels_in_tifffile(out), expected)
    assert_levels(levels_in_gdal(out), expected)
    assert_levels(levels_in_openslide(out), expected[:1] if layout == "ome-strict" else expected)
    with Image.open(out) as picture:
        np.testing.assert_array_equal(np.asarray(picture), labels)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_levels_of_16_bits_read_back_equal(tmp_path: Path, layout: Layout) -> None:
    labels = make_labels((520, 700)).astype(np.uint16) * 21_845
    labels[5:9] = 256
    classes = tuple(ClassInfo(name=f"c{label}", colour=(1, 2, 3)) for label in range(65_536))

    out = write_mask(tmp_path / "m.tif", labels, layout=layout, classes=classes, palette=True)

    expected = naive_levels(labels)
    assert (expected[0].max(), expected[1].dtype) == (65_535, np.uint16)
    assert_levels(levels_in_tifffile(out), expected)
    assert_levels(levels_in_gdal(out), expected)
    with Image.open(out) as picture:
        np.testing.assert_array_equal(np.asarray(picture), labels)
    with tifffile.TiffFile(out) as tiff:
        assert {page.photometric.name for page in tiff.pages} == {"MINISBLACK"}
    with pytest.raises(ValueError, match="65537 classes: a mask holds 1 to 65536"):
        make_info((1, 1), classes=(*classes, classes[0]))


def test_a_palette_keeps_the_labels_in_tifffile_gdal_and_pillow(tmp_path: Path) -> None:
    labels = make_labels((700, 600))
    out = write_mask(tmp_path / "m.tif", labels, layout="generic")
    assert_levels(levels_in_tifffile(out), naive_levels(labels))
    assert_levels(levels_in_gdal(out), naive_levels(labels))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(out) as mask:
            colours = mask.colormap(1)
    assert [colours[label][:3] for label in range(4)] == [entry.colour for entry in CLASSES]
    assert colours[200][:3] == (0, 0, 0)
    with Image.open(out) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), labels)


@pytest.mark.parametrize(
    ("changes", "layout", "photometric"),
    [
        ({}, "ome", 1),
        ({"palette": True}, "ome", 3),
        ({"layout": "generic"}, "generic", 3),
        ({"layout": "generic", "palette": False}, "generic", 1),
        ({"georeference": UTM}, "generic", 3),
        ({"georeference": UTM, "layout": "ome"}, "ome", 1),
    ],
)
def test_the_layout_and_the_palette_are_chosen(
    tmp_path: Path, changes: dict[str, Any], layout: str, photometric: int
) -> None:
    out = write_mask(tmp_path / "m.tif", make_labels((600, 600)), **changes)
    with tifffile.TiffFile(out) as tif:
        assert tif.is_ome == (layout == "ome")
        assert [int(page.photometric) for page in tif.pages] == [photometric] * 2
        assert (tif.pages[0].subifds is not None) == (layout == "ome")
        assert [int(page.subfiletype) for page in tif.pages] == [0, 1]


def test_the_strict_layout_keeps_its_levels_out_of_the_main_chain(tmp_path: Path) -> None:
    out = write_mask(tmp_path / "m.tif", make_labels((1100, 600)), layout="ome-strict")
    with tifffile.TiffFile(out) as tif:
        assert len(tif.pages) == 1
        assert len(tif.series[0].levels) == 3


@pytest.mark.parametrize("at", [(0, 0), (511, 512), (1023, 1337), (700, 3), (1099, 1023)])
def test_one_labelled_pixel_lies_at_its_place_on_every_level(tmp_path: Path, at: tuple[int, int]) -> None:
    # A blob that outlives the mode, around one known place.
    labels = np.zeros((1100, 1400), np.uint8)
    labels[at[0] // 8 * 8 :, at[1] // 8 * 8 :][:8, :8] = 2
    out = write_mask(tmp_path / "m.tif", labels)
    for level, found in enumerate(levels_in_openslide(out)):
        factor = 2**level
        rows, columns = np.nonzero(found == 2)
        assert (rows.min() * factor, columns.min() * factor) == (at[0] // 8 * 8, at[1] // 8 * 8)
        assert found[at[0] // factor, at[1] // factor] == 2


def test_bigtiff_is_decided_by_the_uncompressed_size_with_the_pyramid() -> None:
    small = level_sizes(Size(40_000, 40_000), 512)
    assert not is_big(small, 1)
    assert is_big(level_sizes(Size(41_000, 41_000), 512), 1)
    assert is_big(small, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_bigtiff_reads_the_same(tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("axialcli.output.tiff._CLASSIC_LIMIT_BYTES", 1000)
    labels = make_labels((1100, 1300))
    out = write_mask(tmp_path / "m.tif", labels, layout=layout, palette=False)
    with tifffile.TiffFile(out) as tif:
        assert tif.is_bigtiff
    expected = naive_levels(labels)
    assert_levels(levels_in_tifffile(out), expected)
    assert_levels(levels_in_gdal(out), expected)
    assert_levels(levels_in_openslide(out), expected[:1] if layout == "ome-strict" else expected)


@pytest.mark.parametrize("georeference", [None, UTM])
def test_the_same_mask_is_the_same_file_whatever_the_order(
    tmp_path: Path, georeference: GeoReference | None
) -> None:
    labels = make_labels((1100, 1600))
    first = sha256(write_mask(tmp_path / "a.tif", labels, georeference=georeference))
    cells = boxes_of(labels.shape, 512, 512)
    for boxes in (boxes_of(labels.shape), cells[::-1], cells + cells[3:5], [whole(Size(1100, 1600))]):
        assert sha256(write_mask(tmp_path / "b.tif", labels, boxes=boxes, georeference=georeference)) == first


def test_the_seed_decides_the_ome_uuid(tmp_path: Path) -> None:
    labels = make_labels((40, 40))
    first = sha256(write_mask(tmp_path / "a.tif", labels))
    assert sha256(write_mask(tmp_path / "b.tif", labels, uuid_seed="other")) != first


def test_labels_at_most_takes_the_level_above(tmp_path: Path) -> None:
    labels = make_labels((1100, 1600))
    with (
        Journal.open(tmp_path / "p", {}) as journal,
        MaskSink(journal.folder, make_info((1100, 1600))) as sink,
    ):
        sink.write(Block(box=Box(0, 0, 1100, 1600), labels_HW=labels))
        levels = naive_levels(labels)
        np.testing.assert_array_equal(sink.labels_at_most(5000), labels)
        np.testing.assert_array_equal(sink.labels_at_most(1600), labels)
        np.testing.assert_array_equal(sink.labels_at_most(800), levels[1])
        smaller = sink.labels_at_most(600)
        assert smaller.shape == (412, 600)
        for y, x in ((0, 0), (411, 599), (200, 300), (17, 555)):
            assert smaller[y, x] == levels[1][int((y + 0.5) * 550 / 412), int((x + 0.5) * 800 / 600)]
        assert sink.labels_at_most(100).shape == (69, 100)


def test_views_into_larger_arrays_are_written_as_they_look(tmp_path: Path) -> None:
    large = make_labels((1024, 1024))
    view = large[::2, ::2]
    with Journal.open(tmp_path / "p", {}) as journal, MaskSink(journal.folder, make_info((512, 512))) as sink:
        sink.write(Block(box=Box(0, 0, 512, 512), labels_HW=view))
        assert_levels(levels_in_tifffile(sink.finish()), [view])


def test_an_info_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="0 classes"):
        MaskInfo(size=Size(1, 1), classes=())


def test_labels_that_do_not_compress_are_written_whole(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 256, (600, 530)).astype(np.uint8)
    classes = tuple(ClassInfo(name=f"c{label}", colour=(label, 0, 0)) for label in range(256))
    out = write_mask(tmp_path / "m.tif", labels, classes=classes)
    with tifffile.TiffFile(out) as tif:
        assert max(tif.pages[0].databytecounts) > 2**16
    assert_levels(levels_in_tifffile(out), naive_levels(labels))
    assert_levels(levels_in_gdal(out), naive_levels(labels))
