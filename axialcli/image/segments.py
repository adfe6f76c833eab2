"""Reading a box of one level from its tiles or strips, on several threads.

Shapes: H, W the box; h, w a segment; C channels as returned; S samples as stored.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from axialcli.errors import ImageError, LimitError
from axialcli.geometry import Box, Size
from axialcli.image import page as limits
from axialcli.image.cache import SegmentCache
from axialcli.image.codecs import CODECS, jpeg2000_is_plain_ycc
from axialcli.image.colour import Pixels, ycc_to_rgb
from axialcli.image.page import SegmentError
from axialcli.image.plane import Plane, row_bytes
from axialcli.image.tiff import HINT
from axialcli.image.work import Counts, Workers

BORDER_PX = 256
"""How far bands are taken to overlap until the first two were seen."""

_REMEMBERED_BANDS = 16
_ROWS_BYTES = 4 * 2**20
_PATCH_SEGMENTS = 16


class LevelSource(Protocol):
    """Where the pixels of one level come from."""

    size: Size
    segment: Size
    compression: str

    def read_into(self, box: Box, out_HWC: Pixels) -> None:
        """Fills `out_HWC` with the pixels of `box`. Raises ImageError, LimitError."""

    def check(self) -> None:
        """Raises LimitError where the level cannot be read within the limits."""


class _Segment(NamedTuple):
    plane: int
    row: int
    column: int


class _Rows(NamedTuple):
    plane: int
    y0: int
    y1: int
    offset: int
    """Where row y0 begins in the file; 0 where the strip is missing."""


class TiffLevel:
    """One level of a TIFF: planes of segments that are read, decoded, converted and pasted."""

    def __init__(
        self,
        number: int,
        size: Size,
        planes: Sequence[Plane],
        *,
        counts: Counts,
        cache: SegmentCache,
        workers: Workers,
        z: int = 0,
    ) -> None:
        """z: which plane of a stack these are, in a cache that all of them share."""
        page = planes[0].page
        self.number = number
        self._z = z
        self.size = size
        self.segment = page.segment
        self.compression = CODECS[page.compression]
        self._path = page.tiff.path
        self._planes = planes
        self._counts = counts
        self._cache = cache
        self._workers = workers
        self._overlaps_px: deque[int] = deque(maxlen=_REMEMBERED_BANDS)
        self._last: Box | None = None

    def check(self) -> None:
        for plane in self._planes:
            size = plane.page.segment_bytes
            if not plane.by_rows and size > limits.SEGMENT_LIMIT_BYTES:
                kind = "tile" if plane.page.tiled else "strip"
                raise LimitError(
                    f"{self._path}: one {kind} of level {self.number} unpacks to {size / 2**30:.1f} GiB "
                    f"(limit {limits.SEGMENT_LIMIT_BYTES / 2**30:.1f} GiB); {HINT}"
                )

    def read_into(self, box: Box, out_HWC: Pixels) -> None:
        self.check()
        rows = [job for at, plane in enumerate(self._planes) if plane.by_rows for job in self._rows(at, box)]
        self._workers.run(lambda jobs: self._paste_rows(jobs, box, out_HWC), rows, at_once=len(rows))
        segments = [
            job
            for at, plane in enumerate(self._planes)
            if not plane.by_rows
            for job in self._touched(at, box)
        ]
        if segments:
            self._read_segments(segments, box, out_HWC)

    def _read_segments(self, segments: list[_Segment], box: Box, out_HWC: Pixels) -> None:
        keep_below = box.y1 - self._learned_border(box)
        largest = max(plane.page.segment_bytes for plane in self._planes)
        kept_bytes = sum(self._cached_bytes(job) for job in segments if self._bottom(job) > keep_below)
        held = self._cache.take(((self.number, self._z, *job) for job in segments), kept_bytes)
        # Patches are asked for again in any order; what a wide band has passed is not.
        patch = len(segments) <= _PATCH_SEGMENTS

        def work(jobs: Sequence[_Segment]) -> None:
            read = decoded = missing = 0
            file_s = decode_s = 0.0
            try:
                for job in jobs:
                    key = (self.number, self._z, *job)
                    channels = held.get(key)
                    if channels is None:
                        began = time.perf_counter()
                        stored = self._stored(job)
                        fetched = time.perf_counter()
                        file_s += fetched - began
                        if stored is None:
                            missing += 1
                            self._paste_fill(job, box, out_HWC)
                            continue
                        kept = self._bottom(job) > keep_below
                        lasting = kept or (patch and self._cache.has_room)
                        channels = self._decode(job, stored, lasting)
                        decode_s += time.perf_counter() - fetched
                        read += len(stored)
                        decoded += 1
                        if lasting:
                            self._cache.put(key, channels, kept=kept)
                    self._paste(job, channels, box, out_HWC)
            finally:
                self._counts.add(
                    decoded=decoded, missing=missing, read=read, file_s=file_s, decode_s=decode_s
                )

        self._workers.run(work, segments, at_once=limits.SEGMENT_LIMIT_BYTES // max(largest, 1))

    def _learned_border(self, box: Box) -> int:
        """How far above this box's lower edge the next band will begin: as the latest bands overlapped."""
        last, self._last = self._last, box
        if last is not None and last.x0 == box.x0 and last.y0 < box.y0 <= last.y1:
            self._overlaps_px.append(last.y1 - box.y0)
        return max(self._overlaps_px, default=BORDER_PX)

    def _bottom(self, job: _Segment) -> int:
        return (job.row + 1) * self._planes[job.plane].page.segment.height

    def _cached_bytes(self, job: _Segment) -> int:
        plane = self._planes[job.plane]
        area = plane.page.segment.height * plane.page.segment.width
        return max(plane.page.segment_bytes, area * plane.count * plane.fill.dtype.itemsize)

    def _touched(self, at: int, box: Box) -> Iterator[_Segment]:
        height, width = self._planes[at].page.segment
        for row in range(box.y0 // height, -(-box.y1 // height)):
            for column in range(box.x0 // width, -(-box.x1 // width)):
                yield _Segment(at, row, column)

    def _stored(self, job: _Segment) -> bytes | None:
        """The bytes of a segment in the file; None where it is missing."""
        plane = self._planes[job.plane]
        number = job.row * plane.page.grid.width + job.column
        offset, count = int(plane.offsets[number]), int(plane.counts[number])
        if offset == 0 or count == 0:
            return None
        if count > limits.SEGMENT_LIMIT_BYTES:
            raise LimitError(f"{self._where(job)} takes {count / 2**30:.1f} GiB of the file")
        return plane.page.tiff.pread(offset, count)

    def _decode(self, job: _Segment, stored: bytes, lasting: bool) -> Pixels:
        plane = self._planes[job.plane]
        number = job.row * plane.page.grid.width + job.column
        try:
            samples = plane.page.decode(stored, number, lasting=lasting)
            if plane.hides_ycc and samples.dtype == np.uint8 and jpeg2000_is_plain_ycc(stored):
                samples = ycc_to_rgb(samples)
        except SegmentError as error:
            raise ImageError(f"{self._where(job)} is damaged: {error}") from error
        height, width = samples.shape[:2]
        segment, size = plane.page.segment, plane.page.size
        wanted_height = min(segment.height, size.height - job.row * segment.height)
        if height < wanted_height or width < min(segment.width, size.width - job.column * segment.width):
            raise ImageError(f"{self._where(job)} is damaged: it holds {width} x {height} pixels only")
        return plane.channels(samples)

    def _where(self, job: _Segment) -> str:
        kind = f"tile ({job.row}, {job.column})" if self._planes[job.plane].page.tiled else f"strip {job.row}"
        return f"{self._path}: {kind} of level {self.number}"

    def _place(self, job: _Segment, box: Box) -> tuple[Box, Box]:
        """The box of a segment in the level, and what of it is wanted."""
        height, width = self._planes[job.plane].page.segment
        y0, x0 = job.row * height, job.column * width
        own = Box(y0, x0, y0 + height, x0 + width)
        return own, own.intersection(box)

    def _paste(self, job: _Segment, channels: Pixels, box: Box, out_HWC: Pixels) -> None:
        plane = self._planes[job.plane]
        own, wanted = self._place(job, box)
        rows, columns = wanted.within(box)
        out_HWC[rows, columns, plane.first : plane.first + plane.count] = channels[wanted.within(own)]

    def _paste_fill(self, job: _Segment, box: Box, out_HWC: Pixels) -> None:
        plane = self._planes[job.plane]
        rows, columns = self._place(job, box)[1].within(box)
        out_HWC[rows, columns, plane.first : plane.first + plane.count] = plane.fill

    def _rows(self, at: int, box: Box) -> Iterator[_Rows]:
        """Runs of whole rows that lie together in the file, of a few MiB each."""
        plane = self._planes[at]
        page = plane.page
        stride = row_bytes(page)
        most = max(1, _ROWS_BYTES // stride)
        y = box.y0
        while y < box.y1:
            strip = y // page.segment.height
            begin = offset = int(plane.offsets[strip])
            offset += (y - strip * page.segment.height) * stride
            y1 = min((strip + 1) * page.segment.height, box.y1, y + most)
            while begin and y1 < min(box.y1, y + most) and y1 % page.segment.height == 0:
                strip += 1
                if int(plane.offsets[strip]) != offset + (y1 - y) * stride:
                    break
                y1 = min((strip + 1) * page.segment.height, box.y1, y + most)
            yield _Rows(at, y, y1, offset if begin else 0)
            y = y1

    def _paste_rows(self, jobs: Sequence[_Rows], box: Box, out_HWC: Pixels) -> None:
        for job in jobs:
            plane = self._planes[job.plane]
            page = plane.page
            target = out_HWC[job.y0 - box.y0 : job.y1 - box.y0, :, plane.first : plane.first + plane.count]
            if job.offset == 0:
                target[:] = plane.fill
                self._counts.add(missing=1)
                continue
            assert page.dtype is not None
            stored = page.dtype.newbyteorder(">" if page.big_endian else "<")
            stride = row_bytes(page)
            pixel_bytes = stride // page.size.width
            if box.width * 2 >= page.size.width:
                data = page.tiff.pread(job.offset, (job.y1 - job.y0) * stride)
                whole = np.frombuffer(data, stored).reshape(job.y1 - job.y0, page.size.width, -1)
                target[:] = plane.channels(whole[:, box.x0 : box.x1].astype(page.dtype, copy=False))
                self._counts.add(read=len(data))
                continue
            for y in range(job.y0, job.y1):
                offset = job.offset + (y - job.y0) * stride + box.x0 * pixel_bytes
                data = page.tiff.pread(offset, box.width * pixel_bytes)
                row = np.frombuffer(data, stored).reshape(1, box.width, -1)
                target[y - job.y0 : y - job.y0 + 1] = plane.channels(row.astype(page.dtype, copy=False))
                self._counts.add(read=len(data))
