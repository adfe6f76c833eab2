"""Attention over the whole height, in sweeps and passes: what the network gives on the whole picture."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from axialcli.config import parse_bytes
from axialcli.engine.stream.stages import split
from axialcli.engine.stream.trace import NotStreamable, trace
from axialcli.errors import LimitError, OutputError
from axialcli.geometry import Size
from axialcli.nn import build_network
from axialcli.nn.attention import AxialAttention
from tests.engine.stream.barriers import barrier_flow, last_sweep, prepared
from tests.engine.stream.networks import randomised
from tests.engine.stream.whole import CHANNELS, DeepNet, WholeNet

ORDERS = ["width_height", "height_width", "parallel", "height"]


def picture(height: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randn(1, 3, height, width, generator=generator, dtype=dtype)


def network_of(order: str, depth: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    """depth 0: the network with attention at two strides."""
    made = DeepNet(order=order) if depth == 0 else WholeNet(order=order, depth=depth)
    return randomised(made, depth, dtype)


@settings(max_examples=60)
@given(
    order=st.sampled_from(ORDERS),
    depth=st.integers(0, 3),
    height=st.integers(1, 80),
    width=st.integers(1, 80),
    rows=st.integers(1, 4),
    columns=st.integers(1, 11),
    on_disk=st.booleans(),
    data=st.data(),
)
def test_passes_over_a_store_equal_the_whole_picture(
    order: str,
    depth: int,
    height: int,
    width: int,
    rows: int,
    columns: int,
    on_disk: bool,
    data: st.DataObject,
) -> None:
    network, image_BCHW = network_of(order, depth), picture(height, width)
    with TemporaryDirectory() as folder:
        scratch = Path(folder) if on_disk else None
        graph = trace(network, 3, Size(height, width))
        steps = [columns if stage.columns else 8 * rows for stage in split(graph)]
        row = data.draw(st.integers(0, height - 1))
        flow = barrier_flow(network, image_BCHW, scratch=scratch, plan={"steps": steps})
        assert prepared(flow, image_BCHW)
        whole_BKHW = network(image_BCHW)
        stream_BKHW = last_sweep(flow, image_BCHW)
        assert (stream_BKHW - whole_BKHW).abs().max() <= 1e-9
        assert torch.equal(last_sweep(flow, image_BCHW, row), stream_BKHW[:, :, row:])
        flow.remove()
        assert not list(Path(folder).iterdir())


@pytest.mark.parametrize("size", [(61, 45), (8, 130)])
@pytest.mark.parametrize("depth", [1, 2])
def test_heads_split_between_the_axes_equal_the_whole_picture(size: tuple[int, int], depth: int) -> None:
    settings: dict[str, Any] = {"width": (4, 6, 8), "heads": 4, "depth": depth, "span": None}
    network = randomised(build_network("axial_segmenter", attention="split_heads", **settings), 0)
    image_BCHW = picture(*size)
    steps = [3 if stage.columns else 16 for stage in split(trace(network, 3, Size(*size)))]
    flow = barrier_flow(network, image_BCHW, plan={"steps": steps})
    assert prepared(flow, image_BCHW)
    assert (last_sweep(flow, image_BCHW) - network(image_BCHW)).abs().max() <= 1e-9


@pytest.mark.parametrize("order", ORDERS)
def test_single_precision_stays_within_a_ten_thousandth(order: str) -> None:
    network, image_BCHW = network_of(order, 2, torch.float32), picture(203, 155, torch.float32)
    flow = barrier_flow(network, image_BCHW, plan=None, max_bytes=3_000_000)
    assert prepared(flow, image_BCHW)
    assert (last_sweep(flow, image_BCHW) - network(image_BCHW)).abs().max() <= 1e-4


def test_the_skip_is_made_again_and_only_tokens_are_stored() -> None:
    image_BCHW = picture(160, 112)
    for depth, passes in [(1, 1), (2, 3), (4, 7)]:
        needs = barrier_flow(network_of("width_height", depth), image_BCHW).needs(calibrate=False)
        assert (needs.sweeps, needs.passes) == (2, passes)
        # One place for all of them: passes write over what they read.
        assert needs.store_bytes == 20 * 14 * CHANNELS * 8
        assert needs.disk_bytes == 0


def test_each_stride_that_is_attended_as_a_whole_has_a_place_and_a_sweep(tmp_path: Path) -> None:
    image_BCHW = picture(160, 112)
    network = network_of("width_height", 0)
    needs = barrier_flow(network, image_BCHW).needs(calibrate=False)
    assert needs.sweeps == 3
    assert needs.store_bytes == (20 * 14 + 40 * 28) * CHANNELS * 8
    # On disk a pass never writes over what it reads; files are whole tiles.
    on_disk = barrier_flow(network, image_BCHW, scratch=tmp_path).needs(calibrate=False)
    assert on_disk.disk_bytes == on_disk.store_bytes == 2 * (32 * 16 + 48 * 32) * CHANNELS * 8


def test_what_is_needed_is_what_is_taken(tmp_path: Path) -> None:
    network, image_BCHW = network_of("parallel", 2), picture(90, 70)
    flow = barrier_flow(network, image_BCHW)
    prepared(flow, image_BCHW)
    assert flow._runner is not None
    assert flow._runner.store.nbytes == flow.needs(calibrate=False).store_bytes
    flow = barrier_flow(network, image_BCHW, scratch=tmp_path)
    prepared(flow, image_BCHW)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.bin")) == flow.needs().disk_bytes
    flow.begin()
    assert 0 < flow.state_bytes <= flow.needs().memory_bytes
    flow.remove()


def test_a_small_budget_is_kept_by_smaller_steps_with_the_same_answer() -> None:
    network, image_BCHW = network_of("width_height", 1), picture(640, 480)
    rich = barrier_flow(network, image_BCHW)
    most = rich.needs(calibrate=False).memory_bytes
    poor = barrier_flow(network, image_BCHW, max_bytes=most // 3)
    poor.check()
    assert poor.needs(calibrate=False).memory_bytes <= most // 3
    assert all(a <= b for a, b in zip(poor.plan["steps"], rich.plan["steps"], strict=True))
    assert poor.plan != rich.plan
    prepared(poor, image_BCHW)
    assert (last_sweep(poor, image_BCHW) - network(image_BCHW)).abs().max() <= 1e-9


def test_too_little_memory_or_disk_is_said_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, image_BCHW = network_of("width_height", 1), picture(800, 800)
    with pytest.raises(LimitError, match=r"^memory of 1 MiB is too little .*: give --max-ram .*--scratch"):
        barrier_flow(network, image_BCHW, max_bytes=100_000).check(1 << 20)
    with pytest.raises(LimitError, match=r"^the device's free memory of 0 MiB .*, or use --device cpu"):
        barrier_flow(network, image_BCHW, max_bytes=100_000).check(None)
    flow = barrier_flow(network, image_BCHW, scratch=tmp_path)
    flow.check()
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(OutputError, match=r"has 1 MB free, 2 MB are needed"):
        flow.check()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fixed_bytes", [300 << 20, 5 << 30])
def test_the_memory_that_is_named_is_enough(fixed_bytes: int) -> None:
    network, image_BCHW = network_of("width_height", 1), picture(800, 800)
    with pytest.raises(LimitError) as refused:
        barrier_flow(network, image_BCHW, max_bytes=100_000).check(fixed_bytes)
    found = re.search(r"--max-ram (\S+) or more", str(refused.value))
    assert found is not None
    named = parse_bytes(found[1])
    assert fixed_bytes < named < fixed_bytes + (200 << 20)
    barrier_flow(network, image_BCHW, max_bytes=named - fixed_bytes).check(fixed_bytes)


def test_the_line_to_print_says_what_it_takes() -> None:
    flow = barrier_flow(network_of("width_height", 2), picture(640, 640))
    needs = flow.needs()
    assert needs.text.startswith("no span: store 1 MB in memory, ")
    assert "2 sweeps and 3 passes, about " in needs.text
    assert needs.seconds is not None
    assert 0 < needs.seconds < 60


def test_a_store_in_half_precision_is_off_by_its_rounding() -> None:
    network, image_BCHW = network_of("width_height", 2, torch.float32), picture(120, 90, torch.float32)
    flow = barrier_flow(network, image_BCHW, store_dtype=torch.float16)
    prepared(flow, image_BCHW)
    whole_BKHW = network(image_BCHW)
    off = (last_sweep(flow, image_BCHW) - whole_BKHW).abs().max() / whole_BKHW.abs().max()
    assert 1e-6 < off < 20 * 2**-11
    assert flow.needs(calibrate=False).store_bytes == 15 * 12 * CHANNELS * 2


def test_progress_rises_to_one_and_a_cancelled_run_goes_on() -> None:
    network, image_BCHW = network_of("width_height", 2), picture(90, 70)
    flow = barrier_flow(network, image_BCHW, plan={"steps": [16, 3, 16, 3, 16]})
    shares: list[float] = []
    flow.prepare(lambda start, stop: image_BCHW[:, :, start:stop], progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    cancelled = barrier_flow(network, image_BCHW)
    assert not cancelled.prepare(lambda start, stop: image_BCHW[:, :, start:stop], lambda: True)


class Tokens(nn.Module):
    """A network that ends with the attention itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.height = AxialAttention(channels=8, heads=2, axis="height", span=None, positions="rotary")

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.height(self.stem(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


def test_a_network_may_end_with_its_attention() -> None:
    network, image_BCHW = randomised(Tokens(), 0), picture(80, 48)
    flow = barrier_flow(network, image_BCHW, plan={"steps": [8, 5, 8]})
    prepared(flow, image_BCHW)
    found = {}
    for step in range(flow.begin(), flow.schedule.steps):
        assert flow.wanted(0, step) == (0, 0)
        found.update({first: rows.clone() for first, rows in flow.run(step, {}).values()})
    got = torch.cat([found[first] for first in sorted(found)], 2)
    assert (got - network(image_BCHW)).abs().max() <= 1e-9


class Pixels(nn.Module):
    """Attention over the pixels themselves, whose values the barrier has to store."""

    def __init__(self) -> None:
        super().__init__()
        self.height = AxialAttention(channels=4, heads=2, axis="height", span=None, positions="rotary")
        self.out = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.permute(0, 2, 3, 1)
        fused: Tensor = self.out((tokens + self.height(tokens)).permute(0, 3, 1, 2))
        return fused


def test_pixels_may_be_attended_themselves() -> None:
    network, image_BCHW = randomised(Pixels(), 0), torch.cat([picture(33, 20)] * 2, 1)[:, :4]
    flow = barrier_flow(network, image_BCHW, plan={"steps": [5, 7, 4]})
    prepared(flow, image_BCHW)
    assert (last_sweep_without_pixels(flow) - network(image_BCHW)).abs().max() <= 1e-9


def last_sweep_without_pixels(flow: Any) -> Tensor:
    found = {}
    for step in range(flow.begin(), flow.schedule.steps):
        found.update({first: rows.clone() for first, rows in flow.run(step, {}).values()})
    return torch.cat([found[first] for first in sorted(found)], 2)


def test_an_operator_that_looks_along_both_axes_at_once_is_refused() -> None:
    graph = trace(randomised(Tokens(), 0), 3, Size(80, 48))
    barrier = graph.nodes[graph.barriers[0]]
    assert barrier.operator is not None
    rows, _ = barrier.operator.reaches[1]
    barrier.operator.reaches = (barrier.operator.reaches[0], (rows, rows))
    with pytest.raises(NotStreamable, match="looks at the whole picture"):
        split(graph)
