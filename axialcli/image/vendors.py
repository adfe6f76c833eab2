"""Finders for scanners' TIFFs: which directory is what, and where the microns per pixel stand."""

from __future__ import annotations

import re
from collections.abc import Sequence

from axialcli.errors import ImageError
from axialcli.geometry import Size
from axialcli.image.layout import Layout, LevelPages, PagePlane, largest, level_of, pyramid, same_pixels
from axialcli.image.page import Page
from axialcli.image.scale import NO_SCALE, believed, from_resolution, number_after, to_number
from axialcli.image.tiff import Tiff
from axialcli.image.xml import children, parse


def is_svs(tiff: Tiff) -> bool:
    return tiff.pages[0].description.startswith("Aperio")


def find_svs(tiff: Tiff) -> Layout:
    """Aperio: tiled pages are levels; stripped ones are the thumbnail, the label and the macro.

    Whether a second directory is a thumbnail is seen from its strips, not from its place: some files
    have none.
    """
    base = tiff.pages[0]
    tiled = [page for page in tiff.pages if page.tiled and not page.reduced and same_pixels(base, page)]
    stack = [page for page in tiled if page.size == base.size] or [base]
    below = pyramid(base, tiled, planes=len(stack)) or pyramid(base, tiled)
    if len(stack) > 1 and below and len(below[0]) == 1:
        stack = [base]
    levels = [level_of(stack), *(level_of(group) for group in below)]
    roles = {page.name: "main" for page in stack}
    roles |= {page.name: "level" for group in below for page in group}
    for page in tiff.pages:
        if page.name not in roles:
            roles[page.name] = _svs_role(page)
    mpp = number_after(r"\bMPP\s*=", base.description)
    scale = believed(mpp, mpp, "Aperio's MPP") if mpp else from_resolution(base)
    return Layout(
        format="svs",
        levels=levels,
        scale=scale,
        why="it is Aperio's first directory, the slide itself",
        roles=roles,
        missing_is_white=True,
        default_z=0,
    )


def _svs_role(page: Page) -> str:
    words = page.description.lower()
    second_line = words.partition("\n")[2]
    if page.subfile_type == 9 or second_line.startswith("macro"):
        return "macro"
    if page.subfile_type == 1 or second_line.startswith("label"):
        return "label"
    return "other" if page.tiled else "thumbnail"


def is_ndpi(tiff: Tiff) -> bool:
    return 65420 in tiff.pages[0].tags


def find_ndpi(tiff: Tiff) -> Layout:
    """Hamamatsu: the lens tag tells levels (above 0) from macro (-1) and map (-2)."""
    roles: dict[str, str] = {}
    slides = []
    for page in tiff.pages:
        lens = float(page.tags.get(65421, 1) or 0)
        if lens > 0:
            slides.append(page)
        else:
            roles[page.name] = {-1.0: "macro", -2.0: "other"}.get(lens, "other")
    base = largest(slides or tiff.pages)
    stack = [page for page in slides if page.size == base.size and same_pixels(base, page)] or [base]
    below = pyramid(base, slides, planes=len(stack))
    roles |= {page.name: "main" for page in stack}
    roles |= {page.name: "level" for group in below for page in group}
    focus = [abs(int(page.tags.get(65424, 0) or 0)) for page in stack]
    return Layout(
        format="ndpi",
        levels=[level_of(stack), *(level_of(group) for group in below)],
        scale=from_resolution(base),
        why="it is the largest that was taken through a lens",
        roles=roles,
        missing_is_white=True,
        default_z=focus.index(min(focus)),
    )


def is_philips(tiff: Tiff) -> bool:
    page = tiff.pages[0]
    return page.software.startswith("Philips DP") and "DataObject" in page.description[:400]


def find_philips(tiff: Tiff) -> Layout:
    """Philips: tiled levels whose stored sizes are padded to whole tiles; missing tiles are glass."""
    root = parse(tiff.pages[0].description, tiff.path, "Philips XML")
    spacings = [
        (to_number(numbers[0]), to_number(numbers[1]))
        for element in root.iter("Attribute")
        if element.get("Name") == "DICOM_PIXEL_SPACING"
        and len(numbers := (element.text or "").replace('"', "").split()) == 2
    ]
    roles: dict[str, str] = {}
    tiled = []
    for page in tiff.pages:
        word = page.description[:5].lower()
        if word in ("macro", "label"):
            roles[page.name] = word
        elif page.tiled:
            tiled.append(page)
    if not tiled:
        raise ImageError(f"{tiff.path}: the Philips file holds no tiled picture")
    base = tiled[0]
    levels: list[LevelPages] = []
    # The first spacing may stand alone for the slide, before those of the levels.
    per_level = spacings[-len(tiled) :] if len(spacings) >= len(tiled) else []
    for number, page in enumerate(tiled):
        size = _philips_size(base, page, number, per_level)
        if not same_pixels(base, page) or (levels and not _smaller(size, levels[-1].size)):
            continue
        roles[page.name] = "level" if levels else "main"
        levels.append(LevelPages(size=size, planes=[[PagePlane(page)]]))
    scale = NO_SCALE
    if spacings:
        y, x = (per_level or spacings)[0]
        scale = believed(y * 1e3, x * 1e3, "Philips' DICOM_PIXEL_SPACING")
    return Layout(
        format="philips",
        levels=levels,
        scale=scale,
        why="it is the first tiled directory, the slide itself",
        roles=roles,
        missing_is_white=True,
    )


def _philips_size(base: Page, page: Page, number: int, spacings: Sequence[tuple[float, float]]) -> Size:
    """The size of a level without its padding: that of level 0 over the level's whole factor."""
    if number == 0 or not spacings or 0 in spacings[0]:
        return page.size
    factor_y, factor_x = (round(spacings[number][axis] / spacings[0][axis]) for axis in (0, 1))
    if factor_y < 1 or factor_x < 1:
        return page.size
    true = Size(max(base.size.height // factor_y, 1), max(base.size.width // factor_x, 1))
    return Size(min(true.height, page.size.height), min(true.width, page.size.width))


def _smaller(size: Size, above: Size) -> bool:
    return size.height <= above.height and size.width <= above.width and size != above


def is_scn(tiff: Tiff) -> bool:
    return tiff.pages[0].description[-20:].strip().endswith("</scn>")


def find_scn(tiff: Tiff) -> Layout:
    """Leica: a collection of images, of which the first is often the low-resolution macro."""
    root = parse(tiff.pages[0].description, tiff.path, "Leica XML")
    images = []
    for collection in children(root, "collection"):
        for image in children(collection, "image"):
            for pixels in children(image, "pixels"):
                view = next(children(image, "view"), None)
                sizes = [dict(element.attrib) for element in children(pixels, "dimension")]
                nm = dict(view.attrib) if view is not None else {}
                images.append((_scn_levels(tiff, sizes), nm))
    images = [image for image in images if image[0]]
    if not images:
        raise ImageError(f"{tiff.path}: the Leica XML names no image of this file")
    roles: dict[str, str] = {}
    main, nm = max(images, key=lambda image: image[0][0].size.height * image[0][0].size.width)
    regions = 0
    for levels, other_nm in images:
        # The macro is the one whose pixels are much larger on the glass.
        coarse = _scn_um(levels[0], other_nm) > 4 * _scn_um(main[0], nm) > 0
        regions += levels is not main and not coarse
        for number, level in enumerate(levels):
            role = ("level" if number else "main") if levels is main else ("macro" if coarse else "other")
            roles |= {plane.page.name: role for z in level.planes for plane in z}
    scale = from_resolution(main[0].planes[0][0].page)
    y_um, x_um = to_number(nm.get("sizeY")) / 1e3, to_number(nm.get("sizeX")) / 1e3
    if y_um and x_um:
        scale = believed(y_um / main[0].size.height, x_um / main[0].size.width, "Leica's view")
    warnings = [f"{regions + 1} scanned regions: the largest is read"] if regions else []
    return Layout(
        format="scn",
        levels=main,
        scale=scale,
        why="it is the largest of Leica's collection",
        roles=roles,
        warnings=warnings,
        missing_is_white=True,
    )


def _scn_um(level: LevelPages, nm: dict[str, str]) -> float:
    return to_number(nm.get("sizeX")) / 1e3 / max(level.size.width, 1)


def _scn_levels(tiff: Tiff, dimensions: list[dict[str, str]]) -> list[LevelPages]:
    by_r: dict[int, dict[tuple[int, int], Page]] = {}
    for dimension in dimensions:
        try:
            r, c, z = (int(dimension.get(key, 0)) for key in "rcz")
            page = tiff.pages[int(dimension["ifd"])]
        except (ValueError, KeyError, IndexError) as error:
            raise ImageError(f"{tiff.path}: the Leica XML names a directory that is not there") from error
        by_r.setdefault(r, {})[z, c] = page
    levels: list[LevelPages] = []
    for _, pages in sorted(by_r.items()):
        depth, channels = (max(key[axis] for key in pages) + 1 for axis in (0, 1))
        if len(pages) != depth * channels:
            raise ImageError(f"{tiff.path}: the Leica XML leaves out planes of a level")
        planes = [[PagePlane(pages[z, c]) for c in range(channels)] for z in range(depth)]
        size = planes[0][0].page.size
        if not levels or _smaller(size, levels[-1].size):
            levels.append(LevelPages(size=size, planes=planes))
    return levels


def is_qptiff(tiff: Tiff) -> bool:
    return tiff.pages[0].software.startswith("PerkinElmer-QPI") or (
        "<PerkinElmer-QPI-ImageDescription>" in tiff.pages[0].description[:500]
    )


_QPTIFF_ROLES = {
    "FullResolution": "main",
    "ReducedResolution": "level",
    "Thumbnail": "thumbnail",
    "Overview": "macro",
    "Label": "label",
}


def find_qptiff(tiff: Tiff) -> Layout:
    """PerkinElmer, Akoya: the channels of a level are pages of one size, one after the other."""
    roles = {page.name: _qptiff_role(tiff, page) for page in tiff.pages}
    base = tiff.pages[0]
    full = [page for page in tiff.pages if roles[page.name] == "main"]
    planes = [page for page in full if page.size == base.size and same_pixels(base, page)] or [base]
    reduced = [page for page in tiff.pages if roles[page.name] == "level"]
    below = pyramid(base, reduced, planes=len(planes))
    scale = from_resolution(base)
    microns = number_after(r"<PixelSizeMicrons>", base.description)
    if scale.mpp is None and microns:
        scale = believed(microns, microns, "PerkinElmer's PixelSizeMicrons")
    return Layout(
        format="qptiff",
        levels=[level_of(group, channels_apart=True) for group in (planes, *below)],
        scale=scale,
        why="it is the one of full resolution",
        roles=roles,
    )


def _qptiff_role(tiff: Tiff, page: Page) -> str:
    """From the page's own XML; where that says nothing, from size, tiles and order."""
    named = re.search(r"<ImageType>(\w+)</ImageType>", page.description)
    if named:
        return _QPTIFF_ROLES.get(named[1], "other")
    base = tiff.pages[0]
    if page.size == base.size and same_pixels(base, page):
        return "main"
    return "level" if page.tiled and same_pixels(base, page) else "other"


def is_bif(tiff: Tiff) -> bool:
    page = tiff.pages[0]
    ventana = "Ventana" in page.software or page.software.startswith("ScanOutputManager")
    named = page.description in ("Label Image", "Label_Image", "Probability_Image")
    return (700 in page.tags and (ventana or named)) or b"<iScan" in bytes(_xmp(page)[:4096])


def _xmp(page: Page) -> bytes:
    value = page.tags.get(700)
    return value if isinstance(value, bytes) else b""


def refuse_bif(tiff: Tiff) -> Layout:
    """Ventana's tiles overlap by amounts that only its own software joins without seams."""
    raise ImageError(
        f"{tiff.path}: Ventana BIF is not read (its tiles overlap, which shows as seams); export it as TIFF"
    )
