"""Finder for OME-TIFF: planes from the XML, levels from sub-directories, several files to one picture."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from axialcli.errors import ImageError
from axialcli.image.layout import Layout, LevelPages, PagePlane, reduces, same_pixels
from axialcli.image.page import Page
from axialcli.image.scale import (
    NO_SCALE,
    UM_PER_UNIT,
    Scale,
    believed,
    believed_spacing,
    from_resolution,
    to_number,
)
from axialcli.image.tiff import Tiff
from axialcli.image.xml import children, parse

_ASIDE = re.compile(r"\b(label|macro|thumbnail|overview)\b", re.IGNORECASE)


def is_ome(tiff: Tiff) -> bool:
    text = tiff.pages[0].description
    return text[-12:].strip().strip("\x00").endswith("OME>") and "<" in text[:200]


@dataclass(kw_only=True)
class _Image:
    """An image of the XML: sizes as [z, c], without the samples of one pixel; planes for t = 0."""

    name: str
    area_px: int
    depth: int
    channels: int
    times: int
    pixels: Element
    planes: dict[tuple[int, int], Page]


class _Files:
    """The files that one OME-TIFF is made of, opened when first needed."""

    def __init__(self, tiff: Tiff, opened: list[Tiff]) -> None:
        self._by_name = {tiff.path.name.lower(): tiff}
        self._first = tiff
        self._opened = opened

    def get(self, name: str | None) -> Tiff:
        if name is None:
            return self._first
        known = self._by_name.get(name.lower())
        if known is not None:
            return known
        # Only the folder of the file itself: a name from inside a file does not lead elsewhere.
        path = self._first.path.parent / Path(name.replace("\\", "/")).name
        if not _is_file(path):
            raise ImageError(f"{self._first.path}: its file '{path.name[:80]}' is missing; put it beside it")
        tiff = Tiff(path)
        self._opened.append(tiff)
        self._by_name[name.lower()] = tiff
        return tiff


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # The file's own metadata ask for a name longer than names can be.
        return False


def find_ome(tiff: Tiff, opened: list[Tiff]) -> Layout:
    """The largest image of the XML that is no label, macro or thumbnail. Files it opens go to `opened`.

    Raises ImageError where a plane or a file is missing.
    """
    root = _metadata(tiff)
    files = _Files(tiff, opened)
    found = [_image(tiff, element, root, files) for element in children(root, "Image")]
    images = [image for image in found if image is not None]
    slides = [image for image in images if not _ASIDE.search(image.name)]
    if not slides:
        raise ImageError(f"{tiff.path}: its OME-XML describes no picture; the file is damaged")
    main = max(slides, key=lambda image: image.area_px)
    levels = _levels(tiff, main)
    roles = {plane.page.name: "main" for z in levels[0].planes for plane in z}
    for level in levels[1:]:
        roles |= {plane.page.name: "level" for z in level.planes for plane in z}
    for image in images:
        if image is not main:
            aside = _ASIDE.search(image.name)
            role = aside[1].lower().replace("overview", "macro") if aside else "other"
            roles |= {page.name: role for page in image.planes.values() if page.name not in roles}
    why = f"it is '{main.name}', the largest" if main.name and len(images) > 1 else "it is the largest"
    return Layout(
        format="ome",
        levels=levels,
        scale=_scale(main),
        why=why if len(images) > 1 else "it is the only one that OME-XML describes",
        roles=roles,
        warnings=[f"{main.times} points in time: the first is read"] if main.times > 1 else [],
        spacing_um=believed_spacing(_physical_um(main, "Z")),
    )


def _metadata(tiff: Tiff) -> Element:
    """The OME-XML, from the companion file where the TIFF only points at one."""
    root = parse(tiff.pages[0].description, tiff.path, "OME-XML")
    for element in children(root, "BinaryOnly"):
        name = Path(element.get("MetadataFile", "").replace("\\", "/")).name
        companion = tiff.path.parent / name
        if not name or not companion.is_file():
            raise ImageError(f"{tiff.path}: its metadata file '{name}' is missing; put it beside it")
        try:
            return parse(companion.read_text("utf-8"), companion, "OME-XML")
        except (OSError, UnicodeDecodeError) as error:
            raise ImageError(f"{companion}: cannot be read ({error})") from error
    return root


def _image(tiff: Tiff, element: Element, root: Element, files: _Files) -> _Image | None:
    pixels = next(children(element, "Pixels"), None)
    if pixels is None:
        return None
    try:
        size = {axis: int(pixels.get(f"Size{axis}", "1")) for axis in "XYZCT"}
        channel = next(children(pixels, "Channel"), None)
        samples = int(channel.get("SamplesPerPixel", "1")) if channel is not None else 1
        size["C"] = max(size["C"] // max(samples, 1), 1)
        order = pixels.get("DimensionOrder", "XYCZT")[2:]
        if sorted(order) != ["C", "T", "Z"] or min(size.values()) < 1:
            raise ValueError(order)
        located = _locate(tiff, pixels, order, size, root, files)
    except ValueError as error:
        raise ImageError(f"{tiff.path}: its OME-XML has a size or order that makes no sense") from error
    planes = {(z, c): page for (z, c, t), page in located.items() if t == 0}
    planes_wanted = size["Z"] * size["C"]
    if len(planes) < planes_wanted:
        raise ImageError(
            f"{tiff.path}: {planes_wanted - len(planes)} of {planes_wanted} planes of its OME-XML are "
            "missing; copy it again"
        )
    return _Image(
        name=element.get("Name", ""),
        area_px=size["X"] * size["Y"],
        depth=size["Z"],
        channels=size["C"],
        times=size["T"],
        pixels=pixels,
        planes=planes,
    )


def _locate(
    tiff: Tiff, pixels: Element, order: str, size: dict[str, int], root: Element, files: _Files
) -> dict[tuple[int, int, int], Page]:
    """Which page holds (z, c, t), as the TiffData elements say; without any, pages in order."""
    counts = [size[axis] for axis in order]
    total = counts[0] * counts[1] * counts[2]
    found: dict[tuple[int, int, int], Page] = {}
    blocks: list[Element | None] = list(children(pixels, "TiffData"))
    for block in blocks or [None]:
        name, at, ifd, number = None, 0, 0, total
        if block is not None:
            uuid = next(children(block, "UUID"), None)
            if uuid is not None and not (root.get("UUID") and uuid.text == root.get("UUID")):
                name = uuid.get("FileName")
            first = [int(block.get(f"First{axis}", "0")) for axis in order]
            at = first[0] + counts[0] * (first[1] + counts[1] * first[2])
            ifd = int(block.get("IFD", "0"))
            number = int(
                block.get("PlaneCount", block.get("NumPlanes", "1" if "IFD" in block.attrib else "0"))
            )
        pages = files.get(name).pages
        number = number or min(total - at, len(pages) - ifd)
        for step in range(min(number, total - at)):
            if ifd + step >= len(pages):
                break
            plane = at + step
            place = {
                order[0]: plane % counts[0],
                order[1]: plane // counts[0] % counts[1],
                order[2]: plane // (counts[0] * counts[1]),
            }
            found[place["Z"], place["C"], place["T"]] = pages[ifd + step]
    return found


def _levels(tiff: Tiff, image: _Image) -> list[LevelPages]:
    """Level 0 and, one a sub-directory that every plane has, the levels below it."""
    stack = [[image.planes[z, c] for c in range(image.channels)] for z in range(image.depth)]
    base = stack[0][0]
    levels = [LevelPages(size=base.size, planes=[[PagePlane(page) for page in z] for z in stack])]
    for number in range(min(len(page.subpages) for z in stack for page in z)):
        pages = [[page.subpages[number] for page in z] for z in stack]
        size = pages[0][0].size
        alike = all(page.size == size and same_pixels(base, page) for z in pages for page in z)
        above = levels[-1].size
        smaller = size.height <= above.height and size.width <= above.width and size != above
        if alike and smaller and reduces(base.size, size):
            levels.append(LevelPages(size=size, planes=[[PagePlane(page) for page in z] for z in pages]))
    return levels


def _scale(image: _Image) -> Scale:
    page = image.planes[0, 0]
    values = [_physical_um(image, axis) for axis in "YX"]
    if 0 not in values:
        return believed(values[0], values[1], "OME's PhysicalSize")
    return from_resolution(page) if page.tags.get(282) else NO_SCALE


def _physical_um(image: _Image, axis: str) -> float:
    """Microns from one pixel or plane to the next along X, Y or Z; 0 where the XML does not say so."""
    um = UM_PER_UNIT.get(image.pixels.get(f"PhysicalSize{axis}Unit", "µm").lower(), 0.0)
    return to_number(image.pixels.get(f"PhysicalSize{axis}")) * um
