"""Convolutions of few output channels, computed two columns at a time, against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from axialcli.engine.stream import convolution
from axialcli.engine.stream.convolution import Convolution
from axialcli.engine.stream.operators import Piece, clipped
from axialcli.geometry import Box, Size


@pytest.fixture(autouse=True)
def wide_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor with vectors of sixteen numbers, whatever runs here."""
    monkeypatch.setattr(convolution, "VECTOR", 16)


def in_pairs(made: Convolution) -> bool:
    return made.apply == made._convolve_pairs


@settings(max_examples=60, deadline=None)
@given(
    outputs=st.integers(1, 8),
    kernel=st.tuples(st.integers(1, 4), st.integers(2, 5)),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    size=st.tuples(st.integers(9, 14), st.integers(6, 13)),
    bias=st.booleans(),
    channels_last=st.booleans(),
    data=st.data(),
)
def test_every_box_is_that_of_the_whole(
    outputs: int,
    kernel: tuple[int, int],
    stride: int,
    dilation: int,
    size: tuple[int, int],
    bias: bool,
    channels_last: bool,
    data: st.DataObject,
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight_OCHW = torch.randn(outputs, 3, *kernel, dtype=torch.float64, generator=generator)
    bias_O = torch.randn(outputs, dtype=torch.float64, generator=generator) if bias else None
    x_BCHW = torch.randn(1, 3, *size, dtype=torch.float64, generator=generator)
    if channels_last:
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
    padding = (dilation * (kernel[0] - 1) // 2, kernel[1] // 2)
    whole = F.conv2d(x_BCHW, weight_OCHW, bias_O, (stride, 1), padding, (dilation, 1))
    made = Convolution(
        weight_OCHW, bias_O, stride=(stride, 1), padding=padding, dilation=(dilation, 1), groups=1
    )
    assert in_pairs(made)

    height, width = whole.shape[2:]
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = Box(y0, x0, data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width)))
    inside = clipped(made.reaches[0], box, Size(*size))
    piece = Piece(x_BCHW[:, :, inside.y0 : inside.y1, inside.x0 : inside.x1], inside, Size(*size))
    found = made.run([piece], box)
    torch.testing.assert_close(found, whole[:, :, box.y0 : box.y1, box.x0 : box.x1], rtol=0, atol=1e-12)


def convolution_of(weight_OCHW: Tensor, **settings: object) -> Convolution:
    given = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1, **settings}
    return Convolution(weight_OCHW, None, **given)  # type: ignore[arg-type]


def test_only_narrow_ones_are_computed_in_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two times nine channels are more than a vector; the rest moves or spreads along the width otherwise."""
    narrow = torch.zeros(8, 4, 3, 3)
    assert in_pairs(convolution_of(narrow))
    assert not in_pairs(convolution_of(torch.zeros(9, 4, 3, 3)))
    assert not in_pairs(convolution_of(torch.zeros(8, 4, 1, 1)))
    assert not in_pairs(convolution_of(narrow, groups=2))
    assert not in_pairs(convolution_of(narrow, stride=(1, 2)))
    assert not in_pairs(convolution_of(narrow, dilation=(1, 2)))
    monkeypatch.setattr(convolution, "VECTOR", 8)
    assert not in_pairs(convolution_of(narrow))
    assert in_pairs(convolution_of(narrow[:4]))


def test_a_column_does_not_depend_on_its_box() -> None:
    """The same bits whether it is the first of a pair or the second."""
    generator = torch.Generator().manual_seed(0)
    x_BCHW = torch.randn(1, 16, 12, 90, generator=generator).contiguous(memory_format=torch.channels_last)
    made = convolution_of(torch.randn(8, 16, 3, 3, generator=generator))
    size = Size(12, 90)
    whole = made.run([Piece(x_BCHW, Box(0, 0, 12, 90), size)], Box(0, 0, 12, 90))
    for x0, x1 in ((10, 71), (11, 71), (11, 72), (0, 33), (57, 90)):
        left, right = max(0, x0 - 1), min(90, x1 + 1)
        piece = Piece(x_BCHW[..., left:right], Box(0, left, 12, right), size)
        assert torch.equal(made.run([piece], Box(0, x0, 12, x1)), whole[..., x0:x1])
