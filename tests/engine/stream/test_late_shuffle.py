"""Classes that are decided before the last shuffle against those of the shuffled logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.backends.spec import OutputSpec
from axialcli.config import ClassInfo
from axialcli.engine.background import Background
from axialcli.engine.stream import StreamEngine
from axialcli.engine.stream.late_shuffle import LateShuffle, put_off
from axialcli.engine.stream.trace import trace
from axialcli.geometry import Block, Box, Size
from tests.engine.stream.models import NetworkModel
from tests.engine.stream.networks import randomised
from tests.engine.views import ArrayView

PLENTY = 1 << 40


class EndsWithShuffle(nn.Module):
    """A convolution, and four or nine pixels from each position."""

    def __init__(self, classes: int, side: int, *, crop: bool = False) -> None:
        super().__init__()
        self.side, self.crop = side, crop
        self.down = nn.Conv2d(3, 6, 5, stride=side, padding=2)
        self.head = nn.Conv2d(6, classes * side**2, 3, padding=1)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        made_BKHW = F.pixel_shuffle(self.head(self.down(image_BCHW)), self.side)
        return made_BKHW[:, :, : image_BCHW.shape[2], : image_BCHW.shape[3]] if self.crop else made_BKHW


def model_of(network: nn.Module, classes: int, output: OutputSpec) -> NetworkModel:
    model = NetworkModel(randomised(network, 0))
    infos = tuple(ClassInfo(name=f"class {label}", colour=(label, 0, 0)) for label in range(classes))
    model.spec = replace(model.spec, classes=infos, output=output)
    return model


def blocks_of(model: NetworkModel, image_HWC: np.ndarray, **settings: object) -> Iterator[Block]:
    engine = StreamEngine(ArrayView(image_HWC), model, max_ram_bytes=PLENTY, **settings)  # type: ignore[arg-type]
    return engine.blocks()


def joined(model: NetworkModel, image_HWC: np.ndarray, **settings: object) -> np.ndarray:
    labels_HW = np.zeros(image_HWC.shape[:2], np.uint16)
    for block in blocks_of(model, image_HWC, **settings):
        labels_HW[block.box.y0 : block.box.y1, block.box.x0 : block.box.x1] = block.labels_HW
    return labels_HW


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("side", [1, 2, 4])
@pytest.mark.parametrize(
    ("classes", "output"),
    [
        (2, OutputSpec()),
        (3, OutputSpec()),
        (300, OutputSpec()),
        (2, OutputSpec(activation="sigmoid")),
        (2, OutputSpec(threshold=0.8)),
    ],
    ids=["two", "three", "many", "sigmoid", "threshold"],
)
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_squares_are_decided_as_their_pixels_are(
    side: int, classes: int, output: OutputSpec, together: bool, memory_format: torch.memory_format
) -> None:
    model = model_of(nn.Identity(), classes, output)
    logits = 1 if output.activation == "sigmoid" else classes
    generator = torch.Generator().manual_seed(side)
    given = torch.randn(1, logits * side**2, 7, 10, generator=generator).to(memory_format=memory_format)
    late = LateShuffle(side, together)

    pixels_BKHW = F.pixel_shuffle(given, side)
    if together:
        given = given.view(logits, side**2, 7, 10).transpose(0, 1).reshape(given.shape)
        given = given.contiguous(memory_format=memory_format)
    assert torch.equal(late.pixels(given), pixels_BKHW)
    expected_HW = model.decide(model.activate(pixels_BKHW)[0])
    found_HW = late.labels(model, given)
    assert found_HW.dtype == expected_HW.dtype
    assert torch.equal(found_HW, expected_HW)


def test_a_shuffle_at_the_end_is_put_off() -> None:
    for crop, size in ((False, Size(96, 96)), (True, Size(95, 93))):
        whole = trace(EndsWithShuffle(2, 2, crop=crop).eval(), 3, size)
        graph, late = put_off(whole)
        assert late == LateShuffle(2, together=True)
        assert len(graph.nodes) == len(whole.nodes) - 1 - crop
        assert graph.nodes[graph.outputs[0]].plane.shape == (1, 8, 48, -(-size.width // 2))


def test_other_shuffles_are_not() -> None:
    """Three pixels do not divide the side of a mask's tile; a crop may begin in the middle of a square."""
    for network in (
        EndsWithShuffle(2, 3),
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.PixelShuffle(2), nn.ZeroPad2d((-1, 0, 0, 0))),
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.PixelShuffle(2), nn.ReLU()),
    ):
        whole = trace(network.eval(), 3, Size(96, 96))
        assert put_off(whole) == (whole, LateShuffle())


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("side", [2, 3, 4])
@pytest.mark.parametrize("size", [(1080, 1140), (1081, 1142), (1083, 1141)])
@pytest.mark.parametrize("background", [None, Background(colour_C=(9, 9, 9), tolerance=0)])
def test_the_engine_gives_the_networks_own_classes(
    classes: int, side: int, size: tuple[int, int], background: Background | None
) -> None:
    model = model_of(EndsWithShuffle(classes, side, crop=True), classes, OutputSpec())
    image_HWC = noise(*size)
    image_HWC[300:700, 200:1000] = 9
    with torch.inference_mode():
        logits_BKHW = model.network(model.normalise(torch.from_numpy(image_HWC).permute(2, 0, 1)[None]))  # type: ignore[misc]
    top_BKHW = logits_BKHW.topk(2, 1).values
    clear_HW = (top_BKHW[0, 0] - top_BKHW[0, 1] > 1e-4).numpy()
    expected_HW = logits_BKHW[0].argmax(0).numpy()
    window = Box(512, 512, 600, 700)

    plain_HW = joined(model, image_HWC, background=background)
    assert np.array_equal(plain_HW[clear_HW], expected_HW[clear_HW])
    asked = list(blocks_of(model, image_HWC, background=background, probs=True, windows=[window]))
    for block in asked:
        inside = np.s_[block.box.y0 : block.box.y1, block.box.x0 : block.box.x1]
        assert np.array_equal(block.labels_HW, plain_HW[inside])
        assert block.probs_KHW is not None
        expected_KHW = logits_BKHW[0].softmax(0)[(slice(None), *inside)].numpy()
        np.testing.assert_allclose(block.probs_KHW, expected_KHW, atol=1e-5)
    (logits_KHW,) = [found for block in asked for box, found in block.windows if box == window]
    np.testing.assert_allclose(logits_KHW, logits_BKHW[0, :, 512:600, 512:700].numpy(), atol=1e-4)


@pytest.mark.parametrize("size", [(1064, 1530), (1061, 1527)])
def test_strips_and_a_gap_give_the_same_and_count_pixels(size: tuple[int, int]) -> None:
    """The widths of the strips leave other remainders to the network's strides than the slide's."""
    model = model_of(EndsWithShuffle(2, 4, crop=True), 2, OutputSpec())
    image_HWC = noise(*size)
    image_HWC[100:900, 60:1500] = 9
    blank = Background(colour_C=(9, 9, 9), tolerance=0)
    once_HW = joined(model, image_HWC, background=blank)

    engine = StreamEngine(
        ArrayView(image_HWC),
        model,
        max_ram_bytes=PLENTY,
        background=blank,
        repeat={"rows_px": 16, "strips": [0, 512, 1024]},
    )
    boxes = engine.boxes()
    done = {boxes[0], boxes[4], boxes[7]}
    for block in engine.blocks(done):
        inside = np.s_[block.box.y0 : block.box.y1, block.box.x0 : block.box.x1]
        assert np.array_equal(block.labels_HW, once_HW[inside])
        boxes.remove(block.box)
    assert set(boxes) == done
    assert engine._output_px % 16 == 0
    assert 0.3 < engine.describe()["skipped_share"] < 0.8
