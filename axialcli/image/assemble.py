"""From a TIFF's directories to levels that can be read: finder, plane of the stack, channels, checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from axialcli.errors import ImageError, UsageError
from axialcli.geometry import GeoReference
from axialcli.image import generic, ome, vendors
from axialcli.image.cache import SegmentCache
from axialcli.image.colour import channels_of, dtype_of, refusal
from axialcli.image.georef import georeference
from axialcli.image.layout import FoundImage, Layout, LevelPages, PagePlane, found_images, same_pixels
from axialcli.image.page import Page
from axialcli.image.plane import Plane
from axialcli.image.scale import Scale
from axialcli.image.segments import LevelSource, TiffLevel
from axialcli.image.tiff import HINT, Tiff
from axialcli.image.work import Counts, Workers


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """All that a Slide is made of. close: closes the files; files: those beside the one that was named."""

    format: str
    sources: Sequence[LevelSource]
    channels: int
    dtype: np.dtype[Any]
    scale: Scale
    georeference: GeoReference | None
    orientation: int
    warnings: list[str]
    chosen: str
    images: tuple[FoundImage, ...]
    close: Callable[[], None]
    files: tuple[Path, ...]


_FINDERS: tuple[tuple[Callable[[Tiff], bool], Callable[[Tiff], Layout]], ...] = (
    (vendors.is_bif, vendors.refuse_bif),
    (vendors.is_svs, vendors.find_svs),
    (vendors.is_ndpi, vendors.find_ndpi),
    (vendors.is_philips, vendors.find_philips),
    (vendors.is_scn, vendors.find_scn),
    (vendors.is_qptiff, vendors.find_qptiff),
    (generic.is_imagej, generic.find_imagej),
)


def assemble(
    tiff: Tiff,
    opened: list[Tiff],
    channels: Sequence[int] | None,
    z: int | None,
    *,
    counts: Counts,
    cache: SegmentCache,
    workers: Workers,
) -> Assembled:
    """The levels of the chosen image. More files of the same picture are opened and go to `opened`.

    Raises ImageError where it cannot be read, UsageError where `channels` or `z` do not fit.
    """
    layout = find_layout(tiff, opened)
    warnings = [*tiff.complaints, *layout.warnings]
    stack = _choose_z(tiff, layout, z, warnings)
    pages = [level.planes[min(stack, len(level.planes) - 1)] for level in layout.levels]
    _check_pages(tiff, layout.levels, pages)
    base = pages[0][0].page
    picks = _choose_channels(tiff, pages[0], channels)
    white = layout.missing_is_white and channels_of(base) == 3 and dtype_of(base) == np.uint8
    sources = [
        TiffLevel(
            number,
            level.size,
            _planes(planes, picks, white),
            counts=counts,
            cache=cache,
            workers=workers,
        )
        for number, (level, planes) in enumerate(zip(layout.levels, pages, strict=True))
    ]

    def close() -> None:
        for one in opened:
            one.close()

    size = layout.levels[0].size
    return Assembled(
        format=layout.format,
        sources=sources,
        channels=len(picks),
        dtype=dtype_of(base),
        scale=layout.scale,
        georeference=georeference(base),
        orientation=_orientation(base),
        warnings=warnings,
        chosen=f"directory {base.name} ({size.width} x {size.height}) was chosen: {layout.why}",
        images=found_images(tiff.pages, layout.roles),
        close=close,
        files=tuple(one.path for one in opened if one is not tiff),
    )


def find_layout(tiff: Tiff, opened: list[Tiff]) -> Layout:
    """Which image of a file is its own, and its levels. Raises ImageError."""
    for fits, find in _FINDERS:
        if fits(tiff):
            return find(tiff)
    if ome.is_ome(tiff):
        return ome.find_ome(tiff, opened)
    return generic.find_generic(tiff)


def _choose_z(tiff: Tiff, layout: Layout, z: int | None, warnings: list[str]) -> int:
    depth = len(layout.levels[0].planes)
    if z is not None:
        if not 0 <= z < depth:
            planes = "one plane" if depth == 1 else f"planes 0 to {depth - 1}"
            raise UsageError(f"{tiff.path}: the picture has {planes}; --z {z} does not exist")
        return z
    if depth == 1:
        return 0
    chosen = depth // 2 if layout.default_z is None else layout.default_z
    reason = "the middle" if layout.default_z is None else "the scanner's own focus"
    warnings.append(f"a stack of {depth} planes: {chosen}, {reason}, is read; choose with --z")
    return chosen


def _check_pages(tiff: Tiff, levels: Sequence[LevelPages], pages: Sequence[Sequence[PagePlane]]) -> None:
    base = pages[0][0].page
    for number, (level, planes) in enumerate(zip(levels, pages, strict=True)):
        for plane in planes:
            page = plane.page
            if 0 in page.size or min(page.segment) < 1 or page.samples < 1:
                raise ImageError(f"{tiff.path}: directory {page.name} holds no picture; the file is damaged")
            reason = refusal(page)
            if reason:
                raise ImageError(f"{tiff.path}: {reason}; {HINT}")
            if not same_pixels(base, page) or page.size != planes[0].page.size:
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


def _choose_channels(
    tiff: Tiff, planes: Sequence[PagePlane], channels: Sequence[int] | None
) -> list[tuple[int, int]]:
    """For every channel to return: which plane, and which channel of its page."""
    every = [(at, own) for at, plane in enumerate(planes) for own in range(channels_of(plane.page))]
    if channels is None:
        return every
    if not channels:
        raise UsageError(f"{tiff.path}: no channels are chosen; leave out --channels for all {len(every)}")
    for channel in channels:
        if not 0 <= channel < len(every):
            raise UsageError(
                f"{tiff.path}: channel {channel} does not exist; the picture has 0 to {len(every) - 1}"
            )
    return [every[channel] for channel in channels]


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


def _orientation(page: Page) -> int:
    value = page.tags.get(274, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
