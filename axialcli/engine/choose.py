"""Which engine runs a model, and the engine itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from axialcli.backends import Model
from axialcli.config import EngineChoice, EngineName, PredictSettings
from axialcli.engine.background import Background
from axialcli.engine.choose_tiling import choose_tiling
from axialcli.engine.mask_grid import DENSE
from axialcli.engine.memory import machine_bytes
from axialcli.engine.protocol import Engine
from axialcli.engine.stopwatch import Stopwatch
from axialcli.engine.tiles import TileEngine
from axialcli.engine.tiling import Tiling
from axialcli.errors import LimitError, ModelError
from axialcli.geometry import Box, Size
from axialcli.image import SlideView

OF_TILES = ("tile", "overlap", "blend", "batch")
"""Settings that only tiles look at."""

OF_STORE = ("scratch", "store_dtype")
"""Settings that only a stream looks at, and only where attention over the whole height needs a store."""

logger = logging.getLogger("axial")


@dataclass(frozen=True, kw_only=True)
class ChosenEngine:
    """name: of the engine. tiling: its tiles, of the tile engine only. reason: why not the stream, where
    tiles stand in for it; otherwise None. stores: the stream keeps features in a store. sees_axes: of the
    stream, each pixel looks at a whole row or column."""

    name: EngineName
    tiling: Tiling | None = None
    reason: str | None = None
    stores: bool = False
    sees_axes: bool = False

    @property
    def stride(self) -> Size:
        """Pixels of the view per pixel of the mask."""
        return DENSE if self.tiling is None else self.tiling.stride

    @property
    def unused(self) -> tuple[str, ...]:
        """Settings that decide nothing here."""
        if self.name == "tiles":
            return OF_STORE
        return OF_TILES if self.stores else (*OF_TILES, *OF_STORE)


def choose_engine(settings: PredictSettings, model: Model, size: Size) -> ChosenEngine:
    """The engine that was asked for; `auto` streams what can be streamed and warns where it cannot.

    size: of the view. Warns of settings that then have no effect. Raises ModelError where a stream was
    asked for and the model cannot be streamed, otherwise as choose_tiling.
    """
    chosen = _choose(settings, model, size)
    _warn_of_idle(settings, chosen)
    if chosen.name == "stream":
        return chosen
    return replace(chosen, tiling=choose_tiling(settings, model.spec))


def _choose(settings: PredictSettings, model: Model, size: Size) -> ChosenEngine:
    asked: EngineChoice = settings.engine
    if asked == "tiles":
        return ChosenEngine(name="tiles")
    if settings.tta != "off":
        return ChosenEngine(name="tiles", reason="test-time augmentation runs in tiles")
    # Tracing libraries are slow to load, and tiles need none.
    from axialcli.engine.stream.examine import examine
    from axialcli.engine.stream.trace import NotStreamable

    try:
        graph = examine(model, size)
    except NotStreamable as refused:
        if asked == "stream":
            raise ModelError(
                f"model '{model.spec.name}' cannot be streamed: {refused}; use --engine tiles"
            ) from refused
        logger.warning("model '%s' cannot be streamed, tiles are used: %s", model.spec.name, refused)
        return ChosenEngine(name="tiles", reason=str(refused))
    return ChosenEngine(name="stream", stores=bool(graph.barriers), sees_axes=graph.looks_everywhere)


def _warn_of_idle(settings: PredictSettings, chosen: ChosenEngine) -> None:
    """One warning for each reason why an option that was given has no effect, or not all of it."""
    other = OF_STORE if chosen.name == "tiles" else OF_TILES
    if idle := _given(settings, other):
        logger.warning("%s: no effect with the engine '%s'", ", ".join(idle), chosen.name)
    if chosen.name == "tiles":
        return
    if not chosen.stores and (idle := _given(settings, OF_STORE)):
        logger.warning("%s: no effect, this model does not look at the whole height", ", ".join(idle))
    if chosen.sees_axes and settings.background != "off":
        logger.warning(
            "--background: blank pixels are set to one colour, but none is skipped: "
            "this model looks at whole rows or columns"
        )


def _given(settings: PredictSettings, names: Sequence[str]) -> list[str]:
    """Those of the settings that are not the default, as they stand on the command line."""
    defaults = {field.name: field.default for field in fields(PredictSettings)}
    return ["--" + name.replace("_", "-") for name in names if getattr(settings, name) != defaults[name]]


def allowed_bytes(settings: PredictSettings) -> int:
    """What the process may take of memory: what was given, or half of the machine's."""
    return machine_bytes() // 2 if settings.max_ram_bytes is None else settings.max_ram_bytes


def planned_bytes(settings: PredictSettings, earlier: Mapping[str, Any] | None, folder: Path) -> int:
    """The memory that a plan was made for; warns where a plan is repeated that had more.

    earlier: the plan of the work in `folder` that is continued, or None.
    """
    allowed = allowed_bytes(settings)
    if earlier is None:
        return allowed
    planned = int(earlier["max_ram_bytes"])
    if planned > allowed:
        logger.warning(
            "%s is continued as it was planned, for %d MiB of memory and not %d MiB; "
            "delete it to start over with less",
            folder,
            planned >> 20,
            allowed >> 20,
        )
    return planned


def make_engine(
    name: EngineName,
    view: SlideView,
    model: Model,
    settings: PredictSettings,
    *,
    tiling: Tiling | None = None,
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

    tiling: of the tile engine; None for what the settings and the model say. cached_rows: rows of the
    view that the slide keeps decoded between two reads. windows: whose logits
    the blocks carry. reserved_bytes: of the memory, for others. repeat: the notes of an earlier run.
    run_name, fingerprint: what the run is called, and what decides its numbers, for work that it leaves.
    """
    allowed = allowed_bytes(settings)
    shared: dict[str, Any] = {
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
                tiling=tiling or choose_tiling(settings, model.spec),
                batch=settings.batch,
                cached_rows=cached_rows,
                max_ram_bytes=max(allowed - reserved_bytes, 1),
                **shared,
            )
        from axialcli.engine.stream.engine import StreamEngine

        scratch = None if settings.scratch is None else Path(settings.scratch)
        return StreamEngine(
            view,
            model,
            max_ram_bytes=allowed,
            max_ram_given=settings.max_ram_bytes is not None,
            reserved_bytes=reserved_bytes,
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
