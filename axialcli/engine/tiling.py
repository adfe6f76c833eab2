"""How a view is cut into tiles: their size, their overlap, and what of the mask each of them answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from axialcli.backends.spec import ModelSpec
from axialcli.config import Blend
from axialcli.engine.grid import TileSpan, centred_spans, tile_spans, tile_step
from axialcli.geometry import Size


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """The tiles that a model is run on.

    tile: in pixels of the view. overlap: on each side of a tile. blend: how tiles share the mask's pixels.
    network_stride, output_stride: the model's. multiple: height and width of what the network sees are
    multiples of it. fixed: the network takes whole tiles and nothing else. classifies: the model answers
    one pixel of the mask per tile, which is as large as the tiles' step.

    A whole tile keeps to the output stride and to `multiple`. Raises UsageError where tile and overlap
    leave no step forward.
    """

    tile: Size
    overlap: int
    blend: Blend = "gaussian"
    network_stride: int = 1
    output_stride: int = 1
    multiple: int = 1
    fixed: bool = False
    classifies: bool = False

    def __post_init__(self) -> None:
        if any(side % tile_unit(self.multiple, self.output_stride) for side in self.tile):
            raise ValueError(f"{self.tile} is no multiple of {self.multiple} and {self.output_stride}")
        _ = self.step

    @property
    def step(self) -> Size:
        """How far the tiles are apart, in pixels of the view."""
        # Tiles that do not begin on the network's own grid would see another picture than the whole slide is.
        unit = math.lcm(self.network_stride, self.output_stride, self.multiple)
        height, width = (tile_step(side, self.overlap, 1 if self.classifies else unit) for side in self.tile)
        return Size(height, width)

    @property
    def stride(self) -> Size:
        """Pixels of the view per pixel of the mask."""
        return self.step if self.classifies else Size(self.output_stride, self.output_stride)

    @property
    def cost(self) -> float:
        """How many times a pixel is computed, on average far from the slide's edges."""
        return math.prod(self.tile) / math.prod(self.step)

    def rows(self, height: int) -> list[TileSpan]:
        """The tiles along the height of a view."""
        return self._spans(height, self.tile.height)

    def columns(self, width: int) -> list[TileSpan]:
        """The tiles along the width of a view."""
        return self._spans(width, self.tile.width)

    def describe(self) -> dict[str, Any]:
        """For the report and the fingerprint: tile (two numbers where it is not square) and overlap."""
        square = self.tile.height == self.tile.width
        return {"tile": self.tile.height if square else list(self.tile), "overlap": self.overlap}

    def _spans(self, length: int, tile: int) -> list[TileSpan]:
        if self.classifies:
            return centred_spans(length, tile=tile, overlap=self.overlap)
        return tile_spans(
            length,
            tile=tile,
            overlap=self.overlap,
            blend=self.blend,
            stride_of=self.network_stride,
            stride=self.output_stride,
            multiple=self.multiple,
            fixed=self.fixed,
        )


def tile_unit(multiple: int, output_stride: int) -> int:
    """What the sides of a tile are multiples of."""
    return math.lcm(multiple, output_stride)


def tiling_of(spec: ModelSpec, *, tile: Size, overlap: int, blend: Blend = "gaussian") -> Tiling:
    """Such tiles for a model, with all that its description says about them."""
    classifies = spec.task == "classification"
    return Tiling(
        tile=tile,
        overlap=overlap,
        blend=blend,
        network_stride=spec.network_stride,
        output_stride=1 if classifies else spec.output.stride,
        multiple=1 if spec.input.size else spec.input.multiple,
        fixed=spec.input.size is not None,
        classifies=classifies,
    )
