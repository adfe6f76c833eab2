"""Settings and descriptions that all floors share: frozen, keyword-only, checked once when made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from axialcli.errors import UsageError

Blend = Literal["gaussian", "linear", "mean", "crop"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Layout = Literal["auto", "ome", "ome-strict", "generic"]
ProbsDtype = Literal["uint8", "float16"]

MASK_TILE = 512
"""Side of the mask's tiles, in pixels. Blocks start on this grid."""


@dataclass(frozen=True, kw_only=True)
class ClassInfo:
    """One class of a model: its name and its colour, red, green, blue in 0..255."""

    name: str
    colour: tuple[int, int, int]


def parse_bytes(text: str) -> int:
    """A number of bytes from text such as `800M` or `1.5G` (powers of 1024).

    Raises UsageError where the text is no such number.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)i?[bB]?\s*", text)
    if not match:
        raise UsageError(f"'{text}' is not a size: write it like 800M or 1.5G")
    power = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}[match[2].lower()]
    return int(float(match[1]) * 1024**power)


def check_choice(name: str, value: str, kind: object) -> None:
    """Raises UsageError unless `value` is one of the literals of `kind`."""
    allowed = get_args(kind)
    if value not in allowed:
        raise UsageError(f"{name} is '{value}': choose one of {', '.join(allowed)}")
