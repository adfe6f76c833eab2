"""The ways in which people write networks: what is followed is followed exactly, the rest is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.engine.stream import NotStreamable, rules, trace
from axialcli.engine.stream.plan import StreamPlan, make_plan
from axialcli.engine.stream.proof import prove
from axialcli.errors import LimitError
from axialcli.geometry import Size
from tests.engine.stream import test_sparse
from tests.engine.stream.networks import randomised
from tests.engine.stream.test_flow import picture, streamed, whole

Code = Callable[[Any, Tensor], Tensor]


class Written(nn.Module):
    """A network with two convolutions and the forward that a test wrote."""

    def __init__(self, code: Code) -> None:
        super().__init__()
        self.code = code
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.wide = nn.Conv2d(3, 4, 1, padding=1)
        self.wider = nn.Conv2d(3, 4, 3, padding=4)
        self.back = nn.ConvTranspose2d(3, 4, 2, stride=2, output_padding=1)
        self.gain = nn.Parameter(torch.ones(1, 4, 1, 1))
        self.drop = nn.Dropout2d(0.5)

    def forward(self, x: Tensor, flag: bool = False) -> Tensor:
        return self.code(self, x)


def residual(net: Any, x: Tensor) -> Tensor:
    """What refinement networks do: the sum takes what the activation left."""
    y = net.conv(x)
    return net.again(net.relu(y)) + y  # type: ignore[no-any-return]


def thrown_away(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    F.relu(y, inplace=True)
    y.mul_(2)
    F.leaky_relu(y, 0.3, True)
    return y  # type: ignore[no-any-return]


def two_names(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    z = y
    y += 1
    y -= 0.5
    return z * y  # type: ignore[no-any-return]


def of_a_view(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)[:, :, 1:]
    return net.relu(y) * 2  # type: ignore[no-any-return]


def enlarged(pooled: Tensor, factors: tuple[int, int], like: Tensor) -> Tensor:
    finer = F.interpolate(pooled, scale_factor=factors, mode="bilinear", align_corners=False)
    return finer[:, :, : like.shape[2], : like.shape[3]]


EXACT: dict[str, Code] = {
    "residual": residual,
    "thrown away": thrown_away,
    "two names": two_names,
    "in place on a view": of_a_view,
    "padding beyond the kernel": lambda net, x: net.wide(x)[:, :, 1:-1, 1:-1],
    "much padding": lambda net, x: net.wider(x)[:, :, 3:-3, 3:-3],
    "output padding": lambda net, x: net.back(x),
    "alpha": lambda net, x: torch.sub(net.conv(x), net.wide(x)[:, :, 1:-1, 1:-1], alpha=2),
    "keywords": lambda net, x: torch.mul(input=net.conv(x), other=net.gain),
    "broadcast": lambda net, x: net.conv(x)[:, :1] * net.gain + x.mean(1, keepdim=True),
    "chunks": lambda net, x: torch.cat(net.conv(x).chunk(2, 1)[::-1], 1) + torch.split(net.conv(x), 4, 1)[0],
    "functions": lambda net, x: F.log_softmax(net.conv(x), dim=1) + F.softplus(net.conv(x)),
    "linear as a function": lambda net, x: F.linear(
        F.linear(net.conv(x).permute(0, 2, 3, 1), net.again.weight[2:, :, 1, 1], net.again.bias[2:]),
        weight=net.wide.weight[:, 1:, 0, 0],
    ).permute(0, 3, 1, 2),
    "dropout": lambda net, x: net.drop(F.dropout(net.conv(x), 0.3, training=net.training)),
    "pooling that fits": lambda net, x: F.max_pool2d(F.pad(x, (0, 2, 0, 1)), 2, stride=1, ceil_mode=True),
    "the mean of cells that the edge cuts": lambda net, x: enlarged(
        F.avg_pool2d(net.conv(x), (2, 3), ceil_mode=True), (2, 3), x
    ),
    "the most of cells that the edge cuts": lambda net, x: enlarged(
        F.max_pool2d(net.conv(x), 3, ceil_mode=True), (3, 3), x
    ),
    "only to the right": lambda net, x: F.avg_pool2d(F.pad(x, (0, 2, 0, 2)), 3, stride=1),
    "rounded down": lambda net, x: F.interpolate(net.conv(x), scale_factor=0.5),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("size", [(31, 45), (8, 12), (5, 3)])
def test_it_streams_exactly(name: str, size: tuple[int, int]) -> None:
    network = randomised(Written(EXACT[name]), 0)
    image_BCHW = picture(*size)
    expected = whole(network, image_BCHW.clone())
    for rows in (1, 3, 7):
        torch.testing.assert_close(streamed(network, image_BCHW, rows), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", EXACT)
def test_it_skips_background_exactly(name: str) -> None:
    network = randomised(Written(EXACT[name]), 0)
    image_BCHW, blank_HW = test_sparse.spotted(60, 700, [(0.4, 0.3)])
    found, flow = test_sparse.streamed(network, image_BCHW, blank_HW, 4)
    torch.testing.assert_close(found, whole(network, image_BCHW.clone()), rtol=0, atol=1e-9)
    assert flow.skipped > 0


def a_view_that_stays(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    view = y.permute(0, 2, 3, 1)
    y += 1
    return y + view.permute(0, 3, 1, 2)  # type: ignore[no-any-return]


REFUSED: dict[str, tuple[Code, str]] = {
    "a view that stays": (a_view_that_stays, "seen through a view"),
    "nearly twice": (lambda net, x: F.interpolate(x, scale_factor=2.02, mode="bilinear"), "2.02"),
    "nearly half": (lambda net, x: F.interpolate(x, scale_factor=0.4), "0.4"),
    "area of odd sides": (lambda net, x: F.interpolate(x, scale_factor=0.5, mode="area"), "not whole"),
    "a factor taken from the sizes": (
        lambda net, x: F.interpolate(x, scale_factor=0.5, mode="bilinear", recompute_scale_factor=True),
        "not whole",
    ),
    "exact and down": (lambda net, x: F.interpolate(x, scale_factor=0.5, mode="nearest-exact"), "down"),
    "dropout that stays on": (lambda net, x: F.dropout(x, 0.5), "drops at random"),
    "pooling that does not fit": (
        lambda net, x: F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, stride=2, ceil_mode=True),
        "ceil_mode",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name: str) -> None:
    code, word = REFUSED[name]
    with pytest.raises(NotStreamable, match=word):
        trace(Written(code).eval(), 3, Size(41, 41))


def test_hooks_are_refused() -> None:
    network = Written(EXACT["residual"]).eval()
    network.conv.register_forward_hook(lambda module, given, made: made * 2)
    with pytest.raises(NotStreamable, match="'conv' has a hook"):
        trace(network, 3, Size(40, 40))


def padded_to_sixteen(net: Any, x: Tensor) -> Tensor:
    """A common wrapper: symmetric padding to a multiple, cropped again."""
    height, width = x.shape[-2:]
    top, left = (-height % 16) // 2, (-width % 16) // 2
    y = net.conv(F.pad(x, (left, -width % 16 - left, top, -height % 16 - top)))
    y = F.interpolate(F.max_pool2d(y, 16), scale_factor=16)
    return y[..., top : top + height, left : left + width]  # type: ignore[no-any-return]


def planned(network: nn.Module, size: Size, free_bytes: int, **more: Any) -> StreamPlan:
    """The plan of a stream of RGB in float32 in that much memory."""
    return make_plan(
        network,
        3,
        size,
        bytes_per_number=4,
        bytes_per_px_of_width=0,
        free_bytes=free_bytes,
        max_ram_bytes=max(free_bytes, 1 << 20),
        **more,
    )


@pytest.mark.parametrize(
    ("code", "word"),
    [
        (padded_to_sixteen, "depends on the width"),
        (lambda net, x: F.pixel_shuffle(F.pixel_unshuffle(x, 4), 4), "too little"),
    ],
    ids=["padded", "shuffled"],
)
def test_what_depends_on_the_width_is_not_cut_into_strips(code: Code, word: str) -> None:
    network = randomised(Written(code), 0)
    image_BCHW = picture(36, 2500)
    torch.testing.assert_close(
        streamed(network, image_BCHW, 1), whole(network, image_BCHW), rtol=0, atol=1e-9
    )
    with pytest.raises(LimitError, match=word):
        planned(network, Size(200, 2500), 1 << 16)


def test_a_plan_for_a_huge_slide_is_made_or_refused_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    network = randomised(Written(EXACT["residual"]), 0)
    traced: list[Size] = []
    monkeypatch.setattr(
        "axialcli.engine.stream.strips.trace",
        lambda network, channels, size: (traced.append(size), trace(network, channels, size))[1],
    )
    with pytest.raises(LimitError, match="too little"):
        planned(network, Size(200_000, 200_000), 1 << 16)
    assert len(traced) < 50


def test_the_more_of_a_slide_is_blank_the_higher_its_steps() -> None:
    network = randomised(Written(EXACT["residual"]), 0)

    def rows_px(share: float) -> int:
        return planned(network, Size(20_000, 8192), 1 << 32, blank_share=share).rows_px

    assert rows_px(0.0) == 128
    assert rows_px(0.5) == rows_px(0.9) == rows_px(1.0) == 256


def test_a_trial_finds_a_rule_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    network = randomised(Written(EXACT["residual"]), 0, torch.float32)
    how: Any = {"dtype": torch.float32, "device": torch.device("cpu")}
    prove(network, 3, Size(4001, 3003), **how)
    monkeypatch.setitem(rules.MODULES, nn.ReLU, rules.MODULES[nn.Identity])
    with pytest.raises(NotStreamable, match="differ by"):
        prove(network, 3, Size(4001, 3003), **how)


def test_a_trial_finds_what_only_fails_when_it_runs() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(3)).eval()
    with pytest.raises(NotStreamable, match="a trial on"):
        prove(network, 3, Size(4001, 3003), dtype=torch.float32, device=torch.device("cpu"))
