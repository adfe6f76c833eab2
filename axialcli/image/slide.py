"""The slide: levels, channels, scale, and `read(level, box)`.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialcli.errors import ImageError
from axialcli.geometry import Box, GeoReference, Size
from axialcli.image.assemble import Assembled
from axialcli.image.cache import SegmentCache
from axialcli.image.layout import FoundImage
from axialcli.image.segments import LevelSource
from axialcli.image.stack import Stack
from axialcli.image.view import SlideView, level_view, mpp_view, thumbnail
from axialcli.image.work import Counts, Workers

_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Level:
    """One resolution. downsample: level 0's size over this size, (y, x). segment: a tile or strip."""

    size: Size
    downsample: tuple[float, float]
    segment: Size
    compression: str


class Slide:
    """A picture of any size that is read by level and box.

    path, format: the file and what kind it is (svs, ndpi, philips, scn, qptiff, ome, imagej, geotiff,
    generic, png, jpeg). levels: from large to small. size: of level 0. channels, dtype: of what `read`
    returns. depth: planes of the stack, 1 without one; `chose_plane` is the warning where one of several was
    chosen. spacing_um: microns between two of them, or None. mpp: microns per pixel of level 0 as (y, x), or
    None; mpp_source: where from, or why not.
    georeference: GeoTIFF's tags. orientation: TIFF's tag 274, not applied. chosen: one sentence on
    which image was chosen and why; images: all that were found. counts: what was done so far.
    selection: `channels`, `z` and `mpp_override` as they were given to `open_slide`, fit for JSON.

    `read` may be called from several threads; each segment is decoded once where one thread reads from
    top to bottom.
    """

    def __init__(
        self,
        path: Path,
        made: Assembled,
        *,
        counts: Counts,
        workers: Workers,
        cache: SegmentCache,
        selection: dict[str, Any],
    ) -> None:
        self.path = path
        self.format = made.format
        self.size = made.sources[0].size
        self.channels = made.channels
        self.dtype = made.dtype
        self.mpp = made.scale.mpp
        self.mpp_source = made.scale.source
        self.depth = made.depth
        self.spacing_um = made.spacing_um
        self.georeference: GeoReference | None = made.georeference
        self.orientation = made.orientation
        self.chose_plane = made.chose_plane
        self.warnings: tuple[str, ...] = (*made.warnings, *filter(None, [made.chose_plane]))
        self.chosen = made.chosen
        self.images: tuple[FoundImage, ...] = made.images
        self.counts = counts
        self.selection = selection
        self._sources: Sequence[LevelSource] = made.sources
        self._source = made.source
        self._close = made.close
        self._others = made.files
        self._workers = workers
        self._cache = cache
        self._closed = False
        mpp_override: float | None = selection["mpp_override"]
        if mpp_override is not None:
            self.mpp, self.mpp_source = (mpp_override, mpp_override), "given by hand"
        self.levels: tuple[Level, ...] = tuple(
            Level(
                size=source.size,
                downsample=(self.size.height / source.size.height, self.size.width / source.size.width),
                segment=source.segment,
                compression=source.compression,
            )
            for source in made.sources
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the picture: `path` itself, then those that a picture of several files names."""
        return (self.path, *self._others)

    def read(self, level: int, box: Box | tuple[int, int, int, int]) -> NDArray[Any]:
        """The pixels of `box` (y0, x0, y1, x1), [H, W, C] in the slide's dtype.

        Raises ValueError where the box is empty or leaves the level, ImageError where a segment is
        damaged, LimitError where one is too large to unpack.
        """
        if self._closed:
            raise ValueError("the slide is closed")
        source = self._sources[level]
        box = Box(*box)
        if box.empty or box.y0 < 0 or box.x0 < 0 or box.y1 > source.size.height or box.x1 > source.size.width:
            raise ValueError(f"{box} is not inside level {level}, {source.size}")
        out_HWC = np.empty((box.height, box.width, self.channels), self.dtype)
        source.read_into(box, out_HWC)
        return out_HWC

    def check(self, level: int) -> None:
        """Raises LimitError where the level has segments too large to unpack."""
        self._sources[level].check()

    def view(self, *, level: int | None = None, mpp: float | None = None) -> SlideView:
        """The picture on a grid of its own: a level as it is, or resampled to `mpp` microns per pixel.

        Raises UsageError where the slide has no such level, or no scale; LimitError as `read`.
        """
        if level is not None and mpp is not None:
            raise ValueError("a view has a level or microns per pixel, not both")
        if mpp is not None:
            return mpp_view(self, mpp)
        return level_view(self, level or 0)

    def stack(self, level: int = 0) -> Stack:
        """All planes of a level, as a volume. Raises as Stack."""
        return Stack(self, level)

    def source(self, level: int, z: int) -> LevelSource:
        """One level in one plane of the stack. Raises ImageError where the plane is not like the others."""
        return self._source(level, z)

    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """The whole field, at most `max_px` on its longer side: uint8 [H, W, 1 or 3].

        Of 16-bit and float pictures the brightest pixel becomes 255.
        """
        return thumbnail(self, max_px)

    def run(self, work: Any, jobs: Sequence[Any]) -> None:
        """Calls `work` on slices of `jobs` on the slide's threads."""
        self._workers.run(work, jobs, at_once=len(jobs))

    def fingerprint(self) -> str:
        """SHA-256 over the size, the time of change and the first and last MiB of each of `files`."""
        digest = hashlib.sha256()
        for path in self.files:
            try:
                with path.open("rb") as file:
                    facts = os.fstat(file.fileno())
                    digest.update(f"{facts.st_size} {facts.st_mtime_ns}\n".encode())
                    digest.update(file.read(_MIB))
                    file.seek(max(facts.st_size - _MIB, 0))
                    digest.update(file.read(_MIB))
            except OSError as error:
                raise ImageError(f"{path}: cannot be read ({error.strerror})") from error
        return digest.hexdigest()

    def close(self) -> None:
        """Ends the threads and closes the files; `read` is over."""
        self._closed = True
        self._workers.close()
        self._cache.clear()
        self._close()

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        height, width = self.size
        return f"Slide({str(self.path)!r}, {self.format}, {width} x {height}, {len(self.levels)} levels)"
