"""Poolings: over windows that slide, or over cells side by side.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.engine.stream.convolution import Neighbourhood, neighbourhood
from axialcli.engine.stream.operators import Operator, Piece
from axialcli.engine.stream.reach import Reach
from axialcli.engine.stream.values import Builder, NotStreamable, Value, channels_first, pair
from axialcli.geometry import Box


class Cells(Operator):
    """A pooling of [B, C, H, W] over cells side by side; those at the edge hold what there is."""

    fresh = True

    def __init__(self, apply: Callable[[Tensor], Tensor], *, cell: tuple[int, int]) -> None:
        super().__init__((Reach(step=cell[0], last=cell[0] - 1), Reach(step=cell[1], last=cell[1] - 1)))
        self.apply = apply

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        return self.apply(pieces[0].tensor)


def _fits(
    x: Value,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> bool:
    """Whether the kernel's steps end at the picture's edge, so that rounding up changes nothing."""
    return all(
        (length + 2 * p - d * (k - 1) - 1) % s == 0
        for length, k, s, p, d in zip(
            (x.plane.height, x.plane.width), kernel, stride, padding, dilation, strict=True
        )
    )


def max_pool(
    build: Builder,
    x: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    kernel, steps, spread = pair(kernel_size), pair(stride or kernel_size), pair(dilation)
    uneven = ceil_mode and not _fits(x, kernel, steps, pair(padding), spread)
    side_by_side = kernel == steps and not any(pair(padding)) and spread == (1, 1)
    if return_indices or (uneven and not side_by_side):
        raise NotStreamable("has return_indices, or a ceil_mode that matters")
    if uneven:
        return _cells(build, x, lambda x_BCHW: F.max_pool2d(x_BCHW, kernel, ceil_mode=True), kernel)

    def apply(x_BCHW: Tensor, pad: tuple[int, int]) -> Tensor:
        return F.max_pool2d(x_BCHW, kernel, steps, pad, spread)

    pool = Neighbourhood(
        apply, kernel=kernel, stride=steps, padding=pair(padding), dilation=spread, fill=-math.inf
    )
    return neighbourhood(build, x, pool)


def avg_pool(
    build: Builder,
    x: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    kernel, steps = pair(kernel_size), pair(stride or kernel_size)
    if ceil_mode and not _fits(x, kernel, steps, pair(padding), (1, 1)):
        if kernel != steps or any(pair(padding)) or divisor_override is not None:
            raise NotStreamable("has a ceil_mode that matters")
        return _cells(build, x, lambda x_BCHW: F.avg_pool2d(x_BCHW, kernel, ceil_mode=True), kernel)
    if any(pair(padding)) and not count_include_pad:
        raise NotStreamable("has a padding that does not count")

    def apply(x_BCHW: Tensor, pad: tuple[int, int]) -> Tensor:
        return F.avg_pool2d(x_BCHW, kernel, steps, pad, divisor_override=divisor_override)

    pool = Neighbourhood(apply, kernel=kernel, stride=steps, padding=pair(padding))
    return neighbourhood(build, x, pool)


def _cells(build: Builder, x: Value, apply: Callable[[Tensor], Tensor], cell: tuple[int, int]) -> Value:
    plane = channels_first(x)
    height, width = -(-plane.height // cell[0]), -(-plane.width // cell[1])
    return build.add(Cells(apply, cell=cell), [x], plane.with_size(height, width))


def max_pool_module(build: Builder, module: nn.MaxPool2d, x: Value) -> Value:
    return max_pool(
        build,
        x,
        module.kernel_size,
        module.stride,
        module.padding,
        module.dilation,
        module.ceil_mode,
        module.return_indices,
    )


def avg_pool_module(build: Builder, module: nn.AvgPool2d, x: Value) -> Value:
    return avg_pool(
        build,
        x,
        module.kernel_size,
        module.stride,
        module.padding,
        module.ceil_mode,
        module.count_include_pad,
        module.divisor_override,
    )
