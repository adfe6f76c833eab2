"""From the pages of a layout to levels that can be read, in one plane of its stack or in any."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from axialcli.errors import ImageError, UsageError
from axialcli.image.cache import SegmentCache
from axialcli.image.colour import channels_of, dtype_of, refusal
from axialcli.image.layout import Layout, LevelPages, PagePlane, same_pixels
from axialcli.image.page import Page
from axialcli.image.plane import Plane
from axialcli.image.segments import TiffLevel
from axialcli.image.tiff import HINT, Tiff
from axialcli.image.work import Counts, Workers


class Levels:
    """The levels of a layout; the plane `z` of its stack is checked when this is made, others when asked for.

    first: the pages of level 0 in that plane, base: the first of them, which all others have to be like.
    depth: planes of the stack. channels: how many `choose` left. Raises ImageError where the pages hold no
    picture, or not that of the layout.
    """

    def __init__(
        self,
        tiff: Tiff,
        layout: Layout,
        z: int,
        *,
        counts: Counts,
        cache: SegmentCache,
        workers: Workers,
    ) -> None:
        self._tiff, self._layout, self._z = tiff, layout, z
        self._counts, self._cache, self._workers = counts, cache, workers
        self._pages = [level.planes[min(z, len(level.planes) - 1)] for level in layout.levels]
        self.first = self._pages[0]
        self.base = self.first[0].page
        self.depth = len(layout.levels[0].planes)
        for number, planes in enumerate(self._pages):
            self._check(number, planes)
        self._picks: Sequence[tuple[int, int]] = ()

    def choose(self, picks: Sequence[tuple[int, int]]) -> None:
        """Chooses channels: of each, which page of a plane, and which channel of that page."""
        self._picks = picks

    @property
    def channels(self) -> int:
        return len(self._picks)

    def source(self, number: int) -> TiffLevel:
        """A level in the plane that was chosen."""
        return self._made(number, self._z, self._pages[number])

    def source_at(self, number: int, z: int) -> TiffLevel:
        """A level in plane `z`.

        Raises UsageError where the level has not all planes of the stack, ImageError as this class.
        """
        level = self._layout.levels[number]
        if len(level.planes) != self.depth:
            raise UsageError(
                f"{self._tiff.path}: level {number} has {len(level.planes)} of the {self.depth} planes: "
                "use --level 0"
            )
        planes = level.planes[z]
        if len(planes) != len(self.first):
            raise ImageError(f"{self._tiff.path}: plane {z} has not the channels of the others; {HINT}")
        self._check(number, planes)
        return self._made(number, z, planes)

    def _made(self, number: int, z: int, planes: Sequence[PagePlane]) -> TiffLevel:
        colours = channels_of(self.base) == 3 and dtype_of(self.base) == np.uint8
        return TiffLevel(
            number,
            self._layout.levels[number].size,
            _planes(planes, self._picks, self._layout.missing_is_white and colours),
            counts=self._counts,
            cache=self._cache,
            workers=self._workers,
            z=z,
        )

    def _check(self, number: int, planes: Sequence[PagePlane]) -> None:
        own = self._pages[number][0].page
        _check_pages(self._tiff, number, self._layout.levels[number], planes, base=self.base, first=own)


def _check_pages(
    tiff: Tiff, number: int, level: LevelPages, planes: Sequence[PagePlane], *, base: Page, first: Page
) -> None:
    """Raises ImageError unless the planes of a level have the pixels of `base` and the size of `first`."""
    for plane in planes:
        page = plane.page
        if 0 in page.size or min(page.segment) < 1 or page.samples < 1:
            raise ImageError(f"{tiff.path}: directory {page.name} holds no picture; the file is damaged")
        reason = refusal(page)
        if reason:
            raise ImageError(f"{tiff.path}: {reason}; {HINT}")
        if not same_pixels(base, page) or page.size != first.size:
            raise ImageError(f"{tiff.path}: the planes of level {number} are not alike; {HINT}")
        if page.size.height < level.size.height or page.size.width < level.size.width:
            raise ImageError(f"{tiff.path}: level {number} is smaller than its metadata say")
        _check_segments(page, number, plane.shift_bytes)


def _check_segments(page: Page, level: int, shift_bytes: int) -> None:
    """Raises ImageError where the table of segments does not fit the picture, or the file."""
    path = page.tiff.path
    rows, columns = page.grid
    wanted = rows * columns * (page.samples if page.planar else 1)
    if len(page.offsets) < wanted or len(page.counts) < wanted:
        found = min(len(page.offsets), len(page.counts))
        raise ImageError(f"{path}: level {level} lists {found:,} of {wanted:,} segments; the file is damaged")
    offsets, counts = page.offsets[:wanted] + shift_bytes, page.counts[:wanted]
    present = (page.offsets[:wanted] != 0) & (counts != 0)
    outside = int(
        np.count_nonzero(present & ((offsets < 0) | (counts < 0) | (offsets + counts > page.tiff.size_bytes)))
    )
    if outside:
        raise ImageError(
            f"{path}: {outside:,} of {wanted:,} segments of level {level} lie outside of the file: "
            "it is cut short; copy it again"
        )
    if page.compression == 1 and not page.tiled and isinstance(page.bits, int):
        row_bytes = -(-page.size.width * page.stored_samples * page.bits // 8)
        strip = np.arange(wanted) % rows
        heights = np.minimum(page.segment.height, page.size.height - strip * page.segment.height)
        short = int(np.count_nonzero(present & (counts < heights * row_bytes)))
        if short:
            raise ImageError(
                f"{path}: {short:,} of {wanted:,} strips of level {level} are too short; copy it again"
            )


def _planes(planes: Sequence[PagePlane], picks: Sequence[tuple[int, int]], white: bool) -> list[Plane]:
    """Planes in the order of the channels to return; neighbours out of one page are read together."""
    made: list[Plane] = []
    at = 0
    while at < len(picks):
        plane, channel = picks[at]
        page, shift = planes[plane]
        if page.planar:
            made.append(Plane.of(page, first=at, count=1, sample=channel, shift_bytes=shift, white=white))
            at += 1
            continue
        until = at + 1
        while until < len(picks) and picks[until][0] == plane:
            until += 1
        own = tuple(channel for _, channel in picks[at:until])
        all_of_them = own == tuple(range(channels_of(page)))
        made.append(
            Plane.of(
                page,
                first=at,
                count=until - at,
                picks=None if all_of_them else own,
                shift_bytes=shift,
                white=white,
            )
        )
        at = until
    return made
