"""Which engine runs a model, and the engine itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from axialcli.backends import Model
from axialcli.config import EngineChoice, EngineName, PredictSettings
from axialcli.engine.background import Background
from axialcli.engine.memory import machine_bytes
from axialcli.engine.protocol import Engine
from axialcli.engine.stopwatch import Stopwatch
from axialcli.engine.tiles import TileEngine
from axialcli.errors import LimitError, ModelError
from axialcli.geometry import Box, Size
from axialcli.image import SlideView

ONLY_FOR: dict[EngineName, tuple[str, ...]] = {
    "tiles": ("tile", "overlap", "blend", "batch"),
    "stream": ("scratch", "store_dtype"),
}
"""Settings that one engine alone looks at."""

logger = logging.getLogger("axial")


@dataclass(frozen=True, kw_only=True)
class ChosenEngine:
    """name: of the engine. reason: why not the stream, where tiles stand in for it; otherwise None."""

    name: EngineName
    reason: str | None = None


def choose_engine(settings: PredictSettings, model: Model, size: Size) -> ChosenEngine:
    """The engine that was asked for; `auto` streams what can be streamed and warns where it cannot.

    size: of the view. Warns of settings that then have no effect. Raises ModelError where a stream was
    asked for and the model cannot be streamed.
    """
    chosen = _choose(settings.engine, model, size)
    if idle := idle_settings(settings, chosen.name):
        logger.warning("%s: no effect with the engine '%s'", ", ".join(idle), chosen.name)
    return chosen


def _choose(asked: EngineChoice, model: Model, size: Size) -> ChosenEngine:
    if asked == "tiles":
        return ChosenEngine(name="tiles")
    # Tracing libraries are slow to load, and tiles need none.
    from axialcli.engine.stream import refusal

    reason = refusal(model, size)
    if reason is None:
        return ChosenEngine(name="stream")
    if asked == "stream":
        raise ModelError(f"model '{model.spec.name}' cannot be streamed: {reason}; use --engine tiles")
    logger.warning("model '%s' cannot be streamed, tiles are used: %s", model.spec.name, reason)
    return ChosenEngine(name="tiles", reason=reason)


def unused_by(name: EngineName) -> list[str]:
    """Settings that this engine does not look at."""
    return [setting for engine, own in ONLY_FOR.items() if engine != name for setting in own]


def idle_settings(settings: PredictSettings, name: EngineName) -> list[str]:
    """Options that were given, and that the engine does not look at, as they stand on the command line."""
    defaults = {field.name: field.default for field in fields(PredictSettings)}
    return [
        "--" + setting.replace("_", "-")
        for setting in unused_by(name)
        if getattr(settings, setting) != defaults[setting]
    ]


def make_engine(
    name: EngineName,
    view: SlideView,
    model: Model,
    settings: PredictSettings,
    *,
    cached_rows: int,
    background: Background | None,
    windows: Sequence[Box],
    reserved_bytes: int,
    probs: bool,
    overlay: bool,
    repeat: Mapping[str, Any] | None,
    run_name: str,
    fingerprint: Mapping[str, Any],
    stopwatch: Stopwatch,
) -> Engine:
    """The engine of that name, planned for what memory the settings allow.

    cached_rows: rows of the view that the slide keeps decoded between two reads. windows: whose logits
    the blocks carry. reserved_bytes: of the memory, for others. repeat: the notes of an earlier run.
    run_name, fingerprint: what the run is called, and what decides its numbers, for work that it leaves.
    """
    allowed = machine_bytes() // 2 if settings.max_ram_bytes is None else settings.max_ram_bytes
    shared: dict[str, Any] = {
        "max_ram_bytes": max(allowed - reserved_bytes, 1),
        "background": background,
        "windows": windows,
        "probs": probs,
        "overlay": overlay,
        "repeat": repeat,
        "stopwatch": stopwatch,
    }
    try:
        if name == "tiles":
            return TileEngine(
                view,
                model,
                tile=settings.tile,
                overlap=settings.overlap,
                blend=settings.blend,
                batch=settings.batch,
                cached_rows=cached_rows,
                **shared,
            )
        from axialcli.engine.stream.engine import StreamEngine

        scratch = None if settings.scratch is None else Path(settings.scratch)
        return StreamEngine(
            view,
            model,
            scratch=scratch,
            store_dtype=settings.store_dtype,
            run_name=run_name,
            fingerprint=fingerprint,
            **shared,
        )
    except LimitError as error:
        if not reserved_bytes:
            raise
        raise LimitError(f"beside {reserved_bytes >> 20} MiB for --certify: {error}") from error
