"""Which tiles a model is run on: what the settings say, as far as the model allows."""

from __future__ import annotations

import logging
import math

from axialcli.backends.spec import ModelSpec
from axialcli.config import MAX_TILE, PredictSettings
from axialcli.engine.tiling import Tiling, tile_unit, tiling_of
from axialcli.errors import ModelError, UsageError
from axialcli.geometry import Size

OVERLAP = 64
"""Pixels on each side of a tile that its neighbours have too, where nothing else is said."""

OVERLAP_SHARE = 8
"""Of a tile that is too small for that, or that the model alone decides: one in so many."""

DEAR = 2.0
"""Where each pixel is computed more often than that, a larger tile is worth its memory."""

logger = logging.getLogger("axial")


def choose_tiling(settings: PredictSettings, spec: ModelSpec) -> Tiling:
    """The tiles of a run. Warns of settings that the model overrules.

    The size that a model is fixed to wins over --tile; otherwise tiles are made smaller until they keep to
    the multiples that the model takes. Raises UsageError where tile and overlap contradict each other, or
    an overlap of "auto" cannot be had; ModelError where the model's own sizes contradict each other.
    """
    tile = _tile(settings, spec)
    classifies = spec.task == "classification"
    if classifies and settings.blend != PredictSettings.blend:
        logger.warning("--blend: no effect, model '%s' answers once per tile", spec.name)
    if settings.overlap == "auto":
        return _with_receptive_field(settings, spec, tile)
    overlap = settings.overlap
    if overlap is None:
        overlap = _own_overlap(spec, tile)
    elif 2 * overlap >= min(tile):
        raise UsageError(
            f"--overlap is {overlap}: it has to be below half of the tile, which is "
            f"{_sides(tile)} for model '{spec.name}'"
        )
    return tiling_of(spec, tile=tile, overlap=overlap, blend=settings.blend)


def _tile(settings: PredictSettings, spec: ModelSpec) -> Size:
    """The tile's size: the model's own, or --tile, rounded down to what the model takes."""
    given = settings.tile != PredictSettings.tile
    stride = 1 if spec.task == "classification" else spec.output.stride
    if spec.input.size is not None:
        size = Size(*spec.input.size)
        if size.height % stride or size.width % stride:
            raise ModelError(
                f"model '{spec.name}': its size {_sides(size)} is no multiple of its output stride, {stride}"
            )
        if given and size != (settings.tile, settings.tile):
            logger.warning("--tile: no effect, model '%s' takes %s pixels only", spec.name, _sides(size))
        return size
    unit = tile_unit(spec.input.multiple, stride)
    if unit > MAX_TILE:
        raise ModelError(
            f"model '{spec.name}': its tiles would be multiples of {unit} pixels, over {MAX_TILE}"
        )
    side = max(settings.tile // unit, 1) * unit
    if given and side != settings.tile:
        logger.warning(
            "--tile is %d: tiles are %d pixels, model '%s' needs multiples of %d",
            settings.tile,
            side,
            spec.name,
            unit,
        )
    return Size(side, side)


def _own_overlap(spec: ModelSpec, tile: Size) -> int:
    """The overlap where none is asked for: what leaves a small tile room, and a classifier all of it."""
    if spec.task == "classification":
        return 0
    small = spec.input.size is not None or min(tile) <= 2 * OVERLAP
    overlap = min(OVERLAP, min(tile) // OVERLAP_SHARE) if small else OVERLAP
    return overlap if min(tile) - 2 * overlap >= _grid_px(spec) else 0


def _grid_px(spec: ModelSpec) -> int:
    """What the origins of tiles are multiples of."""
    multiple = 1 if spec.input.size else spec.input.multiple
    return math.lcm(spec.network_stride, spec.output.stride, multiple)


def _with_receptive_field(settings: PredictSettings, spec: ModelSpec, tile: Size) -> Tiling:
    """Tiles that overlap by the model's receptive field; says what that costs."""
    if spec.task == "classification":
        raise UsageError(
            f"--overlap auto: model '{spec.name}' classifies whole tiles and has no receptive field beyond "
            "them; give a number"
        )
    if spec.receptive_field_px is None:
        raise UsageError(
            f"--overlap auto needs a receptive field, and model '{spec.name}' does not state one: "
            "give a number, such as --overlap 64"
        )
    step = _grid_px(spec)
    overlap = -(-spec.receptive_field_px // step) * step
    if min(tile) < 2 * overlap + step:
        raise UsageError(
            f"--overlap auto: {overlap} pixels on each side leave nothing of a tile of {_sides(tile)}"
            + _advice(spec, overlap, step)
        )
    tiling = tiling_of(spec, tile=tile, overlap=overlap, blend=settings.blend)
    logger.info(
        "--overlap auto: %d pixels, the receptive field; tiles of %s compute each pixel %.2f times%s",
        overlap,
        _sides(tile),
        tiling.cost,
        _cheaper(settings, spec, tiling),
    )
    return tiling


def _advice(spec: ModelSpec, overlap: int, step: int) -> str:
    """Which tile such an overlap needs, as the end of a message."""
    needed = 2 * overlap + step
    if spec.input.size is not None or needed > MAX_TILE:
        return f", and model '{spec.name}' cannot have the {needed} that it takes: give a number"
    # Four times the overlap: half of the tile's side is new.
    good = min(max(4 * overlap, needed), MAX_TILE // step * step)
    return f": give --tile {needed} at least; --tile {good} computes each pixel 4 times or less"


def _cheaper(settings: PredictSettings, spec: ModelSpec, tiling: Tiling) -> str:
    """A larger tile and its cost, as the end of a message, where the overlap eats the tile."""
    if tiling.cost <= DEAR or tiling.fixed:
        return ""
    side, larger = tiling.tile.height, tiling
    while larger.cost > DEAR and 2 * side <= MAX_TILE:
        side *= 2
        larger = tiling_of(spec, tile=Size(side, side), overlap=tiling.overlap, blend=settings.blend)
    return f"; --tile {side} would compute it {larger.cost:.2f} times" if larger is not tiling else ""


def _sides(size: Size) -> str:
    return f"{size.height} x {size.width}"
