"""What a network's settings may be, read from the types of its configuration."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

LARGEST = {
    "in_channels": 64,
    "classes": 256,
    "width": 512,
    "depth": 32,
    "heads": 64,
    "span": 1025,
    "mlp_ratio": 8,
    "skip": 32,
    "window": 64,
    "global_blocks": 8,
    "answers": 22_000,
    "base_dim": 96,
    "stage_blocks": 20,
    "trained_side": 1024,
    "pyramid_width": 256,
    "token_width": 512,
    "stride": 16,
    "trained_grid": 4096,
    "vit_width": 1024,
    "vit_depth": 24,
    "patch": 32,
    "token_grid": 64,
    "swin_width": 192,
    "swin_depths": 24,
    "swin_window": 32,
    "unet_base": 32,
    "unet_depths": 16,
    "picture_size": 4096,
    "stem_width": 256,
    "stage_planes": 1024,
    "stage_depths": 10,
    "trained_size": 2048,
    "table": 2047,
    "z_stride": 2,
}
"""Of each number, and of the parts of `skip`: far above what runs, and together under 2 GB of weights, so
that a description of a few bytes cannot ask for more."""

MAY_BE_ZERO = {"window", "global_blocks"}


def fits(name: str, value: object, kind: Any) -> bool:
    """Whether a value is of that kind: a whole number, a bool, one of the words, a tuple of them, or None."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(fits(name, value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin is tuple:
        if not isinstance(value, tuple) or len(value) > LARGEST[name]:
            return False
        kinds = parts[:1] * len(value) if parts[1:] == (...,) else parts
        return len(value) == len(kinds) and all(map(fits, [name] * len(value), value, kinds))
    if kind is int:
        # True is an int as well, and is no size.
        return type(value) is int and _smallest(name) <= value <= LARGEST[name]
    return isinstance(value, bool) if kind is bool else value is None


def describe(name: str, kind: Any) -> str:
    """What such a setting takes, in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(describe(name, part) for part in parts)
    if origin is Literal:
        return "one of " + ", ".join(repr(part) for part in parts)
    if origin is tuple:
        if parts[1:] == (...,):
            return f"a list, each {describe(name, parts[0])}"
        return f"{len(parts)} whole numbers from {_smallest(name)} to {LARGEST[name]}"
    if kind is int:
        return f"a whole number from {_smallest(name)} to {LARGEST[name]}"
    return {bool: "true or false", NoneType: "null"}[kind]


def _smallest(name: str) -> int:
    return 0 if name in MAY_BE_ZERO else 1
