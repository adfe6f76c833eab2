"""Assembly of a finished TIFF from spooled tiles: the layouts, the tags, and when it is a BigTIFF.

ome         levels in SubIFDs with OME-XML, and the first directory's next pointer set to the first
            SubIFD: every reader that follows either way finds the pyramid.
ome-strict  the same without that pointer, as the OME standard words it.
generic     one page per level, NewSubfileType 1: what GDAL and QGIS expect.
stack       of a volume, one page per plane and OME-XML.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from axialcli.config import MASK_TILE, Layout
from axialcli.geometry import GeoReference, Size
from axialcli.output.describe import What, gdal_metadata, json_text, ome_xml
from axialcli.output.files import open_file, writing
from axialcli.output.info import MaskInfo
from axialcli.output.raster import TiledRaster

Tag = tuple[int, str, int, Any, bool]
_BUFFER_BYTES = 1 << 20
_STRIP_BYTES = 1 << 18
_CLASSIC_LIMIT_BYTES = 2 << 30


def write_tiff(path: Path, raster: TiledRaster, info: MaskInfo, *, what: What, layout: Layout) -> Path:
    """Writes all levels of `raster` to `path`; the same input gives the same bytes.

    layout: `ome`, `ome-strict` or `generic`. Returns `path`; raises OutputError, and then leaves a
    file that was cut short, not to be published.
    """
    big = is_big(raster.levels, raster.planes * raster.dtype.itemsize)
    ome = layout != "generic"
    with writing(path), io.BufferedRandom(open_file(path, create=True), _BUFFER_BYTES) as file:
        with tifffile.TiffWriter(file, bigtiff=big, byteorder="<", ome=False, shaped=False) as writer:
            for level in range(len(raster.levels)):
                _write_level(writer, raster, info, level, what=what, ome=ome)
        if layout == "ome" and raster.planes == 1 and len(raster.levels) > 1:
            _chain_first_subifd(file)
        file.flush()
    return path


def write_stack(path: Path, planes: Iterator[NDArray[np.uint8]], info: MaskInfo) -> Path:
    """Writes the planes [H, W] of a mask's stack to `path` as OME-TIFF; the same input, the same bytes.

    A page a plane, in strips and without a pyramid: so the plainest readers of stacks take it as well.
    Returns `path`; raises OutputError, and then leaves a file that was cut short, not to be published.
    """
    pictures: dict[str, Any] = {"photometric": "minisblack"}
    if info.chosen_palette:
        pictures = {"photometric": "palette", "colormap": _colormap(info)}
    if info.mpp is not None:
        pictures |= {"resolution": (1e4 / info.mpp[1], 1e4 / info.mpp[0]), "resolutionunit": "CENTIMETER"}
    big = is_big((info.size,), info.depth)
    with writing(path), io.BufferedRandom(open_file(path, create=True), _BUFFER_BYTES) as file:
        with tifffile.TiffWriter(file, bigtiff=big, byteorder="<", ome=False, shaped=False) as writer:
            writer.write(
                planes,
                shape=(info.depth, *info.size),
                dtype=np.dtype(np.uint8),
                rowsperstrip=min(max(_STRIP_BYTES // info.size.width, 1), info.size.height),
                compression="zlib",
                description=ome_xml(info, "mask", np.dtype(np.uint8)),
                software=info.software,
                metadata=None,
                extratags=_extra_tags(info, "mask", first=True, ome=True),
                **pictures,
            )
        file.flush()
    return path


def is_big(levels: tuple[Size, ...], bytes_per_px: int) -> bool:
    """Whether the uncompressed picture with its levels passes 2 GiB."""
    return sum(size.height * size.width for size in levels) * bytes_per_px > _CLASSIC_LIMIT_BYTES


def geo_tags(reference: GeoReference) -> list[Tag]:
    """The GeoTIFF tags of `reference`, those that it has."""
    ascii_bytes = reference.geo_ascii.encode("utf-8")
    candidates: list[Tag] = [
        (33550, "d", len(reference.pixel_scale), reference.pixel_scale, True),
        (33922, "d", len(reference.tiepoints), reference.tiepoints, True),
        (34264, "d", len(reference.transformation), reference.transformation, True),
        (34735, "H", len(reference.geo_keys), reference.geo_keys, True),
        (34736, "d", len(reference.geo_doubles), reference.geo_doubles, True),
        (34737, "s", 0, ascii_bytes, True),
    ]
    return [tag for tag in candidates if len(tag[3])]


def _write_level(
    writer: tifffile.TiffWriter, raster: TiledRaster, info: MaskInfo, level: int, *, what: What, ome: bool
) -> None:
    first, planes = level == 0, raster.planes
    reduced = len(raster.levels) - 1
    pictures: dict[str, Any] = {}
    if first and ome:
        pictures["description"] = ome_xml(info, what, raster.dtype)
    elif first:
        pictures["description"] = json_text(info, what)
    if what == "mask" and info.chosen_palette:
        pictures |= {"photometric": "palette", "colormap": _colormap(info)}
    else:
        pictures["photometric"] = "minisblack"
    if planes > 1 and not ome:
        pictures["planarconfig"] = "separate"
    if info.mpp is not None:
        # Every level says its own, since some readers look at each directory alone.
        per_cm = tuple(1e4 / (mpp * 2**level) for mpp in (info.mpp[1], info.mpp[0]))
        pictures |= {"resolution": per_cm, "resolutionunit": "CENTIMETER"}
    if reduced and first and ome:
        pictures["subifds"] = reduced
    writer.write(
        raster.tiles(level),
        shape=((planes,) if planes > 1 else ()) + tuple(raster.levels[level]),
        dtype=raster.dtype,
        tile=(MASK_TILE, MASK_TILE),
        compression="zlib",
        subfiletype=0 if first else 1,
        software=info.software if first else False,
        metadata=None,
        extratags=_extra_tags(info, what, first=first, ome=ome),
        **pictures,
    )


def _extra_tags(info: MaskInfo, what: What, *, first: bool, ome: bool) -> list[Tag]:
    tags: list[Tag] = [(274, "H", 1, info.orientation, False)]
    if first and info.georeference is not None:
        tags += geo_tags(info.georeference)
    if first and not ome:
        tags.append((42112, "s", 0, gdal_metadata(info, what), True))
    return tags


def _colormap(info: MaskInfo) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Tag 320: [3, 256], 0..65535; labels without a class are black."""
    colours = np.zeros((3, 256), np.uint16)
    for label, entry in enumerate(info.classes):
        colours[:, label] = np.multiply(entry.colour, 257)
    return colours


class _Format(NamedTuple):
    """How a directory is laid out, little endian."""

    header_at: int
    pointer: str
    entries: str
    entry_bytes: int


_CLASSIC = _Format(4, "<I", "<H", 12)
_BIG = _Format(8, "<Q", "<Q", 20)


def _chain_first_subifd(file: io.BufferedRandom) -> None:
    """Points the first directory's next pointer at its first SubIFD; the others follow from there."""
    file.seek(2)
    form = _BIG if _unpack(file, "<H") == 43 else _CLASSIC
    file.seek(form.header_at)
    file.seek(_unpack(file, form.pointer))
    entries = _unpack(file, form.entries)
    table = file.read(entries * form.entry_bytes)
    next_at = file.tell()
    pointer_bytes = struct.calcsize(form.pointer)
    for at in range(0, len(table), form.entry_bytes):
        tag, _kind = struct.unpack_from("<HH", table, at)
        if tag == 330:
            (count,) = struct.unpack_from(form.pointer, table, at + 4)
            (value,) = struct.unpack_from(form.pointer, table, at + 4 + pointer_bytes)
            if count > 1:
                file.seek(value)
                value = _unpack(file, form.pointer)
            file.seek(next_at)
            file.write(struct.pack(form.pointer, value))
            return
    raise AssertionError("no SubIFDs to chain")


def _unpack(file: io.BufferedRandom, form: str) -> int:
    (value,) = struct.unpack(form, file.read(struct.calcsize(form)))
    return int(value)
