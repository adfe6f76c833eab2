"""How a volume is cut into overlapping blocks: what the settings say, as far as the model allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from axialcli.backends.spec import ModelSpec
from axialcli.config import Blend, PredictSettings
from axialcli.engine.grid import TileSpan, tile_spans
from axialcli.errors import UsageError
from axialcli.geometry import VolumeSize

DEFAULT_BLOCK = VolumeSize(32, 256, 256)
"""Voxels that a network sees at once, where nothing else is said: two million, some hundred MB at work."""

OVERLAP_SHARE = 8
"""Of a block's side, one in so many is shared on each side of it, where nothing else is said."""

AXES = ("depth", "height", "width")


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Overlapping blocks over a volume. Each is a span of every axis; its weight is the product of theirs.

    size: of the volume. block: of a whole block; no side is longer than the volume's. overlap: on each side,
    0 along axes that one block covers. layers, rows, columns: the spans along depth, height and width.
    """

    size: VolumeSize
    block: VolumeSize
    overlap: VolumeSize
    blend: Blend
    layers: list[TileSpan]
    rows: list[TileSpan]
    columns: list[TileSpan]

    def describe(self) -> dict[str, Any]:
        """For the report: the sizes as [depth, height, width]."""
        return {"block": list(self.block), "overlap": list(self.overlap), "blend": self.blend}


def choose_blocks(settings: PredictSettings, spec: ModelSpec, size: VolumeSize) -> Blocks:
    """The blocks of a run over a volume of that size.

    Their corners lie on multiples of the network's stride along every axis. Raises UsageError where block
    and overlap leave no step forward, or an overlap of "auto" cannot be had.
    """
    if settings.overlap == "auto" and spec.receptive_field_px is None:
        raise UsageError(
            f"--overlap auto needs a receptive field, and model '{spec.name}' does not state one: "
            "give a number, such as --overlap 8"
        )
    wanted = settings.block or DEFAULT_BLOCK
    spans, sides, overlaps = [], [], []
    for axis, length, side in zip(AXES, size, wanted, strict=True):
        overlap = 0 if side >= length else _overlap(settings, spec, side, axis)
        side = min(side, length)
        # Where one block covers the axis, it may end anywhere.
        tile = side if side < length else -(-length // spec.network_stride) * spec.network_stride
        spans.append(
            tile_spans(
                length, tile=tile, overlap=overlap, blend=settings.blend, stride_of=spec.network_stride
            )
        )
        sides.append(side)
        overlaps.append(overlap)
    layers, rows, columns = spans
    return Blocks(
        size=size,
        block=VolumeSize(*sides),
        overlap=VolumeSize(*overlaps),
        blend=settings.blend,
        layers=layers,
        rows=rows,
        columns=columns,
    )


def _overlap(settings: PredictSettings, spec: ModelSpec, side: int, axis: str) -> int:
    """Voxels that a block of that side shares on each of its ends along the axis. Raises UsageError."""
    stride = spec.network_stride
    if settings.overlap == "auto":
        assert spec.receptive_field_px is not None
        overlap = -(-spec.receptive_field_px // stride) * stride
    else:
        overlap = side // OVERLAP_SHARE if settings.overlap is None else int(settings.overlap)
    if side - 2 * overlap < stride:
        said = "" if settings.overlap is None else f" with an overlap of {overlap} on each side"
        raise UsageError(
            f"--block has {side} voxels along the {axis}, which{said} leave no step forward "
            f"(the network's stride is {stride}): give {2 * overlap + stride} at least"
        )
    return overlap
