"""Axial networks of every configuration through the stream, against the network on the whole picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from axialcli.backends import load_model
from axialcli.engine.background import Background
from axialcli.engine.stream import StreamEngine, refusal, trace
from axialcli.engine.stream.flow import Flow
from axialcli.engine.stream.heights import heights, pixels_of_a_step
from axialcli.engine.stream.plan import low_graph
from axialcli.engine.stream.schedule import make_schedule
from axialcli.engine.stream.sparse import SparseFlow
from axialcli.geometry import Box, Size
from axialcli.nn import build_network
from tests.engine.stream import test_flow, test_sparse
from tests.engine.stream.models import NetworkModel
from tests.engine.stream.networks import randomised
from tests.engine.stream.test_engine import PLENTY, cut, noise, whole
from tests.engine.views import ArrayView, tile_engine

SMALL = {"width": [4, 6, 8], "heads": 2}


def segmenter(dtype: torch.dtype = torch.float64, seed: int = 0, **config: Any) -> torch.nn.Module:
    return randomised(build_network("axial_segmenter", **{**SMALL, **config}), seed, dtype)


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Settings of an axial network that can be streamed without a barrier."""
    depth = draw(st.integers(1, 3))
    axis = st.sampled_from(["", "width", "height"])
    return {
        "depth": depth,
        "attention": draw(st.sampled_from(["axial", "axial", "split_heads"])),
        "span": draw(st.sampled_from([1, 3, 5, 9])),
        "width": draw(st.sampled_from([[4, 6, 8], [4, 6, 8, 12]])),
        "positions": draw(st.sampled_from(["bias", "rotary", "none"])),
        "order": draw(st.sampled_from(["width_height", "height_width", "parallel"])),
        "feed_forward": draw(st.sampled_from(["both", "each"])),
        "shared": draw(st.booleans()),
        "window": draw(st.sampled_from([0, 0, 3])),
        "skip": draw(st.lists(axis, min_size=depth, max_size=depth)) if draw(st.booleans()) else [],
    }


def legal(config: dict[str, Any]) -> bool:
    """The pairs that the network refuses are its own tests' business."""
    try:
        build_network("axial_segmenter", **{**SMALL, **config})
    except Exception:  # noqa: BLE001 - whatever it refuses
        return False
    return True


calm = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)


@calm
@given(
    config=configurations(),
    height=st.integers(1, 260),
    width=st.integers(1, 90),
    rows=st.sampled_from([1, 2, 5, 100]),
)
def test_the_stream_is_the_network(config: dict[str, Any], height: int, width: int, rows: int) -> None:
    assume(legal(config))
    image_BCHW = test_flow.picture(height, width)
    network = segmenter(**config)
    torch.testing.assert_close(
        test_flow.streamed(network, image_BCHW, rows),
        test_flow.whole(network, image_BCHW),
        rtol=0,
        atol=1e-9,
    )
    single = image_BCHW.float().contiguous(memory_format=torch.channels_last)
    network = network.float()
    torch.testing.assert_close(
        test_flow.streamed(network, single, rows), test_flow.whole(network, single), rtol=0, atol=1e-4
    )


@calm
@given(
    config=configurations(),
    height=st.integers(8, 300),
    width=st.integers(8, 700),
    rows=st.sampled_from([1, 3]),
    where=test_sparse.spots,
)
def test_background_is_skipped_exactly(
    config: dict[str, Any], height: int, width: int, rows: int, where: list[tuple[float, float]]
) -> None:
    assume(legal(config))
    image_BCHW, blank_HW = test_sparse.spotted(height, width, where)
    network = segmenter(**config)
    found, _ = test_sparse.streamed(network, image_BCHW, blank_HW, rows)
    torch.testing.assert_close(found, test_flow.whole(network, image_BCHW), rtol=0, atol=1e-9)


def test_much_is_skipped_of_a_blank_picture() -> None:
    network = segmenter(depth=2, span=5)
    image_BCHW, blank_HW = test_sparse.spotted(400, 3000, [(0.5, 0.5)])
    found, flow = test_sparse.streamed(network, image_BCHW, blank_HW, 4)
    torch.testing.assert_close(found, test_flow.whole(network, image_BCHW), rtol=0, atol=1e-9)
    assert flow.skipped / flow.total > 0.75


@calm
@given(first_row=st.integers(0, 300), rows=st.sampled_from([1, 2, 5]), span=st.sampled_from([3, 9]))
def test_a_late_start_makes_the_same_bits(first_row: int, rows: int, span: int) -> None:
    network = segmenter(torch.float32, depth=2, span=span)
    image_BCHW = test_flow.picture(301, 40, torch.float32)
    everything = test_flow.streamed(network, image_BCHW, rows)
    assert torch.equal(test_flow.streamed(network, image_BCHW, rows, first_row), everything[:, :, first_row:])


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("window", [0, 3])
def test_column_strips_with_the_halo_change_nothing(count: int, window: int) -> None:
    model = NetworkModel(segmenter(torch.float32, depth=2, span=5, window=window))
    image_HWC = noise(90, 1500)
    engine = StreamEngine(
        ArrayView(image_HWC), model, max_ram_bytes=PLENTY, probs=True, repeat=cut(count, 1500)
    )
    expected_KHW = whole(image_HWC, model)
    for block in engine.blocks():
        inside = (slice(None), slice(block.box.y0, block.box.y1), slice(block.box.x0, block.box.x1))
        np.testing.assert_allclose(block.probs_KHW, expected_KHW[inside], rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 4])
def test_in_bfloat16_the_stream_is_the_network_in_bfloat16(rows: int) -> None:
    """Of different rounding in the two, a few units in the last place of the largest logit would be left."""
    network = segmenter(torch.bfloat16, depth=2, span=5)
    image_BCHW = test_flow.picture(203, 71, torch.bfloat16)
    expected = test_flow.whole(network, image_BCHW).float()
    streamed = test_flow.streamed(network, image_BCHW, rows).float()
    torch.testing.assert_close(streamed, expected, rtol=0, atol=float(expected.abs().max()) / 50)


def test_tiles_with_the_receptive_field_as_halo_agree() -> None:
    model = NetworkModel(segmenter(torch.float32, depth=2, span=3))
    image_HWC = noise(500, 400)
    field = trace(model.network, 3, Size(64, 64)).receptive_field_px()  # type: ignore[arg-type]
    assert field is not None
    halo = -(-field // 8) * 8
    shared: Any = {"max_ram_bytes": PLENTY, "probs": True}
    tiles = tile_engine(image_HWC, model, tile=2 * halo + 64, overlap=halo, blend="crop", batch=1, **shared)
    (of_tiles,) = tiles.blocks()
    (of_stream,) = StreamEngine(ArrayView(image_HWC), model, **shared).blocks()
    assert of_tiles.probs_KHW is not None
    np.testing.assert_allclose(of_tiles.probs_KHW, of_stream.probs_KHW, rtol=0, atol=1e-5)
    assert (of_tiles.labels_HW != of_stream.labels_HW).mean() < 1e-4


@pytest.mark.parametrize("width", [700, 4096, 8192, 32768])
@pytest.mark.parametrize("background", [None, Background(colour_C=(244,) * 3, tolerance=0)])
def test_a_continued_run_feeds_a_band_and_twice_the_receptive_field_at_most(
    width: int, background: Background | None
) -> None:
    model = load_model("nuclei")
    assert model.network is not None
    engine = StreamEngine(
        ArrayView(np.empty((16384, width, 3), np.uint8)), model, max_ram_bytes=PLENTY, background=background
    )
    # What is fed when does not depend on the width, and a narrow picture's buffers are small.
    graph = trace(model.network, 3, Size(16384, 64))
    schedule = make_schedule(graph, engine.plan.rows_px)
    given: dict[str, Any] = {"dtype": torch.float32, "device": torch.device("cpu")}
    flow = Flow(graph, schedule, **given)
    if background is not None:
        flow = SparseFlow(graph, schedule, **given, blank_BCHW=torch.zeros(1, 3, 1, 1))
    for row in range(512, 16384, 512):
        first_row, _ = flow.wanted(0, flow.begin(row))
        assert row - first_row <= 512 + 2 * (model.spec.receptive_field_px or 0)


@pytest.mark.parametrize(
    ("width", "bytes_per_number", "blank_share", "rows_px"),
    [
        (8192, 4, None, 128),
        (8192, 2, None, 128),
        (10000, 4, None, 96),
        (16384, 4, None, 64),
        (16384, 2, None, 128),
        (8192, 4, 0.0, 128),
        # Most of a slide is skipped: the steps may have twice as many pixels.
        (16384, 4, 0.7, 128),
        # A few queries would not be worth the keys that they go through.
        (100_000, 4, None, 48),
    ],
)
def test_steps_are_as_high_as_pays_and_a_resume_allows(
    width: int, bytes_per_number: int, blank_share: float | None, rows_px: int
) -> None:
    model = load_model("nuclei")
    assert model.network is not None
    graph = low_graph(model.network, 3, Size(32768, width))
    step_px = pixels_of_a_step(bytes_per_number, blank_share)
    assert next(heights(graph, width, step_px, sparse=blank_share is not None)) == rows_px


def test_what_is_too_wide_for_any_good_step_gets_a_lower_one() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3, padding=1))
    graph = trace(network, 3, Size(4096, 64))
    assert list(heights(graph, 1 << 18, pixels_of_a_step(4)))[-1] == 4
    assert list(heights(graph, 1 << 13, pixels_of_a_step(4)))[-1] == 16


def test_the_shipped_model_states_its_true_receptive_field() -> None:
    model = load_model("nuclei")
    assert model.network is not None
    assert trace(model.network, 3, Size(512, 512)).receptive_field_px() == model.spec.receptive_field_px


@pytest.mark.parametrize(
    "config",
    [
        {"span": 3},
        {"span": 5, "depth": 2},
        {"span": 3, "depth": 2, "skip": ["height", ""]},
        {"span": 3, "order": "parallel"},
        {"span": 3, "width": [4, 4, 6, 8]},
        {"span": 3, "depth": 2, "window": 3},
        {"span": 3, "attention": "split_heads"},
        {"span": 1, "attention": "split_heads", "depth": 2, "window": 2},
    ],
    ids=str,
)
def test_the_receptive_field_is_the_true_one(config: dict[str, Any]) -> None:
    """Which pixels have an influence is asked of the gradient, at each of the positions in a period."""
    network = segmenter(**config)
    graph = trace(network, 3, Size(64, 64))
    reach, middle = 0, 240 // graph.period * graph.period
    for dim in (2, 3):
        size = (480, graph.period) if dim == 2 else (graph.period, 480)
        for place in range(middle, middle + graph.period):
            image = torch.randn(1, 3, *size, dtype=torch.float64, requires_grad=True)
            pixel = network(image).select(dim, place).select(2, graph.period // 2)
            (influence,) = torch.autograd.grad(pixel.square().sum(), image)
            lines = influence.abs().sum((0, 1, 5 - dim)).nonzero().flatten()
            reach = max(reach, place - int(lines.min()), int(lines.max()) - place)
    assert reach == graph.receptive_field_px()


@pytest.mark.parametrize("stride", [8, 16])
def test_no_pixel_beyond_the_receptive_field_moves_an_output(stride: int) -> None:
    width = [4, 6, 8] if stride == 8 else [4, 6, 8, 12]
    network = segmenter(depth=2, span=5, width=width)
    field = trace(network, 3, Size(64, 64)).receptive_field_px()
    assert field is not None
    size = 2 * field + 4 * stride
    image_BCHW = test_flow.picture(size, size)
    before = test_flow.whole(network, image_BCHW)
    centre = size // 2 // stride * stride
    inside, outside = image_BCHW.clone(), image_BCHW.clone()
    # The worst of all phases reaches as far as stated; another pixel farther nothing does.
    outside[:, :, : centre - field] += 1
    inside[:, :, : centre - field + stride] += 1
    rows = slice(centre, centre + stride)
    assert torch.equal(test_flow.whole(network, outside)[:, :, rows], before[:, :, rows])
    assert not torch.equal(test_flow.whole(network, inside)[:, :, rows], before[:, :, rows])


@pytest.mark.parametrize(
    ("config", "word"),
    [({"global_blocks": 1}, "GlobalAttention"), ({"attention": "separable"}, "SeparableAttention")],
)
def test_attention_over_the_whole_grid_is_refused_by_name(config: dict[str, Any], word: str) -> None:
    said = refusal(NetworkModel(segmenter(torch.float32, **config)), Size(100, 100))
    assert said is not None
    assert word in said


def test_the_engine_skips_background_with_the_shipped_model() -> None:
    model = load_model("nuclei")
    image_HWC = np.full((640, 4096, 3), 243, np.uint8)
    image_HWC[300:500, 400:600] = noise(200, 200)
    shared: Any = {"max_ram_bytes": PLENTY, "windows": (Box(512, 1024, 640, 1280), Box(0, 2000, 200, 2256))}
    view = ArrayView(image_HWC)
    sparse = StreamEngine(view, model, background=Background((243.0,) * 3, 0), **shared)
    skipped, full = (list(engine.blocks()) for engine in (sparse, StreamEngine(view, model, **shared)))
    assert sparse.describe()["skipped_share"] > 0.3
    for found, expected in zip(skipped, full, strict=True):
        assert (found.labels_HW != expected.labels_HW).mean() < 1e-5
        for (_, found_KHW), (_, expected_KHW) in zip(found.windows, expected.windows, strict=True):
            np.testing.assert_allclose(found_KHW, expected_KHW, rtol=0, atol=1e-4)
