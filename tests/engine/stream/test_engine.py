"""The stream engine against the network on the whole picture: blocks, strips, budgets, continued runs."""

from __future__ import annotations

import logging
from collections.abc import Collection

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from axialcli.engine.background import Background
from axialcli.engine.stream import StreamEngine, refusal
from axialcli.engine.stream.budget import UNSEEN_BYTES, make_budget
from axialcli.errors import LimitError
from axialcli.geometry import Box, Size
from tests.engine.stream.models import NetworkModel
from tests.engine.stream.networks import UNet, randomised
from tests.engine.views import ArrayView
from tests.networks import small_model

PLENTY = 1 << 40
UNET = NetworkModel(randomised(UNet(depth=2), 0))


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make(image_HWC: NDArray[np.uint8], model: NetworkModel = UNET, **settings: object) -> StreamEngine:
    budget = settings.pop("max_ram_bytes", PLENTY)
    return StreamEngine(ArrayView(image_HWC), model, max_ram_bytes=budget, **settings)  # type: ignore[arg-type]


def cut(count: int, width: int, rows_px: int = 16) -> dict[str, object]:
    """The notes of a plan with that many strips."""
    across = -(-width // 512)
    return {"rows_px": rows_px, "strips": [index * across // count * 512 for index in range(count)]}


def collect(
    engine: StreamEngine, done: Collection[Box] = ()
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Labels (255 where no block came) and probabilities; every block comes once, on the mask's grid."""
    height, width = engine.view.size
    labels_HW = np.full((height, width), 255, np.uint8)
    probs_KHW = np.zeros((2, height, width), np.float32)
    boxes = [box for box in engine.boxes() if box not in set(done)]
    for block in engine.blocks(done):
        assert block.box == boxes.pop(0)
        assert block.box.y0 % 512 == 0
        assert block.box.x0 % 512 == 0
        inside = (slice(block.box.y0, block.box.y1), slice(block.box.x0, block.box.x1))
        assert (labels_HW[inside] == 255).all()
        labels_HW[inside] = block.labels_HW
        assert block.probs_KHW is not None
        probs_KHW[(slice(None), *inside)] = block.probs_KHW
    assert not boxes
    return labels_HW, probs_KHW


def whole(image_HWC: NDArray[np.uint8], model: NetworkModel = UNET) -> NDArray[np.float32]:
    return model.predict(np.moveaxis(image_HWC, 2, 0)[None])[0]


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(16, 1100),
    width=st.integers(16, 300),
    rows=st.sampled_from([4, 8, 64, 2048]),
)
def test_blocks_are_the_networks_own_answer(height: int, width: int, rows: int) -> None:
    image_HWC = noise(height, width)
    labels_HW, probs_KHW = collect(make(image_HWC, probs=True, repeat=cut(1, width, rows)))
    expected_KHW = whole(image_HWC)
    np.testing.assert_allclose(probs_KHW, expected_KHW, rtol=0, atol=1e-5)
    tie_HW = np.abs(expected_KHW[1] - expected_KHW[0]) < 2e-4
    assert ((labels_HW == expected_KHW.argmax(0)) | tie_HW).all()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_column_strips_change_nothing(count: int) -> None:
    image_HWC = noise(70, 1500)
    engine = make(image_HWC, probs=True, repeat=cut(count, 1500))
    assert len({box.x0 for box in engine.boxes()}) == count
    np.testing.assert_allclose(collect(engine)[1], whole(image_HWC), rtol=0, atol=1e-5)


def test_every_subset_of_blocks_can_be_done_already() -> None:
    image_HWC = noise(4 * 512 + 60, 90)
    labels_HW, probs_KHW = collect(make(image_HWC, probs=True, repeat=cut(1, 90)))
    boxes = make(image_HWC).boxes()
    for done in ([boxes[0]], boxes[:3], boxes[1:3], [boxes[0], boxes[2], boxes[4]], boxes):
        again_HW, again_KHW = collect(make(image_HWC, probs=True, repeat=cut(1, 90)), done)
        for box in set(boxes) - set(done):
            rows = slice(box.y0, box.y1)
            assert np.array_equal(again_HW[rows], labels_HW[rows])
            assert np.array_equal(again_KHW[:, rows], probs_KHW[:, rows])


def test_a_continued_run_reads_no_more_than_twice_the_receptive_field_above() -> None:
    image_HWC = noise(8 * 512, 64)
    engine = make(image_HWC, repeat=cut(1, 64, 16))
    boxes = engine.boxes()
    assert len(list(engine.blocks(boxes[:6]))) == 2
    first = min(box.y0 for box in engine.view.read_boxes)  # type: ignore[attr-defined]
    field = 22
    assert 6 * 512 - 2 * (field + 16 * 9) <= first < 6 * 512 - field


def test_pixels_are_read_once() -> None:
    image_HWC = noise(900, 128)
    engine = make(image_HWC)
    list(engine.blocks())
    boxes: list[Box] = engine.view.read_boxes  # type: ignore[attr-defined]
    assert sum(box.area_px for box in boxes) == 900 * 128


def test_a_small_budget_lowers_the_steps_then_cuts_strips(caplog: pytest.LogCaptureFixture) -> None:
    image_HWC = np.zeros((600, 8192, 3), np.uint8)
    plenty = make(image_HWC).plan
    from axialcli.engine.memory import resident_bytes
    from axialcli.engine.stream.engine import SPARE_BYTES

    fixed = resident_bytes() + SPARE_BYTES + UNSEEN_BYTES
    with caplog.at_level(logging.INFO, "axial"):
        plans = [
            make(image_HWC, max_ram_bytes=fixed + (mib << 20)).plan for mib in (1000, 100, 60, 40, 25, 15)
        ]
        next(iter(make(image_HWC, max_ram_bytes=fixed + (20 << 20)).blocks()))
    assert plans[0] == plenty
    strips = [len(plan.strips) for plan in plans]
    heights = [plan.rows_px for plan in plans]
    assert strips == sorted(strips)
    assert strips[-1] > 1
    for (narrow, low), (wide, high) in zip(
        zip(strips[1:], heights[1:], strict=True), zip(strips, heights, strict=False), strict=False
    ):
        assert narrow > wide or low <= high
    assert "% of the width is computed twice" in caplog.text
    with pytest.raises(LimitError, match=r"memory of .* is too little"):
        make(image_HWC, max_ram_bytes=fixed + (1 << 20))


def test_windows_carry_the_logits() -> None:
    image_HWC = noise(700, 300)
    windows = (Box(0, 0, 100, 100), Box(450, 256, 512, 300), Box(512, 17, 700, 40))
    found = {
        window: logits_KHW
        for block in make(image_HWC, windows=windows).blocks()
        for window, logits_KHW in block.windows
    }
    expected_KHW = UNET.predict(np.moveaxis(image_HWC, 2, 0)[None], logits=True)[0]
    assert set(found) == set(windows)
    for (y0, x0, y1, x1), logits_KHW in found.items():
        np.testing.assert_allclose(logits_KHW, expected_KHW[:, y0:y1, x0:x1], rtol=0, atol=1e-4)


def test_background_is_filled_and_skipped() -> None:
    image_HWC = noise(1200, 900)
    image_HWC[100:, 250:] = 243
    image_HWC[700:, :] = 245
    image_HWC[900:1000, 600:700] = noise(100, 100, 1)
    filled_HWC, _ = Background((244.0,) * 3, 2).fill(image_HWC.copy())
    engine = make(image_HWC, probs=True, background=Background((244.0,) * 3, 2), repeat=cut(1, 900))
    labels_HW, probs_KHW = collect(engine)
    expected_HW, expected_KHW = collect(make(filled_HWC, probs=True, repeat=cut(1, 900)))
    np.testing.assert_allclose(probs_KHW, expected_KHW, rtol=0, atol=1e-5)
    tie_HW = np.abs(expected_KHW[1] - expected_KHW[0]) < 2e-4
    assert ((labels_HW == expected_HW) | tie_HW).all()
    said = engine.describe()
    assert said["blank_share"] == pytest.approx((filled_HWC == 244).all(2).mean(), abs=1e-4)
    assert 0.4 < said["skipped_share"] < said["blank_share"]


def test_what_cannot_be_streamed_is_named() -> None:
    pooled = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1))
    said = refusal(NetworkModel(pooled), Size(100, 100))
    assert said is not None
    assert "AdaptiveAvgPool2d" in said
    assert refusal(UNET, Size(100, 100)) is None
    assert refusal(small_model(), Size(100, 100)) is None


class Turned(nn.Module):
    """Answers with height and width exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x).permute(0, 1, 3, 2)


@pytest.mark.parametrize(
    ("network", "size", "said"),
    [
        (nn.Sequential(nn.Conv2d(3, 2, 4, stride=2, padding=1)), Size(100, 150), "it answers [1, 2, 50, 75]"),
        (nn.Sequential(nn.Conv2d(3, 2, 3)), Size(100, 150), "it answers [1, 2, 98, 148]"),
        (nn.Sequential(nn.Conv2d(3, 4, 1)), Size(100, 150), "it answers [1, 4, 100, 150]"),
        (Turned(), Size(100, 150), "it answers [1, 2, 150, 100]"),
    ],
)
def test_an_answer_of_another_shape_is_named(network: nn.Module, size: Size, said: str) -> None:
    wanted = f"{said} for a picture of 100 x 150, and not [1, 2, 100, 150]"
    assert refusal(NetworkModel(network), size) == wanted


def test_an_answer_on_its_side_is_named_on_a_square_picture_too() -> None:
    said = refusal(NetworkModel(Turned()), Size(100, 100))
    assert said == "it answers with rows and columns in another order"


def test_on_a_gpu_its_own_free_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device: 100 MB are free, and of 50 MB that its allocator holds 40 are in use."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100_000_000, 1 << 40))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50_000_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 40_000_000)
    cuda = torch.device("cuda")

    def free(device: torch.device, most: int, given: bool) -> tuple[int, bool]:
        budget = make_budget(device, max_ram_bytes=most, given=given, spare_bytes=0)
        return budget.free_bytes, budget.on_device

    assert free(cuda, 1 << 40, False) == (99_000_000, True)
    assert free(cuda, 1, False) == (99_000_000, True)
    assert free(cuda, 1 << 40, True) == (99_000_000, True)
    small, on_device = free(cuda, 1, True)
    assert (small < 0, on_device) == (True, False)
    assert free(torch.device("cpu"), 1 << 40, False)[0] > 1 << 39


def test_cancel_stops_between_steps() -> None:
    engine = make(noise(4096, 64), repeat=cut(1, 64))
    blocks = engine.blocks()
    next(blocks)
    engine.cancel()
    assert list(blocks) == []


def test_a_grey_picture_is_replicated() -> None:
    grey_HWC = noise(100, 80)[..., :1]
    _, probs_KHW = collect(make(grey_HWC, probs=True))
    np.testing.assert_allclose(probs_KHW, whole(grey_HWC), rtol=0, atol=1e-5)


def test_double_precision() -> None:
    model = NetworkModel(randomised(UNet(depth=2), 3), dtype=torch.float64)
    image_HWC = noise(300, 120)
    window = (Box(0, 0, 300, 120),)
    (block,) = make(image_HWC, model, windows=window, repeat=cut(1, 120)).blocks()
    expected_KHW = model.predict(np.moveaxis(image_HWC, 2, 0)[None], logits=True)[0]
    # Handed out in single precision.
    np.testing.assert_allclose(block.windows[0][1], expected_KHW, rtol=1e-6, atol=1e-6)
