"""The classes of a model from elsewhere as a model file has them: each with a name and a colour."""

from __future__ import annotations

import colorsys
from typing import Any

from axialcli.backends.foreign_words import Words


def class_entries(words: Words, count: int) -> list[dict[str, Any]]:
    """Each class with its name and colour, as in a model file; numbers and a wheel of colours by default."""
    said = words.get("classes")
    named = said if isinstance(said, list) else [{} for _ in range(count)]
    return [
        {"name": f"class {number}", "colour": _colour(number), **entry} for number, entry in enumerate(named)
    ]


def _colour(number: int) -> str:
    """Black for class 0, then hues that the golden ratio keeps apart."""
    if number == 0:
        return "#000000"
    rgb = colorsys.hsv_to_rgb((number - 1) * 0.618034 % 1, 0.85, 1.0)
    return "#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in rgb))
