"""Convolutions, and what else slides a kernel over the picture.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.engine.stream.graph import Plane
from axialcli.engine.stream.operators import Operator, Piece, parts
from axialcli.engine.stream.reach import Reach
from axialcli.engine.stream.values import Builder, NotStreamable, Value, channels_first, pair
from axialcli.geometry import Box


class Neighbourhood(Operator):
    """A convolution or a pooling: a kernel slides over [B, C, H, W], beyond the edge lies `fill`.

    apply(tensor, padding): the operator itself with that zero (or -inf) padding on both sides.
    """

    fresh = True
    border = True

    def __init__(
        self,
        apply: Callable[[Tensor, tuple[int, int]], Tensor],
        *,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int] = (1, 1),
        fill: float = 0.0,
    ) -> None:
        super().__init__(
            tuple(  # type: ignore[arg-type] # two of them
                Reach(step=s, first=-p, last=d * (k - 1) - p)
                for k, s, p, d in zip(kernel, stride, padding, dilation, strict=True)
            )
        )
        self.apply, self.fill, self.padding = apply, fill, padding

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        x_BCHW = pieces[0].tensor
        pads: list[tuple[int, int]] = []
        spans = ((box.y0, box.y1), (box.x0, box.x1))
        for dim, reach, span, length in zip((2, 3), self.reaches[0], spans, pieces[0].size, strict=True):
            before, there, behind = parts(reach, *span, length)
            pads.append((before, behind))
            # Of a box that lies in the padding alone nothing is there, although a row was given.
            x_BCHW = x_BCHW.narrow(dim, 0, there)
        (top, bottom), (left, right) = pads
        if 0 in x_BCHW.shape:
            return self.apply(F.pad(x_BCHW, (left, right, top, bottom), value=self.fill), (0, 0))
        # The operator pads both sides alike and for free; what it makes too much is cut off again.
        top, left = min(top, self.padding[0]), min(left, self.padding[1])
        if bottom > top or right > left:
            x_BCHW = F.pad(x_BCHW, (0, max(right - left, 0), 0, max(bottom - top, 0)), value=self.fill)
        out_BCHW = self.apply(x_BCHW, (top, left))
        return out_BCHW[:, :, : box.height, : box.width]


class Transposed(Operator):
    """A transposed convolution over [B, C, H, W]."""

    fresh = True
    border = True

    def __init__(self, module: nn.ConvTranspose2d) -> None:
        reaches = []
        for k, s, p, d in zip(
            module.kernel_size, module.stride, module.padding, module.dilation, strict=True
        ):
            assert isinstance(p, int)
            reaches.append(Reach(per=s, first=p - d * (k - 1) + s - 1, last=p))
        super().__init__((reaches[0], reaches[1]))
        self.module = module

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        module, inside = self.module, pieces[0].box
        skip_y = box.y0 + int(module.padding[0]) - inside.y0 * module.stride[0]
        skip_x = box.x0 + int(module.padding[1]) - inside.x0 * module.stride[1]
        reach = [d * (k - 1) + 1 for k, d in zip(module.kernel_size, module.dilation, strict=True)]
        made = [
            (length - 1) * s + r
            for length, s, r in zip((inside.height, inside.width), module.stride, reach, strict=True)
        ]
        extra = (
            max(0, skip_y + box.height - made[0]),
            max(0, skip_x + box.width - made[1]),
        )
        out_BCHW = F.conv_transpose2d(
            pieces[0].tensor,
            module.weight,
            module.bias,
            module.stride,
            0,
            extra,
            module.groups,
            module.dilation,
        )
        return out_BCHW[:, :, skip_y : skip_y + box.height, skip_x : skip_x + box.width]


def conv2d(build: Builder, module: nn.Conv2d, x: Value) -> Value:
    plane = channels_first(x)
    if module.padding_mode != "zeros":
        raise NotStreamable(f"pads with '{module.padding_mode}'")
    padding = module.padding
    if isinstance(padding, str):
        if padding == "same" and any(
            d * (k - 1) % 2 for k, d in zip(module.kernel_size, module.dilation, strict=True)
        ):
            raise NotStreamable("pads one side more than the other")
        padding = (
            tuple(d * (k - 1) // 2 for k, d in zip(module.kernel_size, module.dilation, strict=True))
            if padding == "same"
            else (0, 0)
        )

    def apply(x_BCHW: Tensor, pad: tuple[int, int]) -> Tensor:
        return F.conv2d(
            x_BCHW, module.weight, module.bias, module.stride, pad, module.dilation, module.groups
        )

    return neighbourhood(
        build,
        x,
        plane,
        apply,
        module.kernel_size,
        module.stride,
        padding,
        module.dilation,
        0.0,
        module.out_channels,
    )


def neighbourhood(
    build: Builder,
    x: Value,
    plane: Plane,
    apply: Callable[[Tensor, tuple[int, int]], Tensor],
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    fill: float,
    channels: int | None = None,
) -> Value:
    kernel, stride, padding, dilation = map(pair, (kernel, stride, padding, dilation))
    height, width = (
        (length + 2 * p - d * (k - 1) - 1) // s + 1
        for length, k, s, p, d in zip(
            (plane.height, plane.width), kernel, stride, padding, dilation, strict=True
        )
    )
    if height < 1 or width < 1:
        raise NotStreamable(f"leaves nothing of {plane.height} x {plane.width}")
    made = Neighbourhood(apply, kernel=kernel, stride=stride, padding=padding, dilation=dilation, fill=fill)
    return build.add(made, [x], plane.with_size(height, width, channels))


def conv_transpose2d(build: Builder, module: nn.ConvTranspose2d, x: Value) -> Value:
    plane = channels_first(x)
    height, width = (
        (length - 1) * s - 2 * int(p) + d * (k - 1) + int(extra) + 1
        for length, k, s, p, d, extra in zip(
            (plane.height, plane.width),
            module.kernel_size,
            module.stride,
            module.padding,
            module.dilation,
            module.output_padding,
            strict=True,
        )
    )
    return build.add(Transposed(module), [x], plane.with_size(height, width, module.out_channels))
