"""Microns per pixel: from resolution tags, from units, and what is too odd to be believed."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from axialcli.image.page import Page

UM_PER_UNIT: dict[str, float] = {
    "pm": 1e-6,
    "å": 1e-4,
    "nm": 1e-3,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "dm": 1e5,
    "m": 1e6,
    "in": 25400.0,
    "inch": 25400.0,
}

SCREEN_DPI = (1, 25, 50, 72, 75, 90, 96, 100, 120, 144, 150, 180, 200, 240, 254, 300, 360, 400, 600, 1200)
"""Resolutions that programs write without a microscope ever being asked."""


class Scale(NamedTuple):
    """Microns per pixel as (y, x), or None, and where they come from or why there are none."""

    mpp: tuple[float, float] | None
    source: str


NO_SCALE = Scale(None, "none in the file")


def believed(y: float, x: float, source: str) -> Scale:
    """The scale where it is one that a picture can have: 1 nm to 1 mm a pixel, nearly square pixels."""
    if not (math.isfinite(y) and math.isfinite(x) and 1e-3 <= y <= 1e3 and 1e-3 <= x <= 1e3):
        return Scale(None, f"{source}: not believed ({x:.6g} x {y:.6g} microns)")
    if not 0.5 <= y / x <= 2:
        return Scale(None, f"{source}: not believed (pixels of {x:.6g} x {y:.6g} microns)")
    return Scale((y, x), source)


def believed_spacing(um: float) -> float | None:
    """Microns between two planes of a stack, where it is a distance that they can have: 1 nm to 1 mm."""
    return um if math.isfinite(um) and 1e-3 <= um <= 1e3 else None


def from_resolution(page: Page) -> Scale:
    """From tags 282, 283 and 296: pixels per inch or per centimetre."""
    x, y = _ratio(page.tags.get(282)), _ratio(page.tags.get(283))
    unit = page.tags.get(296, 2)
    if not x or not y or unit not in (2, 3):
        return NO_SCALE
    return from_density(y, x, per_cm=unit == 3, source="resolution tags")


def from_density(y: float, x: float, *, per_cm: bool, source: str) -> Scale:
    """From pixels per centimetre or per inch, unless it is what a screen or a printer has."""
    um = 1e4 if per_cm else 25400.0
    dpi = x * 25400.0 / um
    if x == y == 1 or any(abs(dpi - screen) < 0.02 * screen**0.5 for screen in SCREEN_DPI):
        return Scale(None, f"{source}: not believed ({dpi:.4g} dpi is a screen's or a printer's)")
    return believed(um / y, um / x, source)


def from_unit(page: Page, unit: str, source: str) -> Scale:
    """From tags 282 and 283 as pixels per `unit`, the way ImageJ writes them."""
    x, y = _ratio(page.tags.get(282)), _ratio(page.tags.get(283))
    um = UM_PER_UNIT.get(unit_name(unit))
    if um is None or not x or not y:
        return NO_SCALE
    return believed(um / y, um / x, source)


def unit_name(unit: str) -> str:
    """A unit as UM_PER_UNIT names it; ImageJ escapes the letter µ."""
    return unit.replace("\\u00B5", "µ").strip().lower()


def number_after(pattern: str, text: str) -> float | None:
    """The number behind `pattern`, with a point or, as some locales write it, a comma."""
    match = re.search(pattern + r"\s*([0-9]+(?:[.,][0-9]+)?(?:[eE][-+]?[0-9]+)?)", text)
    return float(match[1].replace(",", ".")) if match else None


def to_number(text: str | None) -> float:
    """A number out of a description; 0 where there is none."""
    try:
        value = float(text or 0)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0


def _ratio(value: Any) -> float | None:
    if isinstance(value, tuple) and len(value) == 2:
        return float(value[0]) / float(value[1]) if value[1] else None
    return float(value) if isinstance(value, int | float) else None
