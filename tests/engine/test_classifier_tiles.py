"""Classifiers in the tile engine, one pixel of the mask per tile, against naive loops."""

from __future__ import annotations

import numpy as np
import pytest

from axialcli.engine import tiling_of
from axialcli.engine.memory import peak_resident_bytes
from axialcli.geometry import Size
from tests.engine.foreign import ForeignModel, classifier, noise, pixels_of_tile
from tests.engine.views import collected, tile_engine, tiled


@pytest.mark.parametrize(
    ("height", "width"), [(5 * 32 + 9, 7 * 32 + 20), (160, 224), (32, 32), (10, 40), (33, 2)]
)
@pytest.mark.parametrize("overlap", [0, 5, 12])
def test_a_classifier_answers_one_pixel_per_tile(height: int, width: int, overlap: int) -> None:
    model = ForeignModel(classifier(), classes=4, task="classification", size=(32, 32))
    image_HWC = noise(height, width)
    step = 32 - 2 * overlap
    rows, columns = -(-height // step), -(-width // step)
    want_KHW = np.empty((4, rows, columns), np.float32)
    for row in range(rows):
        for column in range(columns):
            y, x = (
                pixels_of_tile(row * step - overlap, height, 32),
                pixels_of_tile(column * step - overlap, width, 32),
            )
            want_KHW[:, row, column] = model.by_hand(image_HWC[np.ix_(y, x)])

    engine = tile_engine(image_HWC, model, tile=32, overlap=overlap, probs=True)
    probs_KHW = collected(engine, 4)

    assert probs_KHW.shape == want_KHW.shape
    assert np.abs(probs_KHW - want_KHW).max() < 1e-5
    assert {shape[2:] for shape in model.seen} == {(32, 32)}
    labels_HW = np.concatenate([block.labels_HW for block in engine.blocks()])
    assert (labels_HW == want_KHW.argmax(0)).all()


def test_the_classifier_of_these_tests_tells_tiles_apart() -> None:
    """Otherwise every mask above would be one colour, wherever its pixels came from."""
    model = ForeignModel(classifier(), classes=4, task="classification", size=(32, 32))

    (block,) = tile_engine(noise(320, 320), model, tile=32, overlap=0).blocks()

    assert len(np.unique(block.labels_HW)) >= 2


def test_a_classifier_of_any_size_takes_tiles_of_two_sides() -> None:
    model = ForeignModel(classifier(), classes=4, task="classification")
    tiling = tiling_of(model.spec, tile=Size(40, 64), overlap=2)

    engine = tiled(noise(200, 200), model, tiling, probs=True)

    assert engine.size == (-(-200 // 36), -(-200 // 60))
    assert collected(engine, 4).shape == (4, 6, 4)
    assert {shape[2:] for shape in model.seen} == {(40, 64)}


@pytest.mark.parametrize("overlap", [0, 12])
def test_each_row_of_pixels_is_read_once_by_a_classifier(overlap: int) -> None:
    model = ForeignModel(classifier(3), task="classification")
    engine = tile_engine(noise(500, 90), model, tile=32, overlap=overlap)
    list(engine.blocks())

    boxes = engine.view.read_boxes  # type: ignore[attr-defined]

    assert boxes[0].y0 == 0
    assert [box.y0 for box in boxes[1:]] == [box.y1 for box in boxes[:-1]]
    assert boxes[-1].y1 == 500


def test_a_classifier_needs_no_memory_for_a_mask_tile_wider_than_its_slide() -> None:
    """A whole tile of such a mask would be 262144 pixels of the slide wide: 1.6 GB of slabs."""
    model = ForeignModel(classifier(3), task="classification")
    budget = peak_resident_bytes() + (300 << 20)

    engine = tile_engine(noise(600, 900), model, tile=512, overlap=0, batch=1, max_ram_bytes=budget)

    assert [strip[:2] for strip in engine.plan.strips] == [(0, 2)]
