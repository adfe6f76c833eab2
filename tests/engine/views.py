"""A view on an array, in place of one on a slide: what the engine asks of a view and nothing more."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialcli.backends import Model
from axialcli.config import Blend
from axialcli.engine import TileEngine, Tiling, tiling_of
from axialcli.geometry import Box, Size, whole


class ArrayView:
    """image_HWC behind the interface of a SlideView; keeps the boxes that were read."""

    def __init__(self, image_HWC: NDArray[np.generic]) -> None:
        self.image_HWC = image_HWC
        self.size = Size(*image_HWC.shape[:2])
        self.channels = image_HWC.shape[2]
        self.dtype = image_HWC.dtype
        self.read_boxes: list[Box] = []

    def read(self, box: Box) -> NDArray[np.generic]:
        if box.empty or not whole(self.size).contains(box):
            raise ValueError(f"{box} is not inside the view, {self.size}")
        self.read_boxes.append(box)
        return self.image_HWC[box.y0 : box.y1, box.x0 : box.x1].copy()


def tile_engine(
    image_HWC: NDArray[Any],
    model: Model,
    *,
    tile: int,
    overlap: int,
    blend: Blend = "gaussian",
    **options: Any,
) -> TileEngine:
    """An engine with square tiles over an array, memory without end."""
    tiling = tiling_of(model.spec, tile=Size(tile, tile), overlap=overlap, blend=blend)
    return tiled(image_HWC, model, tiling, **options)


def tiled(image_HWC: NDArray[Any], model: Model, tiling: Tiling, **options: Any) -> TileEngine:
    """An engine with these tiles over an array, memory without end."""
    view: Any = ArrayView(image_HWC)
    return TileEngine(view, model, tiling=tiling, **{"batch": 3, "max_ram_bytes": 1 << 40, **options})


def collected(engine: TileEngine, classes: int = 3) -> NDArray[np.float32]:
    """The probabilities [K, H, W] of all blocks on the mask's grid; each pixel comes once."""
    probs_KHW = np.full((classes, *engine.size), np.nan, np.float32)
    for block in engine.blocks():
        assert (block.box.y0 % 512, block.box.x0 % 512) == (0, 0)
        assert block.probs_KHW is not None
        assert block.probs_KHW.shape[1:] == block.labels_HW.shape == (block.box.height, block.box.width)
        part_KHW = probs_KHW[:, block.box.y0 : block.box.y1, block.box.x0 : block.box.x1]
        assert np.isnan(part_KHW).all()
        part_KHW[:] = block.probs_KHW
    assert not np.isnan(probs_KHW).any()
    return probs_KHW
