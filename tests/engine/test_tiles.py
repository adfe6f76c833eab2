"""The tile engine against the whole picture at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from axialcli.backends import Model
from axialcli.config import Blend
from axialcli.engine import TileEngine
from axialcli.engine.memory import peak_resident_bytes
from axialcli.errors import LimitError
from axialcli.geometry import Box
from tests.engine.views import tile_engine
from tests.networks import small_model

NULL = small_model(classes=3)


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def collect(engine: TileEngine, done: tuple[Box, ...] = ()) -> NDArray[np.uint8]:
    """The mask, 255 where no block came; every block comes once and starts on the mask's grid."""
    labels_HW = np.full(engine.view.size, 255, np.uint8)
    for block in engine.blocks(done):
        assert block.box.y0 % 512 == 0
        assert block.box.x0 % 512 == 0
        part = labels_HW[block.box.y0 : block.box.y1, block.box.x0 : block.box.x1]
        assert part.shape == block.labels_HW.shape
        assert (part == 255).all()
        part[:] = block.labels_HW
    return labels_HW


def strips_of(engine: TileEngine, count: int) -> TileEngine:
    """The same engine with the width cut into `count` strips, whatever the memory."""
    tiles_across = -(-engine.view.size.width // 512)
    edges = [index * tiles_across // count * 512 for index in range(count)]
    columns = engine.plan.strips[0][2]
    engine.plan.strips[:] = [
        (x0, x1, [span for span in columns if span.start < x1 and span.stop > x0])
        for x0, x1 in zip(edges, [*edges[1:], engine.view.size.width], strict=True)
    ]
    return engine


def make(
    image_HWC: NDArray[np.uint8],
    model: Model,
    *,
    tile: int = 512,
    overlap: int = 64,
    blend: Blend = "gaussian",
    batch: int | None = 3,
    probs: bool = False,
) -> TileEngine:
    return tile_engine(image_HWC, model, tile=tile, overlap=overlap, blend=blend, batch=batch, probs=probs)


@settings(max_examples=60, deadline=None)
@given(
    height=st.one_of(st.integers(1, 400), st.sampled_from([511, 512, 513, 383, 384, 385])),
    width=st.one_of(st.integers(1, 400), st.sampled_from([511, 512, 513, 383, 384, 385, 1025])),
    tile=st.sampled_from([64, 200, 512]),
    overlap=st.sampled_from([0, 1, 8, 23]),
    blend=st.sampled_from(["gaussian", "linear", "mean", "crop"]),
    batch=st.integers(1, 5),
    strips=st.integers(1, 3),
)
def test_a_network_of_single_pixels_gives_the_mask_of_the_whole_picture(
    height: int, width: int, tile: int, overlap: int, blend: Blend, batch: int, strips: int
) -> None:
    image_HWC = noise(height, width)
    whole_KHW = NULL.predict(image_HWC.transpose(2, 0, 1)[None])[0]
    engine = make(image_HWC, NULL, tile=tile, overlap=overlap, blend=blend, batch=batch)
    engine = strips_of(engine, min(strips, -(-width // 512)))

    labels_HW = collect(engine)

    first, second = np.sort(whole_KHW, axis=0)[[-1, -2]]
    tie_HW = first - second < 2e-4
    assert tie_HW.mean() < 0.01
    assert ((labels_HW == whole_KHW.argmax(0)) | tie_HW).all()


def test_probabilities_are_those_of_the_whole_picture() -> None:
    image_HWC = noise(600, 1100)
    whole_KHW = NULL.predict(image_HWC.transpose(2, 0, 1)[None])[0]

    for block in make(image_HWC, NULL, tile=128, overlap=20, probs=True).blocks():
        box = block.box
        assert block.probs_KHW is not None
        difference = block.probs_KHW - whole_KHW[:, box.y0 : box.y1, box.x0 : box.x1]
        assert np.abs(difference).max() < 1e-5


@pytest.mark.parametrize(("height", "width"), [(500, 640), (321, 777)])
def test_crop_with_a_halo_of_the_receptive_field_equals_the_whole(height: int, width: int) -> None:
    model = small_model("axial_segmenter", width=(4, 8, 8), depth=1, heads=2, span=7)
    field = model.spec.receptive_field_px
    assert field == 54
    image_HWC = noise(height, width)
    whole_KHW = model.predict(image_HWC.transpose(2, 0, 1)[None])[0]

    for block in make(image_HWC, model, tile=192, overlap=56, blend="crop", probs=True).blocks():
        box = block.box
        assert block.probs_KHW is not None
        difference = block.probs_KHW - whole_KHW[:, box.y0 : box.y1, box.x0 : box.x1]
        assert np.abs(difference).max() < 2e-6


def test_a_halo_smaller_than_the_receptive_field_does_not_equal_the_whole() -> None:
    """What the test above can see: with half the halo it would fail."""
    model = small_model("axial_segmenter", width=(4, 8, 8), depth=1, heads=2, span=7)
    image_HWC = noise(500, 640)
    whole_KHW = model.predict(image_HWC.transpose(2, 0, 1)[None])[0]

    worst = 0.0
    for block in make(image_HWC, model, tile=192, overlap=24, blend="crop", probs=True).blocks():
        box = block.box
        assert block.probs_KHW is not None
        difference = block.probs_KHW - whole_KHW[:, box.y0 : box.y1, box.x0 : box.x1]
        worst = max(worst, float(np.abs(difference).max()))

    assert worst > 1e-5


@pytest.mark.parametrize("finished", range(6))
def test_going_on_after_some_blocks_gives_the_same_bits(finished: int) -> None:
    model = small_model("axial_segmenter", width=(4, 8, 8), depth=1, heads=2, span=7)
    image_HWC = noise(1400, 1100)
    engine = strips_of(make(image_HWC, model, tile=256, overlap=32, probs=True), 2)
    blocks = list(engine.blocks())

    rest = list(engine.blocks([block.box for block in blocks[:finished]]))

    assert [block.box for block in rest] == [block.box for block in blocks[finished:]]
    for once, again in zip(blocks[finished:], rest, strict=True):
        assert np.array_equal(once.labels_HW, again.labels_HW)
        assert np.array_equal(once.probs_KHW, again.probs_KHW)  # type: ignore[arg-type]


def test_each_row_of_pixels_is_read_once() -> None:
    engine = make(noise(2000, 300), NULL)
    collect(engine)

    boxes = engine.view.read_boxes  # type: ignore[attr-defined]

    assert [box.y0 for box in boxes[1:]] == [box.y1 for box in boxes[:-1]]
    assert boxes[-1].y1 == 2000


def test_a_budget_smaller_than_the_width_needs_makes_strips() -> None:
    image_HWC = np.zeros((8, 100_000, 3), np.uint8)
    budget = peak_resident_bytes() + (300 << 20)
    engine = tile_engine(image_HWC, NULL, tile=512, overlap=64, batch=1, max_ram_bytes=budget)

    assert len(engine.plan.strips) > 1
    assert engine.plan.strips[0][0] == 0
    assert engine.plan.strips[-1][1] == 100_000
    assert (collect(engine) < 3).all()


def test_a_budget_below_the_narrowest_strip_is_refused() -> None:
    with pytest.raises(LimitError, match="--max-ram of 100 MiB is too little"):
        tile_engine(noise(600, 600), NULL, tile=512, overlap=64, batch=1, max_ram_bytes=100 << 20)
