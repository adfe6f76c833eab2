"""Pictures whose pixels are numbers of classes or objects, read as they are stored.

A palette, a polarity and a depth of fewer than 8 bits are colours to a Slide; here they change nothing.
Shapes: H height, W width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialcli.errors import ImageError
from axialcli.geometry import Box, GeoReference
from axialcli.image.assemble import find_layout
from axialcli.image.cache import SegmentCache
from axialcli.image.codecs import CODECS, JPEG, REFUSED
from axialcli.image.colour import MINISBLACK, channels_of
from axialcli.image.georef import georeference
from axialcli.image.layout import LevelPages
from axialcli.image.opening import TIFF_MAGIC, read_head, reading_threads
from axialcli.image.page import Page
from axialcli.image.plane import Plane
from axialcli.image.raster import RasterPicture
from axialcli.image.scale import Scale
from axialcli.image.segments import LevelSource, TiffLevel
from axialcli.image.tiff import HINT, Tiff
from axialcli.image.work import Counts, Workers
from axialcli.image.xml import local, parse

_OME_CLASSES = "axial/classes"


class LabelPicture:
    """Labels of any size, read by box.

    size: in pixels. dtype: an integer, as stored. mpp: microns per pixel (y, x), or None. georeference:
    GeoTIFF's tags. class_names: of the labels 0, 1, ..., where the file is one of axial's masks.
    """

    def __init__(
        self,
        path: Path,
        source: LevelSource,
        *,
        dtype: np.dtype[Any],
        scale: Scale,
        georeference: GeoReference | None,
        class_names: Sequence[str],
        close: Callable[[], None],
    ) -> None:
        self.path, self.size, self.dtype, self.mpp = path, source.size, dtype, scale.mpp
        self.georeference, self.class_names = georeference, tuple(class_names)
        self._source, self._close = source, close

    def read(self, box: Box) -> NDArray[Any]:
        """The labels of `box`, [H, W]. Raises ImageError, LimitError as Slide.read."""
        labels_HW1 = np.empty((box.height, box.width, 1), self.dtype)
        self._source.read_into(box, labels_HW1)
        return labels_HW1[..., 0]

    def close(self) -> None:
        """Ends threads and closes the file."""
        self._close()

    def __enter__(self) -> LabelPicture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_labels(path: str | Path) -> LabelPicture:
    """Opens a TIFF or PNG of labels, of a TIFF its largest image.

    Raises ImageError where it cannot be read or holds no labels: colours, floats, JPEG's approximations.
    """
    path = Path(path)
    if read_head(path)[:4] in TIFF_MAGIC:
        return _open_tiff(path)
    picture = RasterPicture(path, Counts(), stored=True)
    if picture.format != "png":
        raise ImageError(f"{path}: JPEG does not keep numbers as they are; give labels as PNG or TIFF")
    if picture.channels != 1 or picture.mode == "LA":
        raise ImageError(f"{path}: {picture.mode} pixels are colours; labels have one channel")
    return LabelPicture(
        path,
        picture,
        dtype=picture.dtype,
        scale=picture.scale,
        georeference=None,
        class_names=(),
        close=picture.close,
    )


def _open_tiff(path: Path) -> LabelPicture:
    opened = [Tiff(path)]
    workers = Workers(reading_threads())
    try:
        layout = find_layout(opened[0], opened)
        page = _label_page(path, layout.levels[0])
        assert page.dtype is not None
        dtype = np.dtype(np.uint8) if page.dtype.kind == "b" else page.dtype
        # Read as plain grey; nothing is converted.
        plane = replace(
            Plane.of(replace(page, photometric=MINISBLACK), first=0, count=1),
            convert=lambda samples: samples.astype(dtype, copy=False),
            fill=np.full(1, page.nodata, dtype),
        )
        level = TiffLevel(0, page.size, [plane], counts=Counts(), cache=SegmentCache(), workers=workers)
        level.check()
        names = _class_names(path, opened[0].pages[0].description)
    except BaseException:
        _close_all(opened, workers)
        raise
    return LabelPicture(
        path,
        level,
        dtype=dtype,
        scale=layout.scale,
        georeference=georeference(page),
        class_names=names,
        close=lambda: _close_all(opened, workers),
    )


def _close_all(opened: Sequence[Tiff], workers: Workers) -> None:
    workers.close()
    for tiff in opened:
        tiff.close()


def _label_page(path: Path, level: LevelPages) -> Page:
    """The one directory that holds the labels. Raises ImageError where there are more, or no labels."""
    planes = level.planes[0]
    page = planes[0].page
    if len(level.planes) > 1 or len(planes) > 1 or page.samples != 1:
        count = len(level.planes) * sum(channels_of(plane.page) for plane in planes)
        raise ImageError(f"{path}: holds {count} channels or planes; labels have one")
    if page.compression in JPEG:
        raise ImageError(f"{path}: JPEG does not keep numbers as they are; give labels without loss")
    if page.compression not in CODECS:
        name = REFUSED.get(page.compression, page.compression)
        raise ImageError(f"{path}: compression {name} is not read; {HINT}")
    whole = page.dtype is not None and page.dtype.kind in "bui" and page.dtype.itemsize <= 4
    if not whole or not isinstance(page.bits, int) or page.depth != 1 or 0 in page.size:
        raise ImageError(f"{path}: samples of {page.bits} bits ({page.dtype}) are no labels; write integers")
    return page


def _class_names(path: Path, description: str) -> list[str]:
    """What a mask of axial says about its classes; empty for all other files."""
    if _OME_CLASSES in description:
        for note in parse(description, path, "OME-XML").iter():
            if local(note) == "MapAnnotation" and note.get("Namespace") == _OME_CLASSES:
                return [entry.text or "" for entry in note.iter() if local(entry) == "M"]
    if description.startswith('{"axial":'):
        try:
            return [str(entry["name"]) for entry in json.loads(description)["classes"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ImageError(f"{path}: its list of classes is damaged ({error!r:.60})") from error
    return []
