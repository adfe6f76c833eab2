"""Every layout that the reader knows, as data: a name and how to write it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

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
    write_svs_jpeg2000,
    write_tiled,
)

RGB = picture(211, 307)
GREY16 = picture(211, 307, 1, np.uint16, seed=1)
FIVE16 = picture(211, 307, 5, np.uint16, seed=2)
FLOAT = picture(150, 133, 1, np.float32, seed=3)
BLOCKS = picture(192, 256, seed=4)

Writer = Callable[[Path], Made]


def _ome_files(path: Path) -> Made:
    folder = path.with_suffix("")
    folder.mkdir()
    return write_ome_files(folder, RGB)


def _stack(path: Path, one_directory: bool = True) -> Made:
    stack = picture(5 * 90, 77, 2, np.uint16).reshape(5, 90, 77, 2)
    return write_imagej(path, stack, one_directory=one_directory)


def _tiled(image: Any, **options: Any) -> Writer:
    return lambda path: write_tiled(path, image, **options)


def _strips(image: Any, **options: Any) -> Writer:
    return lambda path: write_strips(path, image, **options)


LAYOUTS: dict[str, Writer] = {
    "tiled-deflate": _tiled(RGB, mpp=0.5),
    "tiled-jpeg": _tiled(RGB, compression="jpeg", mpp=0.5),
    "tiled-none": _tiled(RGB, compression=None),
    "tiled-lzw-predictor": _tiled(RGB, compression="lzw", predictor=True),
    "tiled-zstd-16bit-predictor": _tiled(GREY16, compression="zstd", predictor=True),
    "tiled-lzma": _tiled(GREY16, compression="lzma"),
    "tiled-packbits": _tiled(RGB, compression="packbits"),
    "tiled-webp": _tiled(RGB, compression=50001),
    "tiled-jpeg2000": _tiled(RGB, compression="jpeg2000"),
    "tiled-float-predictor": _tiled(FLOAT, predictor=True, factors=()),
    "tiled-big-endian-16bit": _tiled(GREY16, byteorder=">"),
    "tiled-bigtiff": _tiled(RGB, bigtiff=True),
    "tiled-oblong": _tiled(RGB, tile=(32, 112)),
    "tiled-subifds": _tiled(RGB, subifds=True),
    "tiled-unmarked": _tiled(RGB, marked=False),
    "tiled-uneven-factors": _tiled(RGB, factors=(4, 2, 3)),
    "tiled-planar": lambda path: write_tiled(
        path,
        np.ascontiguousarray(np.moveaxis(RGB, 2, 0)),
        planarconfig="separate",
        factors=(),
        photometric="rgb",
    )._replace(truth=RGB),
    "strip-none": _strips(RGB),
    "strip-none-big-endian": _strips(GREY16, byteorder=">"),
    "strip-deflate": _strips(RGB, compression="zlib"),
    "strips-none": _strips(RGB, rows=7),
    "strips-lzw": _strips(RGB, rows=10, compression="lzw"),
    "strips-predictor": _strips(GREY16, rows=16, compression="zlib", predictor=True),
    "strips-planar": _strips(RGB, rows=16, planar=True),
    "strips-planar-deflate": _strips(RGB, rows=16, planar=True, compression="zlib"),
    "strips-five-channels": _strips(FIVE16, rows=9),
    "strips-bigtiff": _strips(RGB, rows=9, bigtiff=True),
    "svs": lambda path: write_svs(path, RGB),
    "svs-without-thumbnail": lambda path: write_svs(path, RGB, thumbnail=False),
    "svs-33003": lambda path: write_svs_jpeg2000(path, RGB),
    "svs-33005": lambda path: write_svs_jpeg2000(path, RGB, codec=33005),
    "ndpi": lambda path: write_ndpi(path.with_suffix(".ndpi"), BLOCKS),
    "ndpi-named-tif": lambda path: write_ndpi(path, BLOCKS),
    "ndpi-one-strip": lambda path: write_ndpi(path.with_suffix(".ndpi"), BLOCKS, mcu_starts=False),
    "philips": lambda path: write_philips(path, RGB, missing=((0, 0, 1), (0, 3, 4), (1, 1, 0))),
    "scn": lambda path: write_scn(path, RGB),
    "qptiff": lambda path: write_qptiff(path, FIVE16),
    "ome": lambda path: write_ome(path, RGB),
    "ome-channels": lambda path: write_ome(path, FIVE16),
    "ome-files": _ome_files,
    "imagej": _stack,
    "imagej-directories": lambda path: _stack(path, one_directory=False),
    "float64": lambda path: write_tiled(path, FLOAT.astype(np.float64), factors=())._replace(truth=FLOAT),
    "geotiff": lambda path: write_geotiff(path, RGB),
}
