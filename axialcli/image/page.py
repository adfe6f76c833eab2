"""One directory of a TIFF as plain facts, and its segments decoded.

Shapes: h, w a segment; S samples as stored.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from axialcli.errors import LimitError
from axialcli.geometry import Size
from axialcli.image.codecs import IMAGE_CODECS, declared

SEGMENT_LIMIT_BYTES = 512 * 2**20
"""The largest segment that is unpacked: what a file may make one decode call allocate."""

_own = threading.local()


class SegmentError(Exception):
    """One segment cannot be decoded; who asked for it knows its place and makes the message."""


class Stored(Protocol):
    """The file that holds a page's segments."""

    @property
    def path(self) -> Path: ...

    @property
    def size_bytes(self) -> int: ...

    def pread(self, offset: int, count: int) -> bytes: ...


@dataclass(frozen=True, kw_only=True)
class Page:
    """One directory: an image as it is stored.

    dtype is what `decode` returns. offsets, counts: int64, one a segment, 0 and 0 where a segment is
    missing. segment: the size of a tile, or of a full strip.
    """

    tiff: Stored = field(repr=False)
    index: tuple[int, ...]
    offset: int
    size: Size
    depth: int
    samples: int
    planar: bool
    bits: int | tuple[int, ...]
    sample_format: int
    dtype: np.dtype[Any] | None
    photometric: int | None
    compression: int
    predictor: int
    extra_samples: tuple[int, ...]
    subfile_type: int
    fill_order: int
    big_endian: bool
    tiled: bool
    segment: Size
    offsets: NDArray[np.int64] = field(repr=False)
    counts: NDArray[np.int64] = field(repr=False)
    description: str = field(repr=False)
    software: str = field(repr=False)
    nodata: float
    tags: dict[int, Any] = field(repr=False)
    jpeg: dict[str, bytes | None] = field(repr=False)
    jpeg_colours: tuple[int | None, int | None] | None
    decoder: Callable[..., Any] = field(repr=False)
    subpages: tuple[Page, ...] = field(default=(), repr=False)

    @property
    def name(self) -> str:
        """The directory's place, as `3`, or `0.1` for the second sub-directory of the first."""
        return ".".join(str(i) for i in self.index)

    @property
    def reduced(self) -> bool:
        return bool(self.subfile_type & 1)

    @property
    def mask(self) -> bool:
        return bool(self.subfile_type & 4)

    @property
    def grid(self) -> Size:
        """Rows and columns of segments."""
        down = -(-self.size.height // max(self.segment.height, 1))
        return Size(down, -(-self.size.width // max(self.segment.width, 1)))

    @property
    def stored_samples(self) -> int:
        """Samples of one pixel that lie in one segment."""
        return 1 if self.planar else self.samples

    @property
    def segment_bytes(self) -> int:
        """Bytes of one segment once it is unpacked."""
        item = self.dtype.itemsize if self.dtype is not None else 1
        return self.segment.height * self.segment.width * self.stored_samples * item

    def decode(self, data: bytes, number: int, *, lasting: bool = True) -> NDArray[Any]:
        """Segment `number` unpacked: [h, w, S] of `dtype`; tiles at the edge may be smaller.

        An array that is not `lasting` may be overwritten by this thread's next call.
        Raises SegmentError where it cannot be decoded, LimitError where memory runs out.
        """
        try:
            if self.compression in IMAGE_CODECS and self.jpeg["jpegheader"] is None:
                said = declared(self.compression, data)
                # Whole MCUs and padded strips are common; anything far larger is an attack or damage.
                if said is not None and said.height * said.width > 4 * self._segment_area() + 65536:
                    raise SegmentError(f"it declares {said.width} x {said.height} pixels")
                if said == (*self.segment, self.stored_samples) and self.jpeg_colours is not None:
                    return self._decode_jpeg(data, lasting)
            array, _, _ = self.decoder(data, number, _fullsize=False, **self.jpeg)
        except SegmentError:
            raise
        except MemoryError as error:
            # Codecs also say so of damaged data; and smaller steps would not make a segment smaller.
            raise LimitError(
                f"{self.tiff.path}: out of memory in a segment of directory {self.name}"
            ) from error
        except Exception as error:
            raise SegmentError(plain(error)) from error
        if array.dtype != self.dtype:
            raise SegmentError(f"it holds {array.dtype} pixels, not {self.dtype}")
        return array[0]  # type: ignore[no-any-return]

    def _decode_jpeg(self, data: bytes, lasting: bool) -> NDArray[Any]:
        """A full JPEG tile of eight bits, as tifffile decodes it, into memory of our choice."""
        colours, wanted = self.jpeg_colours or (None, None)
        shape = (*self.segment, self.stored_samples)
        out = _off_alignment(shape) if lasting else _scratch(shape)
        imagecodecs.jpeg8_decode(
            data, tables=self.jpeg["jpegtables"], colorspace=colours, outcolorspace=wanted, out=out
        )
        return out

    def _segment_area(self) -> int:
        return self.segment.height * self.segment.width


def _off_alignment(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Memory that is not aligned to 32 bytes.

    libjpeg-turbo writes past the caches into aligned memory; reading the pixels again, which always
    comes next, then costs a third of the whole decoding.
    """
    size = math.prod(shape)
    raw = np.empty(size + 32, np.uint8)
    start = (16 - raw.ctypes.data) % 32
    return raw[start : start + size].reshape(shape)


def _scratch(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Memory of this thread's own, the same at every call."""
    kept: NDArray[np.uint8] | None = getattr(_own, "scratch", None)
    if kept is None or kept.shape != shape:
        kept = _own.scratch = _off_alignment(shape)
    return kept


def plain(error: Exception) -> str:
    """A foreign error in one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."
