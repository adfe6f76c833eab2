"""What a finder says about a file: its images, the one that was chosen, its levels and planes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from axialcli.geometry import Size
from axialcli.image.colour import channels_of, photometric
from axialcli.image.page import Page
from axialcli.image.scale import NO_SCALE, Scale


class PagePlane(NamedTuple):
    """A page as one plane of a level; its data lies `shift_bytes` behind the page's own offsets."""

    page: Page
    shift_bytes: int = 0


@dataclass(kw_only=True)
class LevelPages:
    """One level: planes[z][c], each giving as many channels as its page has."""

    size: Size
    planes: list[list[PagePlane]]


@dataclass(frozen=True, kw_only=True)
class FoundImage:
    """An image in the file. role: main, level, thumbnail, label, macro, mask or other.

    directory: its first directory, `0.1` for the second sub-directory of the first. planes: how many
    directories of the same size and role it stands for.
    """

    role: str
    size: Size
    channels: int
    directory: str
    planes: int = 1


@dataclass(kw_only=True)
class Layout:
    """A file as a finder understood it.

    why: ends the sentence that says what was chosen. spacing_um: from one plane of a stack to the next.
    """

    format: str
    levels: list[LevelPages]
    scale: Scale = NO_SCALE
    why: str = "it is the largest"
    roles: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    missing_is_white: bool = False
    default_z: int | None = None
    spacing_um: float | None = None


def found_images(pages: Iterable[Page], roles: dict[str, str]) -> tuple[FoundImage, ...]:
    """All images of a file in its order; those of the same role, size and channels count as one."""
    found: dict[tuple[str, Size, int], list[str]] = {}
    for page in walk(pages):
        role = roles.get(page.name) or ("mask" if page.mask else "other")
        found.setdefault((role, page.size, channels_of(page)), []).append(page.name)
    return tuple(
        FoundImage(role=role, size=size, channels=channels, directory=names[0], planes=len(names))
        for (role, size, channels), names in found.items()
    )


def walk(pages: Iterable[Page]) -> Iterable[Page]:
    """Pages with their sub-directories; a directory that is reached twice comes once."""
    seen: set[int] = set()
    for page in pages:
        for one in (page, *page.subpages):
            if one.offset not in seen:
                seen.add(one.offset)
                yield one


def same_pixels(one: Page, other: Page) -> bool:
    """Whether two pages hold the same kind of pixels, so that one can be a level of the other."""
    return (
        channels_of(one) == channels_of(other)
        and one.dtype == other.dtype
        and (photometric(one) == photometric(other) or {photometric(one), photometric(other)} == {2, 6})
    )


def reduces(base: Size, size: Size) -> bool:
    """Whether `size` is `base` made smaller by one factor, up to one pixel or one percent."""
    if size.height > base.height or size.width > base.width or size == base or 0 in size:
        return False
    expected = base.width * size.height / base.height
    pixel = 1.5 * (base.width / base.height + 1)
    return abs(size.width - expected) <= max(pixel, 0.01 * expected)


def pyramid(base: Page, others: Iterable[Page], *, planes: int = 1) -> list[list[Page]]:
    """Groups of `planes` pages that are lower levels of `base`, from large to small."""
    groups: dict[Size, list[Page]] = {}
    for page in others:
        if reduces(base.size, page.size) and same_pixels(base, page) and not page.mask:
            groups.setdefault(page.size, []).append(page)
    levels = [group for group in groups.values() if len(group) == planes]
    levels.sort(key=lambda group: -group[0].size.height * group[0].size.width)
    kept: list[list[Page]] = []
    above = base.size
    for group in levels:
        size = group[0].size
        if size.height <= above.height and size.width <= above.width and size != above:
            kept.append(group)
            above = size
    return kept


def largest(pages: Sequence[Page]) -> Page:
    """The page with the most pixels; the first of several."""
    return max(pages, key=lambda page: page.size.height * page.size.width)


def level_of(group: Sequence[Page], *, channels_apart: bool = False) -> LevelPages:
    """A level of pages that are a stack of planes in z or, `channels_apart`, channels of one plane."""
    planes = [PagePlane(page) for page in group]
    return LevelPages(size=group[0].size, planes=[planes] if channels_apart else [[one] for one in planes])
