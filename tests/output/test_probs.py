"""Probabilities read back: one plane per class, named, with a pyramid by mean."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile

from axialcli.config import Layout, ProbsDtype
from axialcli.errors import UsageError
from axialcli.geometry import Block, GeoReference
from axialcli.output import Journal, ProbsSink
from tests.output.runs import CLASSES, boxes_of, make_info

GEO = GeoReference(pixel_scale=(2.0, 2.0, 0.0), tiepoints=(0.0, 0, 0, 100, 200, 0))


def make_probs(size: tuple[int, int], classes: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    probs = rng.random((classes, *size), np.float32)
    return (probs / probs.sum(axis=0)).astype(np.float32)


def write_probs(folder: Path, probs: np.ndarray, dtype: ProbsDtype, **changes: object) -> Path:
    info = make_info(probs.shape[1:], classes=CLASSES[: len(probs)], **changes)
    with Journal.open(folder, {}) as journal, ProbsSink(journal.folder, info, dtype=dtype) as sink:
        for box in boxes_of(info.size):
            part = probs[:, box.y0 : box.y1, box.x0 : box.x1]
            sink.write(Block(box=box, labels_HW=part.argmax(0).astype(np.uint8), probs_KHW=part))
            sink.sync()
            assert sink.has(box)
        return sink.finish()


def naive_mean(plane: np.ndarray) -> np.ndarray:
    height, width = plane.shape
    halved = np.zeros((-(-height // 2), -(-width // 2)), np.float32)
    for y in range(halved.shape[0]):
        for x in range(halved.shape[1]):
            halved[y, x] = plane[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].astype(np.float32).mean()
    return halved


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
@pytest.mark.parametrize("layout", ["auto", "ome-strict", "generic"])
@pytest.mark.parametrize("classes", [1, 3])
def test_all_planes_read_back_at_all_levels(
    tmp_path: Path, dtype: ProbsDtype, layout: Layout, classes: int
) -> None:
    probs = make_probs((530, 600), classes)
    path = write_probs(tmp_path / "p", probs, dtype, layout=layout)
    stored = np.rint(probs * 255).astype(np.uint8) if dtype == "uint8" else probs.astype(np.float16)
    with tifffile.TiffFile(path) as tif:
        assert tif.is_ome == (dtype == "uint8" and layout != "generic")
        first, second = (
            level.asarray().reshape(classes, *level.shape[-2:]) for level in tif.series[0].levels
        )
        np.testing.assert_array_equal(first, stored)
        halved = np.stack([naive_mean(plane) for plane in stored])
        tolerance = 0.5 if dtype == "uint8" else 5e-4
        np.testing.assert_allclose(second.astype(np.float32), halved, rtol=0, atol=tolerance)
        across, down = tif.pages[0].resolution
        assert (1e4 / across, 1e4 / down) == (0.25, 0.5)


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_gdal_finds_named_bands_with_overviews(tmp_path: Path, dtype: ProbsDtype) -> None:
    probs = make_probs((530, 600))
    path = write_probs(tmp_path / "p", probs, dtype, georeference=GEO)
    scale = 255 if dtype == "uint8" else 1
    with rasterio.open(path) as found:
        assert found.count == 3
        assert found.descriptions == tuple(entry.name for entry in CLASSES[:3])
        assert [found.overviews(band) for band in (1, 2, 3)] == [[2]] * 3
        assert found.bounds.left == 100
        np.testing.assert_allclose(found.read() / scale, probs, atol=0.5 / 255)


def test_gdal_reads_the_first_channel_of_ome_files(tmp_path: Path) -> None:
    probs = make_probs((530, 600))
    path = write_probs(tmp_path / "p", probs, "uint8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as found:
            assert len(found.subdatasets) == 3
            np.testing.assert_array_equal(found.read(1), np.rint(probs[0] * 255))


def test_channels_of_ome_files_have_the_names_of_the_classes(tmp_path: Path) -> None:
    path = write_probs(tmp_path / "p", make_probs((40, 50)), "uint8")
    with tifffile.TiffFile(path) as tif:
        pixels = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Pixels"]
        assert (tif.series[0].axes, pixels["SizeC"]) == ("CYX", 3)
        assert [channel["Name"] for channel in pixels["Channel"]] == [entry.name for entry in CLASSES[:3]]
        assert pixels["Channel"][1]["Color"] == int(np.array(0xFF000AFF, np.uint32).astype(np.int32))


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    with (
        Journal.open(tmp_path / "p", {}) as journal,
        pytest.raises(UsageError, match="probs dtype is 'int8'"),
    ):
        ProbsSink(journal.folder, make_info((1, 1)), dtype="int8")  # type: ignore[arg-type]


def test_negative_zeros_do_not_make_the_file_depend_on_the_order(tmp_path: Path) -> None:
    probs = np.zeros((1, 1024, 512), np.float32)
    probs[:, 512:] = -0.0
    path = write_probs(tmp_path / "p", probs, "float16")
    with tifffile.TiffFile(path) as tif:
        assert np.array_equal(np.signbit(tif.asarray()), np.signbit(probs[0]))
