"""An open TIFF and its directories: the only file that knows tifffile.

Whatever tifffile raises or merely logs leaves this file as an ImageError or a LimitError.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from axialcli.errors import AxialError, ImageError, LimitError
from axialcli.geometry import Size
from axialcli.image.page import Page, plain

PAGE_LIMIT = 20_000
"""The largest number of directories that are read."""

HINT = "convert it: `gdal_translate -co TILED=YES` or `vips tiffsave --tile --pyramid`"

_NUMBER_TAGS = frozenset({254, 262, 266, 274, 284, 296, 65420, 65421, 65424})
_RATIO_TAGS = frozenset({282, 283})
_LIST_TAGS = frozenset({33550, 33922, 34264, 34735, 34736})
_KEPT_TAGS = (*_NUMBER_TAGS, *_RATIO_TAGS, *_LIST_TAGS, 320, 700, 34737)
_ESSENTIAL_TAGS = frozenset(
    {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 338, 339, 347, 530}
)
_BROKEN_CHAIN = re.compile(
    r"invalid page offset|corrupted tag list|invalid offset to|circular reference|contains no pages"
)


class Tiff:
    """An open TIFF: `pages` are its directories in order, sub-directories below them.

    `complaints` is what tifffile logged and what does no harm to the pixels.
    """

    def __init__(self, path: Path) -> None:
        """Raises ImageError where the file is damaged, LimitError where it has too many directories."""
        self.path = path
        self.complaints: list[str] = []
        self.pages: tuple[Page, ...] = ()
        with _logged() as records:
            try:
                self._file = _open(path)
            except AxialError:
                raise
            except Exception as error:
                raise ImageError(f"{path}: not a TIFF that can be read ({plain(error)})") from error
            try:
                self.size_bytes = int(self._file.filehandle.size)
                self._fd = int(self._file.filehandle.fileno())
                self.pages = tuple(self._load())
                self._judge(records)
            except AxialError:
                self.close()
                raise
            except Exception as error:
                self.close()
                raise ImageError(f"{path}: its directories are damaged ({plain(error)})") from error

    def close(self) -> None:
        self._file.close()

    def pread(self, offset: int, count: int) -> bytes:
        """`count` bytes at `offset`. Raises ImageError where the file is shorter. Any thread may call it."""
        try:
            data = os.pread(self._fd, count, offset)
            while 0 < len(data) < count:
                more = os.pread(self._fd, count - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise ImageError(f"{self.path}: cannot be read ({error.strerror})") from error
        if len(data) != count:
            raise ImageError(
                f"{self.path}: the file ends within the picture ({offset + len(data):,} bytes); copy it again"
            )
        return data

    def _load(self) -> Iterator[Page]:
        seen: set[int] = set()
        for number, raw in enumerate(self._file.pages):
            if raw.offset in seen:
                raise ImageError(f"{self.path}: its directories form a loop; the file is damaged")
            if number >= PAGE_LIMIT:
                raise LimitError(f"{self.path}: more than {PAGE_LIMIT:,} directories")
            seen.add(raw.offset)
            yield self._page(raw, tuple(self._load_subpages(raw)))

    def _load_subpages(self, raw: Any) -> Iterator[Page]:
        for number, offset in enumerate(raw.subifds or ()):
            if not 8 <= offset < self.size_bytes:
                raise ImageError(f"{self.path}: a sub-directory lies outside of the file; copy it again")
            self._file.filehandle.seek(offset)
            yield self._page(tifffile.TiffPage(self._file, (raw.index, number)), ())

    def _page(self, raw: Any, subpages: tuple[Page, ...]) -> Page:
        tags = {code: raw.tags.valueof(code) for code in _KEPT_TAGS if code in raw.tags}
        tags = {code: value for code, value in tags.items() if _makes_sense(code, value)}
        tiled = raw.tilewidth > 0
        segment = (raw.tilelength, raw.tilewidth) if tiled else (raw.rowsperstrip, raw.imagewidth)
        return Page(
            tiff=self,
            index=tuple(raw._index),
            offset=raw.offset,
            size=Size(int(raw.imagelength), int(raw.imagewidth)),
            depth=int(raw.imagedepth),
            samples=int(raw.samplesperpixel),
            planar=raw.planarconfig == 2 and raw.samplesperpixel > 1,
            bits=raw.bitspersample,
            sample_format=int(raw.sampleformat) if isinstance(raw.sampleformat, int) else 0,
            dtype=raw.dtype,
            photometric=int(raw.photometric) if 262 in tags or raw.photometric else None,
            compression=int(raw.compression),
            predictor=int(raw.predictor),
            extra_samples=tuple(int(kind) for kind in raw.extrasamples),
            subfile_type=int(raw.subfiletype),
            fill_order=int(raw.fillorder),
            big_endian=self._file.byteorder == ">",
            tiled=tiled,
            segment=Size(int(segment[0]), int(segment[1])),
            offsets=np.asarray(raw.dataoffsets, np.int64),
            counts=np.asarray(raw.databytecounts, np.int64),
            description=raw.description,
            software=raw.software,
            nodata=raw.nodata,
            tags=tags,
            jpeg={"jpegtables": raw.jpegtables, "jpegheader": raw.jpegheader},
            jpeg_colours=_jpeg_colours(raw),
            # Made here, in one thread: tifffile builds it on first use, without a lock.
            decoder=raw.decode,
            subpages=subpages,
        )

    def _judge(self, records: list[str]) -> None:
        """What was only logged: damage raises, the rest is kept as a complaint."""
        for text in records:
            if _BROKEN_CHAIN.search(text):
                raise ImageError(f"{self.path}: a directory is missing: the file is cut short; copy it again")
            lost = re.search(r"TiffTag (\d+) @", text)
            if lost and int(lost[1]) in _ESSENTIAL_TAGS:
                raise ImageError(f"{self.path}: tag {lost[1]} is damaged or cut off; copy the file again")
            if lost:
                self.complaints.append(f"tag {lost[1]} is damaged and was left out")
        if not self.pages:
            raise ImageError(f"{self.path}: the TIFF holds no picture: it is cut short; copy it again")


def _makes_sense(code: int, value: Any) -> bool:
    """Whether a tag's value is of the type that its readers expect."""
    if code in _NUMBER_TAGS:
        return isinstance(value, int | float)
    if code in _RATIO_TAGS:
        return isinstance(value, tuple) and len(value) == 2 and all(isinstance(one, int) for one in value)
    if code in _LIST_TAGS:
        return isinstance(value, int | float) or all(isinstance(one, int | float) for one in value or "x")
    if code == 320:
        return isinstance(value, np.ndarray) and value.size > 0 and value.size % 3 == 0
    return isinstance(value, bytes if code == 700 else str)


def _jpeg_colours(raw: Any) -> tuple[int | None, int | None] | None:
    """Colour spaces in the stream and wanted, in the cases that are common; None leaves it to tifffile."""
    plain = raw.compression == 7 and raw.bitspersample == 8 and raw.dtype == np.uint8
    if not plain or raw.planarconfig != 1 or raw.extrasamples:
        return None
    if raw.photometric == 6 and raw.samplesperpixel == 3:
        return None, 2
    if raw.photometric == 2 and raw.samplesperpixel == 3:
        # Aperio stores RGB as it is, in streams that cannot say so.
        return (None if raw.is_jfif else 2), 2
    return None


def _open(path: Path) -> tifffile.TiffFile:
    file = tifffile.TiffFile(path)
    try:
        # NDPI has offsets of 64 bits in a classic TIFF; tifffile goes by the file's name alone.
        wide = bool(file.pages) and 65420 in file.pages.first.tags and not file.tiff.is_ndpi
    except Exception:
        file.close()
        raise
    if wide and file.byteorder == "<" and not file.is_bigtiff:
        file.close()
        return tifffile.TiffFile(path, is_ndpi=True)
    return file


@contextmanager
def _logged() -> Iterator[list[str]]:
    """Collects the errors that tifffile logs in this thread."""
    records: list[str] = []
    here = threading.get_ident()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == here and record.levelno >= logging.WARNING:
                records.append(record.getMessage())

    collector = Collector()
    logger = logging.getLogger("tifffile")
    logger.addHandler(collector)
    try:
        yield records
    finally:
        logger.removeHandler(collector)
