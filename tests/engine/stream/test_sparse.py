"""A flow that skips background against the network on the whole picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from axialcli.engine.stream.chains import Chain
from axialcli.engine.stream.schedule import make_schedule
from axialcli.engine.stream.sparse import SparseFlow
from axialcli.engine.stream.trace import trace
from axialcli.geometry import Size
from axialcli.nn.axial_segmenter import AxialSegmenter, AxialSegmenterConfig
from axialcli.nn.windows import WindowAttention
from tests.engine.stream.networks import Mixture, Shuffles, UNet, randomised
from tests.engine.stream.test_flow import picture, whole

BLANK = (0.9, -0.4, 0.3)


def spotted(height: int, width: int, spots: list[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    """A blank picture with small spots of noise at these shares of its sides; and what of it is blank."""
    blank_HW = torch.ones(height, width, dtype=torch.bool)
    for y, x in spots:
        top, left = int(y * (height - 1)), int(x * (width - 1))
        blank_HW[top : top + 9, left : left + 7] = False
    colour = torch.tensor(BLANK, dtype=torch.float64).view(1, 3, 1, 1)
    image_BCHW = torch.where(blank_HW, colour, picture(height, width))
    return image_BCHW.to(memory_format=torch.channels_last), blank_HW


def streamed(
    network: nn.Module, image_BCHW: Tensor, blank_HW: Tensor, rows_px: int, first_row: int = 0
) -> tuple[Tensor, SparseFlow]:
    graph = trace(network, 3, Size(*image_BCHW.shape[2:]))
    schedule = make_schedule(graph, rows_px * graph.stride)
    flow = SparseFlow(
        graph,
        schedule,
        dtype=torch.float64,
        device=torch.device("cpu"),
        blank_BCHW=torch.tensor(BLANK, dtype=torch.float64).view(1, 3, 1, 1),
    )
    rows: list[Tensor] = []
    covered = first_row
    with torch.inference_mode():
        for step in range(flow.begin(first_row), schedule.steps):
            start, stop = flow.wanted(0, step)
            made = (
                flow.run_over(
                    step,
                    lambda x0, x1, rows=slice(start, stop): image_BCHW[:, :, rows, x0:x1],
                    blank_HW[start:stop].numpy(),
                )
                if start < stop
                else flow.run_over(step, None, None)
            )
            for first, tensor in made.values():
                rows.append(tensor[:, :, covered - first :].clone())
                covered = first + tensor.shape[2]
    return torch.cat(rows, 2), flow


shares = st.floats(0, 1)
spots = st.lists(st.tuples(shares, shares), max_size=3)


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(20, 200),
    width=st.integers(20, 600),
    rows=st.integers(1, 8),
    where=spots,
    depth=st.integers(1, 3),
    transposed=st.booleans(),
)
def test_a_unet_skips_exactly(
    height: int, width: int, rows: int, where: list[tuple[float, float]], depth: int, transposed: bool
) -> None:
    network = randomised(UNet(depth=depth, transposed=transposed), 0)
    image_BCHW, blank_HW = spotted(height, width, where)
    found, _ = streamed(network, image_BCHW, blank_HW, rows)
    torch.testing.assert_close(found, whole(network, image_BCHW), rtol=0, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(
    height=st.integers(20, 120),
    width=st.integers(20, 500),
    rows=st.integers(1, 8),
    where=spots,
    stride=st.sampled_from([1, 2, 3]),
)
def test_every_rule_skips_exactly(
    height: int, width: int, rows: int, where: list[tuple[float, float]], stride: int
) -> None:
    network = randomised(Mixture(stride=stride), 0)
    image_BCHW, blank_HW = spotted(height, width, where)
    found, _ = streamed(network, image_BCHW, blank_HW, rows)
    torch.testing.assert_close(found, whole(network, image_BCHW), rtol=0, atol=1e-9)


def test_a_blank_picture_costs_its_sides_alone() -> None:
    network = randomised(UNet(depth=2), 0)
    image_BCHW, blank_HW = spotted(256, 2048, [])
    found, flow = streamed(network, image_BCHW, blank_HW, 8)
    torch.testing.assert_close(found, whole(network, image_BCHW), rtol=0, atol=1e-9)
    assert flow.skipped / flow.total > 0.85


def test_a_picture_without_background_is_computed_everywhere() -> None:
    network = randomised(UNet(depth=2), 0)
    image_BCHW = picture(100, 300)
    found, flow = streamed(network, image_BCHW, torch.zeros(100, 300, dtype=torch.bool), 4)
    torch.testing.assert_close(found, whole(network, image_BCHW), rtol=0, atol=1e-9)
    assert flow.skipped == 0


class Chained(nn.Module):
    """Convolutions right behind each other, halving and not, a shuffle, and again two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1)
        )
        self.deep = nn.Sequential(nn.Conv2d(6, 16, 3, padding=1), nn.ReLU(), nn.PixelShuffle(2))
        self.head = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        made_BCHW = nn.functional.pixel_shuffle(self.head(self.deep(self.down(image_BCHW))), 2)
        return made_BCHW[:, :, : image_BCHW.shape[2], : image_BCHW.shape[3]]


def test_such_a_network_is_chained() -> None:
    graph = trace(randomised(Chained(), 2), 3, Size(96, 90))
    assert sum(isinstance(node.operator, Chain) for node in graph.nodes) == 2


@settings(max_examples=30, deadline=None)
@given(height=st.integers(20, 200), width=st.integers(20, 600), rows=st.integers(1, 8), where=spots)
def test_chains_skip_exactly(height: int, width: int, rows: int, where: list[tuple[float, float]]) -> None:
    network = randomised(Chained(), 2)
    image_BCHW, blank_HW = spotted(height, width, where)
    found, _ = streamed(network, image_BCHW, blank_HW, rows)
    torch.testing.assert_close(found, whole(network, image_BCHW), rtol=0, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(first_row=st.integers(0, 298), rows=st.integers(1, 6), where=spots, chains=st.booleans())
def test_a_late_start_makes_the_same_bits(
    first_row: int, rows: int, where: list[tuple[float, float]], chains: bool
) -> None:
    network = randomised(Chained() if chains else UNet(depth=2), 2)
    image_BCHW, blank_HW = spotted(299, 400, where)
    late, _ = streamed(network, image_BCHW, blank_HW, rows, first_row)
    everything, _ = streamed(network, image_BCHW, blank_HW, rows)
    assert np.array_equal(late.numpy(), everything[:, :, first_row:].numpy())


Columns = dict[tuple[int, tuple[int, int]], list[tuple[int, int]]]


def columns_of(patch: pytest.MonkeyPatch) -> Columns:
    """Will hold the columns that flows compute, by node and rows."""
    decide = SparseFlow._columns
    decided: Columns = {}

    def noted(self: SparseFlow, index: int, rows: tuple[int, int]) -> list[tuple[int, int]]:
        decided[index, rows] = decide(self, index, rows)
        return decided[index, rows]

    patch.setattr(SparseFlow, "_columns", noted)
    return decided


def test_a_late_start_computes_the_same_columns() -> None:
    """Also where all that is not blank lies in rows of its first step that nobody reads."""
    # What stands between keeps the two convolutions apart.
    convolutions = nn.Conv2d(3, 4, 3, padding=1), nn.Sigmoid(), nn.Conv2d(4, 2, 3, padding=1)
    network = randomised(nn.Sequential(*convolutions), 2)
    image_BCHW, blank_HW = spotted(299, 900, [])
    # The first step takes rows 64 to 79, of which rows from 78 on are read.
    blank_HW[66:68, 400:405] = False
    image_BCHW[:, :, 66:68, 400:405] = 1.0
    with pytest.MonkeyPatch.context() as patch:
        late = columns_of(patch)
        streamed(network, image_BCHW, blank_HW, 16, 97)
    with pytest.MonkeyPatch.context() as patch:
        decided = columns_of(patch)
        streamed(network, image_BCHW, blank_HW, 16)

    assert min(rows for _, rows in late) == (79, 95)
    assert all(decided[which] == columns for which, columns in late.items())


@settings(max_examples=20, deadline=None)
@given(
    first_row=st.integers(0, 290),
    rows=st.integers(1, 9),
    where=spots,
    kind=st.sampled_from([Shuffles, UNet, Chained]),
)
def test_columns_are_the_same_wherever_a_run_starts(
    first_row: int, rows: int, where: list[tuple[float, float]], kind: type[nn.Module]
) -> None:
    network = randomised(kind(), 2)
    image_BCHW, blank_HW = spotted(300, 900, where)
    decided = []
    for first in (0, first_row):
        with pytest.MonkeyPatch.context() as patch:
            decided.append(columns_of(patch))
            streamed(network, image_BCHW, blank_HW, rows, first)
    assert all(decided[0][which] == columns for which, columns in decided[1].items())


def test_windows_on_a_resampled_grid_repeat_with_their_own_period() -> None:
    """Blocks of 5 tokens that are half a pixel each: they repeat after 5 pixels, and not after 3."""
    windows = WindowAttention(channels=4, heads=2, window=5)

    class Resampled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.windows, self.last = nn.Conv2d(3, 4, 3, padding=1), windows, nn.Conv2d(4, 2, 1)

        def forward(self, image_BCHW: Tensor) -> Tensor:
            fine_BCHW = nn.functional.interpolate(self.first(image_BCHW), scale_factor=2, mode="nearest")
            seen_BCHW = self.windows(fine_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return self.last(seen_BCHW)  # type: ignore[no-any-return]

    network = randomised(Resampled(), 1)
    assert trace(network, 3, Size(95, 300)).period == 5
    image_BCHW, blank_HW = spotted(95, 300, [(0.5, 0.5)])
    found, flow = streamed(network, image_BCHW, blank_HW, 5)
    torch.testing.assert_close(found, whole(network, image_BCHW), rtol=0, atol=1e-9)
    assert flow.skipped > 0


def test_a_late_start_asks_for_no_rows_that_it_was_not_fed() -> None:
    """Where two rows of pixels make one, and not all are read: rounding alone would name rows above."""

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 2, stride=2)

        def forward(self, image_BCHW: Tensor) -> Tensor:
            half_BCHW = self.first(image_BCHW)
            return nn.functional.max_pool2d(half_BCHW[:, :, 1:, 1:], 2)

    network = randomised(Pooled(), 0)
    image_BCHW, blank_HW = spotted(96, 400, [(0.1, 0.2), (0.3, 0.6)])
    everything, _ = streamed(network, image_BCHW, blank_HW, 1)
    for first_row in range(1, 23):
        late, _ = streamed(network, image_BCHW, blank_HW, 1, first_row)
        assert np.array_equal(late.numpy(), everything[:, :, first_row:].numpy())


def test_no_more_is_computed_than_feels_other_pixels() -> None:
    """One spot far from everything: its receptive field, and what cells and steps add to that."""
    network = randomised(nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(40))), 0)
    image_BCHW, blank_HW = spotted(600, 2400, [])
    blank_HW[300:310, 1200:1210] = False
    image_BCHW[:, :, 300:310, 1200:1210] = 1.0
    rows = 20
    found, flow = streamed(network, image_BCHW, blank_HW, rows)
    torch.testing.assert_close(found, whole(network, image_BCHW), rtol=0, atol=1e-9)
    sides = 600 * 2 * 40
    spot = (10 + 2 * 40 + 2 * rows) * (64 + 2 * 40)
    assert flow.total - flow.skipped <= sides + spot


@settings(max_examples=10, deadline=None)
@given(where=spots, rows=st.integers(1, 4), tail=st.integers(0, 40))
def test_high_blank_pictures_repeat_themselves_exactly(
    where: list[tuple[float, float]], rows: int, tail: int
) -> None:
    network = AxialSegmenter(AxialSegmenterConfig(width=(4, 4, 8), depth=2, heads=2, span=3, classes=2))
    network = randomised(network, 3)
    image_BCHW, blank_HW = spotted(900 + tail, 80, where)
    found, flow = streamed(network, image_BCHW, blank_HW, rows)
    torch.testing.assert_close(found, whole(network, image_BCHW), rtol=0, atol=1e-9)
    assert flow.twin_steps < 0.7 * flow.schedule.steps
