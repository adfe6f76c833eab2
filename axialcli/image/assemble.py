"""From a TIFF's directories to levels that can be read: finder, plane of the stack, channels, checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from axialcli.errors import UsageError
from axialcli.geometry import GeoReference
from axialcli.image import generic, ome, vendors
from axialcli.image.cache import SegmentCache
from axialcli.image.colour import channels_of, dtype_of
from axialcli.image.georef import georeference
from axialcli.image.layout import FoundImage, Layout, PagePlane, found_images
from axialcli.image.levels import Levels
from axialcli.image.page import Page
from axialcli.image.scale import Scale
from axialcli.image.segments import LevelSource
from axialcli.image.tiff import Tiff
from axialcli.image.work import Counts, Workers


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """All that a Slide is made of. close: closes the files; files: those beside the one that was named.

    sources: the levels in the plane that was chosen, and `chose_plane` says so where nobody asked for it.
    depth: planes of the stack, 1 without one; spacing_um: microns from one to the next, or None. source:
    one level in one plane; raises as `assemble`.
    """

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
    source: Callable[[int, int], LevelSource]
    depth: int = 1
    spacing_um: float | None = None
    chose_plane: str | None = None


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
    chosen_z, chose_plane = _choose_z(tiff, layout, z)
    levels = Levels(tiff, layout, chosen_z, counts=counts, cache=cache, workers=workers)
    base = levels.base
    levels.choose(_choose_channels(tiff, levels.first, channels))

    def close() -> None:
        for one in opened:
            one.close()

    size = layout.levels[0].size
    return Assembled(
        format=layout.format,
        sources=[levels.source(number) for number in range(len(layout.levels))],
        channels=levels.channels,
        dtype=dtype_of(base),
        scale=layout.scale,
        georeference=georeference(base),
        orientation=_orientation(base),
        warnings=[*tiff.complaints, *layout.warnings],
        chosen=f"directory {base.name} ({size.width} x {size.height}) was chosen: {layout.why}",
        images=found_images(tiff.pages, layout.roles),
        close=close,
        files=tuple(one.path for one in opened if one is not tiff),
        source=levels.source_at,
        depth=levels.depth,
        spacing_um=layout.spacing_um,
        chose_plane=chose_plane,
    )


def find_layout(tiff: Tiff, opened: list[Tiff]) -> Layout:
    """Which image of a file is its own, and its levels. Raises ImageError."""
    for fits, find in _FINDERS:
        if fits(tiff):
            return find(tiff)
    if ome.is_ome(tiff):
        return ome.find_ome(tiff, opened)
    return generic.find_generic(tiff)


def _choose_z(tiff: Tiff, layout: Layout, z: int | None) -> tuple[int, str | None]:
    """The plane to read, and the warning where it was chosen from several and not asked for."""
    depth = len(layout.levels[0].planes)
    if z is not None:
        if not 0 <= z < depth:
            planes = "one plane" if depth == 1 else f"planes 0 to {depth - 1}"
            raise UsageError(f"{tiff.path}: the picture has {planes}; --z {z} does not exist")
        return z, None
    if depth == 1:
        return 0, None
    chosen = depth // 2 if layout.default_z is None else layout.default_z
    reason = "the middle" if layout.default_z is None else "the scanner's own focus"
    return chosen, f"a stack of {depth} planes: {chosen}, {reason}, is read; choose with --z"


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


def _orientation(page: Page) -> int:
    value = page.tags.get(274, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
