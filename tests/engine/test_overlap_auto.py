"""The overlap "auto": the receptive field, what it costs, and that crop is then exact."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from axialcli.config import PredictSettings
from axialcli.engine import Tiling, choose_tiling
from axialcli.engine.stream.engine import StreamEngine
from axialcli.errors import UsageError
from tests.engine.foreign import ForeignModel, context, noise, patches
from tests.engine.views import ArrayView, tile_engine
from tests.networks import small_model


def chosen(model: Any, **asked: Any) -> Tiling:
    return choose_tiling(PredictSettings(**asked), model.spec)


def test_the_advice_of_auto_is_followed_by_a_tile_that_works() -> None:
    model = ForeignModel(patches(1), receptive_field_px=300, network_stride=8, multiple=6)
    with pytest.raises(UsageError, match="give --tile 648 at least; --tile 1248"):
        chosen(model, overlap="auto")

    assert chosen(model, overlap="auto", tile=648).step == (24, 24)
    assert chosen(model, overlap="auto", tile=1248).cost <= 4.01


def test_auto_says_what_the_overlap_costs_and_which_tile_would_cost_less(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "axial")
    dear = ForeignModel(patches(1), receptive_field_px=100, network_stride=8)

    tiling = chosen(dear, overlap="auto", blend="crop")
    chosen(dear, overlap="auto", tile=1024)

    assert (tiling.overlap, tiling.step) == (104, (304, 304))
    assert caplog.messages == [
        "--overlap auto: 104 pixels, the receptive field; tiles of 512 x 512 compute each pixel 2.84 times; "
        "--tile 1024 would compute it 1.57 times",
        "--overlap auto: 104 pixels, the receptive field; tiles of 1024 x 1024 compute each pixel 1.57 times",
    ]
    assert pytest.approx(2.84, abs=0.005) == 512**2 / 304**2
    assert pytest.approx(1.57, abs=0.005) == 1024**2 / 816**2


def test_crop_with_auto_agrees_with_the_whole_picture_and_with_the_stream() -> None:
    model = small_model("axial_segmenter", width=(4, 8, 8), depth=1, heads=2, span=7)
    image_HWC = noise(420, 530)
    tiling = chosen(model, tile=192, blend="crop", overlap="auto")
    assert tiling.overlap == 56
    whole_KHW = model.predict(image_HWC.transpose(2, 0, 1)[None])[0]
    view: Any = ArrayView(image_HWC)
    stream = StreamEngine(view, model, max_ram_bytes=1 << 40, probs=True)
    streamed = {block.box: block for block in stream.blocks()}

    for block in tile_engine(
        image_HWC, model, tile=192, overlap=tiling.overlap, blend="crop", probs=True
    ).blocks():
        assert block.probs_KHW is not None
        inside = (slice(None), slice(block.box.y0, block.box.y1), slice(block.box.x0, block.box.x1))
        assert np.abs(block.probs_KHW - whole_KHW[inside]).max() < 1e-4
        other = streamed[block.box].probs_KHW
        assert other is not None
        assert np.abs(block.probs_KHW - other).max() < 1e-4


def test_auto_is_exact_for_a_coarse_model_too() -> None:
    model = ForeignModel(context(4), stride=4, receptive_field_px=5)
    image_HWC = noise(120, 164)
    tiling = chosen(model, tile=32, blend="crop", overlap="auto")
    assert tiling.overlap == 8

    (block,) = tile_engine(
        image_HWC, model, tile=32, overlap=tiling.overlap, blend="crop", probs=True
    ).blocks()

    assert block.probs_KHW is not None
    assert np.abs(block.probs_KHW - model.by_hand(image_HWC)).max() < 1e-5
