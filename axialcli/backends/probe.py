"""Trying a foreign model: what does it answer to a picture of this shape?"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

ELEMENTS = ("float32", "float16", "uint8")
"""The types of pixels that a network may take."""


class Probe(Protocol):
    """Runs a model once on `noise(shape, element)` of its only input."""

    def __call__(self, shape: tuple[int, ...]) -> NDArray[Any] | str:
        """The model's first output, or the reason, in one line, why it does not take this shape.

        shape: in the order of the model's own axes, batch first. Raises ModelError where the model
        cannot be run at all: it crashes, it hangs.
        """


def noise(shape: tuple[int, ...], element: str) -> NDArray[Any]:
    """The same picture each time: even noise, 0..255 in uint8, 0..1 in float16 and float32."""
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return values if element == "uint8" else (values / 255).astype(element)
