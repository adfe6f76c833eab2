"""Rows through the graph against the network on the whole picture at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from axialcli.engine.stream.flow import Flow, recomputed
from axialcli.engine.stream.pointwise import Norm
from axialcli.engine.stream.schedule import make_schedule
from axialcli.engine.stream.trace import trace
from axialcli.geometry import Size
from axialcli.nn.attention import AxialAttention
from tests.engine.stream.networks import Mixture, Shuffles, UNet, randomised


def picture(height: int, width: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise_BCHW = torch.randn(1, 3, height, width, generator=generator, dtype=dtype)
    return noise_BCHW.to(memory_format=torch.channels_last)


def streamed(network: nn.Module, image_BCHW: Tensor, rows_px: int, first_row: int = 0) -> Tensor:
    """The network's answer from `first_row` on, row chunk by row chunk."""
    size = Size(*image_BCHW.shape[2:])
    graph = trace(network, image_BCHW.shape[1], size)
    schedule = make_schedule(graph, rows_px * graph.stride)
    flow = Flow(graph, schedule, dtype=image_BCHW.dtype, device=torch.device("cpu"))
    rows: list[Tensor] = []
    covered = first_row
    with torch.inference_mode():
        for step in range(flow.begin(first_row), schedule.steps):
            start, stop = flow.wanted(0, step)
            made = flow.run(step, {0: image_BCHW[:, :, start:stop]} if start < stop else {})
            for first, tensor in made.values():
                # Rows above the first that was asked for may come as well, wrong or right.
                assert first <= covered
                rows.append(tensor[:, :, covered - first :].clone())
                covered = first + tensor.shape[2]
    assert covered == graph.nodes[graph.outputs[0]].plane.height
    return torch.cat(rows, 2)


def whole(network: nn.Module, image_BCHW: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(image_BCHW)  # type: ignore[no-any-return]


@settings(max_examples=40, deadline=None)
@given(
    depth=st.integers(1, 3),
    transposed=st.booleans(),
    height=st.integers(17, 150),
    width=st.integers(17, 60),
    rows=st.integers(1, 12),
    seed=st.integers(0, 5),
)
def test_a_unet_streams(depth: int, transposed: bool, height: int, width: int, rows: int, seed: int) -> None:
    network = randomised(UNet(depth=depth, transposed=transposed), seed)
    image_BCHW = picture(height, width)
    torch.testing.assert_close(
        streamed(network, image_BCHW, rows), whole(network, image_BCHW), rtol=0, atol=1e-9
    )


@settings(max_examples=30, deadline=None)
@given(
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2, 3]),
    dilation=st.integers(1, 3),
    height=st.integers(12, 120),
    width=st.integers(12, 50),
    rows=st.integers(1, 9),
)
def test_every_rule_streams(
    kernel: int, stride: int, dilation: int, height: int, width: int, rows: int
) -> None:
    network = randomised(Mixture(kernel=kernel, stride=stride, dilation=dilation), 0)
    image_BCHW = picture(height, width)
    torch.testing.assert_close(
        streamed(network, image_BCHW, rows), whole(network, image_BCHW), rtol=0, atol=1e-9
    )


@settings(max_examples=20, deadline=None)
@given(height=st.integers(2, 20), width=st.integers(2, 9), rows=st.integers(1, 5))
def test_shuffles_stream(height: int, width: int, rows: int) -> None:
    network = randomised(Shuffles(), 0)
    image_BCHW = picture(8 * height, 8 * width)
    torch.testing.assert_close(
        streamed(network, image_BCHW, rows), whole(network, image_BCHW), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_single_precision(rows: int) -> None:
    network = randomised(UNet(depth=3), 1, torch.float32)
    image_BCHW = picture(203, 101, torch.float32)
    torch.testing.assert_close(
        streamed(network, image_BCHW, rows), whole(network, image_BCHW), rtol=0, atol=1e-4
    )


@settings(max_examples=25, deadline=None)
@given(first_row=st.integers(0, 298), rows=st.integers(1, 6), transposed=st.booleans())
def test_a_flow_that_starts_late_makes_the_same_bits(first_row: int, rows: int, transposed: bool) -> None:
    network = randomised(UNet(depth=2, transposed=transposed), 2, torch.float32)
    image_BCHW = picture(299, 40, torch.float32)
    late = streamed(network, image_BCHW, rows, first_row)
    assert torch.equal(late, streamed(network, image_BCHW, rows)[:, :, first_row:])


def test_state_does_not_depend_on_the_height() -> None:
    network = randomised(UNet(depth=3), 1)

    def state(height: int) -> int:
        graph = trace(network, 3, Size(height, 64))
        schedule = make_schedule(graph, 32)
        return Flow(graph, schedule, dtype=torch.float32, device=torch.device("cpu")).state_bytes

    assert state(65536) == state(1024)


class TwoViews(nn.Module):
    """A tensor that is read again through a view after an operator that may work in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        made = self.conv(x)
        turned = made.permute(0, 2, 3, 1)
        return made.relu() + turned.permute(0, 3, 1, 2)


def test_nothing_is_overwritten_that_is_still_to_be_read() -> None:
    network = randomised(TwoViews(), 0)
    image_BCHW = picture(40, 30)
    torch.testing.assert_close(
        streamed(network, image_BCHW, 4), whole(network, image_BCHW), rtol=0, atol=1e-12
    )


class PadsAfterwards(nn.Module):
    """A convolution without padding, and what it has lost put around it again."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 2, 5)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return F.pad(self.convolution(image_BCHW), (2, 2, 2, 2))


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 50])
def test_rows_of_padding_wait_for_the_first_row(rows: int) -> None:
    network = PadsAfterwards().double()
    image_BCHW = picture(61, 20)
    torch.testing.assert_close(
        streamed(network, image_BCHW, rows), whole(network, image_BCHW), rtol=0, atol=1e-12
    )


class NormsLate(nn.Module):
    """Tokens that are normed, and read again nine rows later, normed and as they were."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(3)
        self.attend = AxialAttention(channels=3, heads=1, axis="height", span=19, positions="bias")

    def forward(self, image_BCHW: Tensor) -> Tensor:
        tokens_BHWC = image_BCHW.permute(0, 2, 3, 1)
        tokens_BHWC = tokens_BHWC + self.attend(self.norm(tokens_BHWC))
        return tokens_BHWC.permute(0, 3, 1, 2)


@pytest.mark.parametrize("rows", [1, 8, 9, 30])
def test_norms_are_kept_where_steps_are_high_and_else_made_again(rows: int) -> None:
    """Nine rows wait, and those of a step are made; the numbers are the network's own either way."""
    network = randomised(NormsLate(), 0)
    image_BCHW = picture(80, 20)
    torch.testing.assert_close(
        streamed(network, image_BCHW, rows), whole(network, image_BCHW), rtol=0, atol=1e-12
    )
    graph = trace(network, 3, Size(80, 20))
    schedule = make_schedule(graph, rows)
    norm = next(index for index, node in enumerate(graph.nodes) if isinstance(node.operator, Norm))
    assert (norm in recomputed(graph, schedule)) == (schedule.held_rows(norm) > 2 * rows) == (rows < 9)
