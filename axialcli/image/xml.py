"""XML out of image descriptions: size-limited, and without document types, so that nothing expands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from axialcli.errors import ImageError

LIMIT_CHARACTERS = 64 * 2**20


def parse(text: str, path: Path, what: str) -> ElementTree.Element:
    """The root element. Raises ImageError where the text is no XML, too long, or defines entities."""
    if len(text) > LIMIT_CHARACTERS or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ImageError(f"{path}: its {what} is refused: it is too long or defines entities")
    try:
        return ElementTree.fromstring(text.strip().strip("\x00"))
    except (ElementTree.ParseError, ValueError) as error:
        raise ImageError(f"{path}: its {what} cannot be parsed ({error}); the file is damaged") from error


def local(element: ElementTree.Element) -> str:
    """An element's name without its namespace."""
    return element.tag.rpartition("}")[2]


def children(element: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """Direct children of that name, in any namespace."""
    return (child for child in element if local(child) == name)
