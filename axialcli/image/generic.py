"""Finders for TIFFs without a vendor: tiled or stripped, pyramids, stacks, GeoTIFF, ImageJ."""

from __future__ import annotations

from axialcli.errors import ImageError
from axialcli.image.georef import georeference
from axialcli.image.ground import ground_scale
from axialcli.image.layout import Layout, LevelPages, PagePlane, largest, level_of, pyramid, same_pixels, walk
from axialcli.image.scale import (
    NO_SCALE,
    UM_PER_UNIT,
    believed_spacing,
    from_resolution,
    from_unit,
    to_number,
    unit_name,
)
from axialcli.image.tiff import HINT, Tiff


def find_generic(tiff: Tiff) -> Layout:
    """The largest page, the pages of its size as a stack, and all that are its reductions as levels."""
    pages = [page for page in walk(tiff.pages) if not page.mask and 0 not in page.size]
    if not pages:
        raise ImageError(f"{tiff.path}: the TIFF holds no picture; {HINT}")
    base = largest(pages)
    top_level = [page for page in pages if len(page.index) == 1 and not page.reduced]
    stack = [page for page in top_level if page.size == base.size and same_pixels(base, page)] or [base]
    below = pyramid(base, pages, planes=len(stack))
    levels = [level_of(stack), *(level_of(group) for group in below)]
    roles = {page.name: "main" for page in stack}
    roles |= {page.name: "level" for group in below for page in group}
    for page in pages:
        if page.name not in roles and page.reduced:
            roles[page.name] = "thumbnail"
    geo = georeference(base) if 34735 in base.tags else None
    why = "it is the largest" if len(pages) > 1 else "it is the only one"
    scale = ground_scale(geo, base.size) if geo else from_resolution(base)
    return Layout(format="geotiff" if geo else "generic", levels=levels, scale=scale, why=why, roles=roles)


def is_imagej(tiff: Tiff) -> bool:
    return tiff.pages[0].description[:7] == "ImageJ="


def find_imagej(tiff: Tiff) -> Layout:
    """ImageJ's hyperstacks: planes as pages, or one directory with all planes behind it.

    Raises ImageError where the file is too short for the planes that it promises.
    """
    first = tiff.pages[0]
    facts = dict(line.split("=", 1) for line in first.description.splitlines() if "=" in line)
    channels, slices, frames = (_count(facts, key) for key in ("channels", "slices", "frames"))
    if first.samples > 1 and channels == first.samples:
        channels = 1
    promised = max(channels * slices * frames, _count(facts, "images"))
    if promised > channels * slices * frames:
        slices = promised // (channels * frames)
    planes = _imagej_planes(tiff, promised)
    if planes is None:
        return find_generic(tiff)
    stack = [planes[z * channels : (z + 1) * channels] for z in range(slices)]
    warnings = [f"{frames} points in time: the first is read"] if frames > 1 else []
    scale = from_unit(first, facts.get("unit", ""), "ImageJ description")
    if scale.mpp is None and scale == NO_SCALE:
        scale = from_resolution(first)
    return Layout(
        format="imagej",
        levels=[LevelPages(size=first.size, planes=stack)],
        scale=scale,
        why="it is the only one" if len(tiff.pages) == 1 else "it is the stack that ImageJ describes",
        roles={page.name: "main" for page in tiff.pages},
        warnings=warnings,
        spacing_um=believed_spacing(to_number(facts.get("spacing")) * _um(facts)),
    )


def _um(facts: dict[str, str]) -> float:
    """Microns per unit of the distance between planes; 0 where the unit is not known."""
    return UM_PER_UNIT.get(unit_name(facts.get("zunit", facts.get("unit", ""))), 0.0)


def _count(facts: dict[str, str], key: str) -> int:
    text = facts.get(key, "1").strip()
    return max(int(text), 1) if text.isdigit() else 1


def _imagej_planes(tiff: Tiff, promised: int) -> list[PagePlane] | None:
    """All planes in ImageJ's order (channels fastest); None where the pages are no such stack."""
    first = tiff.pages[0]
    alike = [page for page in tiff.pages if page.size == first.size and same_pixels(first, page)]
    if len(alike) >= promised:
        return [PagePlane(page) for page in alike[:promised]]
    if len(tiff.pages) > 1 or first.compression != 1 or len(first.offsets) == 0 or first.dtype is None:
        return None
    plane_bytes = first.size.height * first.size.width * first.samples * first.dtype.itemsize
    if int(first.offsets[0]) + promised * plane_bytes > tiff.size_bytes:
        raise ImageError(
            f"{tiff.path}: ImageJ promises {promised} planes, the file is too short for them; copy it again"
        )
    return [PagePlane(first, number * plane_bytes) for number in range(promised)]
