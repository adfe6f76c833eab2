"""All that decides a mask's bytes, as plain data: work that was left is continued where this is the same."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

from axialcli import __version__
from axialcli.backends import Model
from axialcli.config import PredictSettings
from axialcli.engine.choose import ChosenEngine
from axialcli.engine.find_background import FoundBackground
from axialcli.image import Slide, SlideView

ELSEWHERE = (
    "block",
    "engine",
    "max_ram_bytes",
    "scratch",
    "certify",
    "probs_dtype",
    "channels",
    "z",
    "mpp_override",
)
"""Settings that are no part of a mask's fingerprint: the engine that was chosen stands there by itself,
so does the plan that was made for the memory, probabilities have a journal of their own, the slide says
what it was opened with, volumes are not continued, and the others do not decide a byte."""


def fingerprint(
    slide: Slide,
    view: SlideView,
    model: Model,
    settings: PredictSettings,
    chosen: ChosenEngine,
    found: FoundBackground,
) -> dict[str, Any]:
    """What decides the mask's bytes, but for what the engine plans, in JSON's types."""
    left_out = {*ELSEWHERE, *chosen.unused}
    tiles = {} if chosen.tiling is None else chosen.tiling.describe()
    return {
        "axial": __version__,
        "input": slide.fingerprint(),
        "slide": slide.selection,
        "view": [*view.size, view.level, *view.downsample],
        "model": model.sha256,
        # What a description beside the model file or on the command line says is not in that file's hash.
        "description": hashlib.sha256(model.spec.to_json().encode()).hexdigest(),
        "backend": model.backend,
        "device": model.device.type,
        "dtype": str(model.dtype),
        "runtime": model.runtime(),
        "engine": chosen.name,
        "background": found.describe(),
        "settings": {**{k: v for k, v in asdict(settings).items() if k not in left_out}, **tiles},
    }
