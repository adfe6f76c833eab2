"""Column strips of networks that crop and pad by the picture's width, against the network itself."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from axialcli.engine.stream import NotStreamable, StreamEngine
from axialcli.engine.stream.plan import StreamPlan, make_plan
from axialcli.engine.stream.strips import strip_graphs
from axialcli.engine.stream.trace import trace
from axialcli.geometry import Box, Size
from axialcli.nn.axial_segmenter import AxialSegmenter, AxialSegmenterConfig
from tests.engine.stream.models import NetworkModel
from tests.engine.stream.networks import randomised
from tests.engine.views import ArrayView

PLENTY = 1 << 40


class PaddedBelow(nn.Module):
    """A network that wants a multiple, padded below and on the right to have it, and cropped again."""

    def __init__(self, multiple: int, *, inside: bool) -> None:
        super().__init__()
        self.multiple, self.inside = multiple, inside
        self.down = nn.Conv2d(3, 6, 5, stride=2, padding=2)
        self.deep = nn.Conv2d(6, 6, 3, padding=2, dilation=2)
        self.up = nn.ConvTranspose2d(6, 2, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))
        low = self.down(x)
        deep = self.deep(low)
        if self.inside:
            deep = deep[..., : height // 2, : width // 2]
            deep = F.pad(deep, (0, low.shape[3] - width // 2, 0, low.shape[2] - height // 2))
        return self.up(deep)[..., :height, :width]  # type: ignore[no-any-return]


class CutAtTheEnd(nn.Module):
    """The last five columns are cut off and come back as zeros, wherever the picture ends."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(self.conv(x[..., :-5]), (0, 5))


def check(network: nn.Module, size: Size, strips: list[int]) -> None:
    """The logits that an engine finds in these strips are the network's own, at all edges of the strips."""
    model = NetworkModel(network, dtype=torch.float64)
    image_HWC = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    with torch.inference_mode():
        image_BCHW = model.normalise(torch.from_numpy(image_HWC).permute(2, 0, 1)[None])
        expected_KHW = network(image_BCHW)[0].numpy()
    # A window lies in one block: here the first and the last of each strip.
    blocks = {(x0, min(x1, x0 + 512)) for x0, x1 in pairwise([*strips, size.width])}
    blocks |= {((x1 - 1) // 512 * 512, x1) for _, x1 in pairwise([*strips, size.width])}
    engine = StreamEngine(
        ArrayView(image_HWC),
        model,
        max_ram_bytes=PLENTY,
        windows=[Box(0, x0, size.height, x1) for x0, x1 in sorted(blocks)],
        repeat={"rows_px": 16, "strips": strips},
    )
    compared = 0
    for block in engine.blocks():
        for window, logits_KHW in block.windows:
            inside = np.s_[:, window.y0 : window.y1, window.x0 : window.x1]
            # What a block carries is float32.
            np.testing.assert_allclose(logits_KHW, expected_KHW[inside], rtol=0, atol=1e-5)
            compared += 1
    assert compared == len(blocks)


@pytest.mark.parametrize("width", [2048, 2051, 2100])
def test_the_default_network_is_cut_at_any_width(width: int) -> None:
    """Its tokens are eight pixels wide, and what it computes beyond the picture is cropped."""
    config = AxialSegmenterConfig(width=(4, 8, 12), depth=1, heads=1, span=9)
    network = randomised(AxialSegmenter(config), 0)
    size = Size(100, width)
    plan = make_plan(
        network,
        3,
        size,
        bytes_per_number=8,
        bytes_per_px_of_width=0,
        free_bytes=8_000_000,
        max_ram_bytes=8_000_000,
    )
    assert len(plan.strips) > 1
    check(network, size, list(plan.strips))


@settings(max_examples=12, deadline=None)
@given(width=st.integers(1025, 1100), multiple=st.sampled_from([2, 4, 6]), inside=st.booleans())
def test_what_is_padded_on_the_right_is_cut_or_refused(width: int, multiple: int, inside: bool) -> None:
    network = randomised(PaddedBelow(multiple, inside=inside), multiple)
    graph = trace(network, 3, Size(40, width))
    plan = StreamPlan(
        rows_px=16,
        stride_px=graph.stride,
        strips=(0, 512, 1024),
        halo_px=graph.receptive_field_px() or 0,
        period_px=graph.period,
        width=width,
    )
    # A strip begins at a multiple of the network's strides: what is padded to another one ends elsewhere.
    left = plan.reads(2)[0]
    if -(width - left) % multiple != -width % multiple:
        with pytest.raises(NotStreamable, match="depends on the width"):
            strip_graphs(network, 3, graph, plan.columns())
    else:
        strip_graphs(network, 3, graph, plan.columns())
        check(network, Size(40, width), [0, 512, 1024])


@pytest.mark.parametrize(
    "code",
    [
        lambda conv, x: conv(F.pad(x, (0, -x.shape[-1] % 4), value=1.0))[..., : x.shape[-1]],
        lambda conv, x: conv(
            torch.sigmoid(F.max_pool2d(F.pad(x, (0, -x.shape[-1] % 4)), 3, 1, 1)[..., : x.shape[-1]])
        ),
    ],
    ids=["ones", "zeros under a maximum"],
)
def test_padding_that_not_every_strip_has_is_refused(code: Any) -> None:
    """Of 1027 columns one is padded, of the 516 from 511 on none: beyond them lies what the operator pads."""

    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return code(self.conv, x)  # type: ignore[no-any-return]

    network = randomised(Written(), 0)
    graph = trace(network, 3, Size(40, 1027))
    with pytest.raises(NotStreamable, match="depends on the width"):
        strip_graphs(network, 3, graph, [((0, 512), (0, 520)), ((512, 1027), (511, 1027))])
    # A strip that ends inside the picture does not feel it, and one that leaves the same to pad has it too.
    parts = [((0, 512), (0, 520)), ((512, 1027), (504, 1027))]
    assert (1027 - 504) % 4 == 1027 % 4
    assert len(strip_graphs(network, 3, graph, parts)) == 2


def test_what_ends_elsewhere_in_a_strip_is_refused() -> None:
    network = randomised(CutAtTheEnd(), 0)
    graph = trace(network, 3, Size(64, 1024))
    with pytest.raises(NotStreamable, match="depends on the width"):
        strip_graphs(network, 3, graph, [((0, 512), (0, 512)), ((512, 1024), (512, 1024))])
    # With room for what is missing it is the same.
    enough: Any = [((0, 512), (0, 520)), ((512, 1024), (512, 1024))]
    assert len(strip_graphs(network, 3, graph, enough)) == 2
