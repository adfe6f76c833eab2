"""Coarse answers and fixed sizes in tiles, against the whole picture and naive loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axialcli.config import Blend
from axialcli.engine import Background, tiling_of
from axialcli.engine.memory import peak_resident_bytes
from axialcli.errors import ModelError
from axialcli.geometry import Size
from tests.engine.foreign import ForeignModel, classifier, context, filled, noise, patches
from tests.engine.views import collected, tile_engine, tiled

BLENDS: list[Blend] = ["gaussian", "linear", "mean", "crop"]


@settings(max_examples=40)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 300),
    stride=st.sampled_from([1, 2, 3, 4, 8]),
    tiles=st.integers(3, 9),
    overlap=st.sampled_from([0, 3, 8]),
    blend=st.sampled_from(BLENDS),
    network_stride=st.sampled_from([1, 2, 4]),
)
def test_answers_of_patches_equal_the_whole_picture_under_every_blend(
    height: int, width: int, stride: int, tiles: int, overlap: int, blend: Blend, network_stride: int
) -> None:
    model = ForeignModel(patches(stride), stride=stride, network_stride=network_stride)
    image_HWC = noise(height, width)
    tile = -(-(2 * overlap + 12 * tiles) // stride) * stride
    whole_KHW = model.by_hand(filled(image_HWC, stride))

    probs_KHW = collected(tile_engine(image_HWC, model, tile=tile, overlap=overlap, blend=blend, probs=True))

    assert probs_KHW.shape == whole_KHW.shape == (3, -(-height // stride), -(-width // stride))
    assert np.abs(probs_KHW - whole_KHW).max() < 1e-5


@settings(max_examples=30)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 260),
    stride=st.sampled_from([1, 2, 4]),
    multiple=st.sampled_from([1, 2, 3, 8]),
    wide=st.integers(0, 3),
)
def test_crop_with_a_halo_of_the_receptive_field_equals_the_whole_picture(
    height: int, width: int, stride: int, multiple: int, wide: int
) -> None:
    model = ForeignModel(context(stride), stride=stride, multiple=multiple)
    image_HWC = noise(height, width)
    unit = int(np.lcm(stride, multiple))
    tile = 48 + 24 * wide
    whole_KHW = model.by_hand(filled(image_HWC, unit))[:, : -(-height // stride), : -(-width // stride)]

    engine = tile_engine(image_HWC, model, tile=tile, overlap=8, blend="crop", probs=True)
    probs_KHW = collected(engine)

    assert np.abs(probs_KHW - whole_KHW).max() < 1e-5
    assert all(shape[2] % unit == 0 and shape[3] % unit == 0 for shape in model.seen)


def test_less_than_the_receptive_field_does_not_equal_the_whole_picture() -> None:
    """What the test above can see."""
    model = ForeignModel(context(4), stride=4)
    image_HWC = noise(200, 260)

    probs_KHW = collected(tile_engine(image_HWC, model, tile=48, overlap=0, blend="crop", probs=True))

    assert np.abs(probs_KHW - model.by_hand(image_HWC)).max() > 1e-2


@settings(max_examples=25)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 200),
    blend=st.sampled_from(BLENDS),
    stride=st.sampled_from([1, 4]),
)
def test_a_model_of_one_size_sees_that_size_only_and_tiles_are_filled_at_the_edge(
    height: int, width: int, blend: Blend, stride: int
) -> None:
    """Without an overlap each tile is alone: the reference is a plain loop over them."""
    model = ForeignModel(context(stride), stride=stride, size=(32, 48))
    image_HWC = noise(height, width)
    tiling = tiling_of(model.spec, tile=Size(32, 48), overlap=0, blend=blend)
    big_HWC = np.pad(image_HWC, ((0, 32), (0, 48), (0, 0)), mode="edge")
    rows = [
        np.concatenate([model.by_hand(big_HWC[y : y + 32, x : x + 48]) for x in range(0, width, 48)], axis=2)
        for y in range(0, height, 32)
    ]
    whole_KHW = np.concatenate(rows, axis=1)[:, : -(-height // stride), : -(-width // stride)]

    probs_KHW = collected(tiled(image_HWC, model, tiling, probs=True))

    assert {shape[2:] for shape in model.seen} == {(32, 48)}
    assert np.abs(probs_KHW - whole_KHW).max() < 1e-5


@pytest.mark.parametrize("blend", BLENDS)
def test_a_model_of_one_size_may_overlap(blend: Blend) -> None:
    model = ForeignModel(patches(2), stride=2, size=(32, 48), network_stride=4)
    image_HWC = noise(121, 203)
    tiling = tiling_of(model.spec, tile=Size(32, 48), overlap=6, blend=blend)

    probs_KHW = collected(tiled(image_HWC, model, tiling, probs=True))

    assert tiling.step == (20, 36)
    assert {shape[2:] for shape in model.seen} == {(32, 48)}
    assert np.abs(probs_KHW - model.by_hand(filled(image_HWC, 2))).max() < 1e-5


@pytest.mark.parametrize(
    ("model", "tile", "overlap", "height"),
    [
        (ForeignModel(context(2), stride=2), 128, 8, 1201),
        (ForeignModel(context(2), stride=2, size=(128, 128)), 128, 12, 1201),
        (ForeignModel(classifier(3), task="classification"), 8, 3, 41),
    ],
    ids=["coarse", "fixed", "classifier"],
)
def test_going_on_after_some_blocks_and_in_strips_gives_the_same_bits(
    model: ForeignModel, tile: int, overlap: int, height: int
) -> None:
    image_HWC = noise(height, 1301)
    engine = tile_engine(image_HWC, model, tile=tile, overlap=overlap, probs=True)
    across = -(-engine.size.width // 512)
    assert across == 2
    cut = {"batch": 3, "strips": [0, 512]}
    strips = tile_engine(image_HWC, model, tile=tile, overlap=overlap, probs=True, repeat=cut)
    blocks = list(strips.blocks())
    assert len(blocks) == 2 * -(-engine.size.height // 512)

    whole_KHW = collected(engine)
    for block in blocks:
        box = block.box
        assert block.probs_KHW is not None
        assert np.abs(block.probs_KHW - whole_KHW[:, box.y0 : box.y1, box.x0 : box.x1]).max() < 1e-6
    for finished in range(1, len(blocks)):
        rest = list(strips.blocks([block.box for block in blocks[:finished]]))
        assert [block.box for block in rest] == [block.box for block in blocks[finished:]]
        for once, again in zip(blocks[finished:], rest, strict=True):
            assert np.array_equal(once.labels_HW, again.labels_HW)
            assert np.array_equal(once.probs_KHW, again.probs_KHW)  # type: ignore[arg-type]


@pytest.mark.parametrize("stride", [2, 8])
def test_a_small_budget_makes_strips_of_the_mask(stride: int) -> None:
    """With a stride of 8 the pixels of the slide alone are over the budget, the mask's would fit in it."""
    model = ForeignModel(patches(stride), stride=stride)
    image_HWC = np.zeros((8, 100_000, 3), np.uint8)
    budget = peak_resident_bytes() + (300 << 20)

    engine = tile_engine(image_HWC, model, tile=512, overlap=64, batch=1, max_ram_bytes=budget)

    assert len(engine.plan.strips) > 1
    assert engine.plan.strips[-1][1] == engine.size.width == 100_000 // stride
    assert sum(block.box.area_px for block in engine.blocks()) == 8 * 100_000 // stride**2


@pytest.mark.parametrize(
    "model",
    [
        ForeignModel(patches(2), stride=4),
        ForeignModel(patches(2), stride=2, task="classification"),
        ForeignModel(classifier(3)),
        ForeignModel(patches(2, classes=4), stride=2),
    ],
    ids=["stride", "classification", "segmentation", "classes"],
)
def test_an_answer_that_its_description_does_not_say_is_refused(model: ForeignModel) -> None:
    with pytest.raises(ModelError, match=r"model 'foreign' answers .* and not .*correct its task"):
        tile_engine(noise(64, 64), model, tile=64, overlap=0)


@pytest.mark.parametrize(
    ("model", "tile", "strips", "skipped"),
    [
        # 19 + 4 tiles across, of which those from 840 on are blank, the one on both strips counted twice.
        (ForeignModel(patches(2), stride=2), 64, [0, 512], 8 / 23),
        # 151 tiles across, of which those from 804 on are blank.
        (ForeignModel(classifier(3), task="classification"), 16, [0], 50 / 151),
    ],
    ids=["coarse", "classifier"],
)
def test_blank_pixels_are_counted_and_blank_tiles_skipped(
    model: ForeignModel, tile: int, strips: list[int], skipped: float
) -> None:
    """The right third is blank; a blank tile's answer is that of a tile of this colour."""
    image_HWC = noise(90, 1203)
    image_HWC[:, 802:] = 240
    background = Background((240.0, 240.0, 240.0), 0.0)
    shared: dict[str, Any] = {"tile": tile, "overlap": 4, "probs": True}
    plan = {"batch": 3, "strips": strips}

    plain = collected(tile_engine(image_HWC, model, **shared))
    skipping = tile_engine(image_HWC, model, background=background, repeat=plan, **shared)

    assert np.abs(collected(skipping) - plain).max() < 1e-5
    did = skipping.describe()
    assert did["blank_share"] == pytest.approx(401 / 1203, abs=1e-4)
    assert did["skipped_share"] == pytest.approx(skipped, abs=1e-4)
