"""Convolutions, and what else slides a kernel over the picture.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.engine.stream.operators import Operator, Piece, parts
from axialcli.engine.stream.reach import Reach
from axialcli.engine.stream.values import Builder, NotStreamable, Value, channels_first, pair
from axialcli.geometry import Box, Size

Apply = Callable[[Tensor, tuple[int, int]], Tensor]
"""An operator over [B, C, H, W] with so much padding on both sides of the height and of the width."""

VECTOR = {"AVX512": 16, "AVX2": 8}.get(torch.backends.cpu.get_cpu_capability(), 0)
"""Numbers of float32 in the widest vector of this processor; 0 where that is not known."""


class Neighbourhood(Operator):
    """A convolution or a pooling: a kernel slides over [B, C, H, W], beyond the edge lies `fill`.

    apply: the operator itself, which pads with zeros (or -inf).
    """

    fresh = True
    border = True

    def __init__(
        self,
        apply: Apply,
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

    def made(self, size: Size) -> Size:
        """The size of what is made of an input of that size."""
        height, width = (
            (length + padding - reach.last - 1) // reach.step + 1
            for length, padding, reach in zip(size, self.padding, self.reaches[0], strict=True)
        )
        return Size(height, width)

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


class Convolution(Neighbourhood):
    """nn.Conv2d that pads with zeros, and a bias where there is one."""

    def __init__(
        self,
        weight_OCHW: Tensor,
        bias_O: Tensor | None,
        *,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> None:
        kernel = (weight_OCHW.shape[2], weight_OCHW.shape[3])
        super().__init__(self._convolve, kernel=kernel, stride=stride, padding=padding, dilation=dilation)
        self.weight_OCHW = weight_OCHW.detach()
        self.bias_O = None if bias_O is None else bias_O.detach()
        self.stride, self.dilation, self.groups = stride, dilation, groups
        if self._is_narrow():
            self._of_both = _of_both(self.weight_OCHW), None if bias_O is None else bias_O.detach().repeat(2)
            self.apply = self._convolve_pairs

    def reordered(self, order_O: Tensor) -> Convolution:
        """The same with its output channels in another order: channel i is what order_O[i] was."""
        if self.groups > 1:
            raise ValueError("the channels of a group have to stay together")
        return Convolution(
            self.weight_OCHW[order_O],
            None if self.bias_O is None else self.bias_O[order_O],
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=1,
        )

    def _convolve(self, x_BCHW: Tensor, padding: tuple[int, int]) -> Tensor:
        return F.conv2d(
            x_BCHW, self.weight_OCHW, self.bias_O, self.stride, padding, self.dilation, self.groups
        )

    def _is_narrow(self) -> bool:
        """Whether the channels of two columns fit a vector, and are made sooner than those of one."""
        channels, _, _, width = self.weight_OCHW.shape
        alone = self.stride[1] == self.dilation[1] == self.groups == 1 < width
        return alone and 2 * channels <= VECTOR and self.weight_OCHW.device.type == "cpu"

    def _convolve_pairs(self, x_BCHW: Tensor, padding: tuple[int, int]) -> Tensor:
        """Two columns at a time, as the channels of one position of a convolution that moves by two."""
        weight_OCHW, bias_O = self._of_both
        # Of an odd number of columns the first pair has one that lies a column before them.
        odd = (x_BCHW.shape[3] + 2 * padding[1] - weight_OCHW.shape[3]) % 2
        made_BCHW = F.conv2d(
            x_BCHW,
            weight_OCHW,
            bias_O,
            (self.stride[0], 2),
            (padding[0], padding[1] + odd),
            self.dilation,
        )
        made_BHWC = made_BCHW.permute(0, 2, 3, 1).contiguous()
        batch, height, pairs, channels = made_BHWC.shape
        made_BHWC = made_BHWC.view(batch, height, 2 * pairs, channels // 2)
        return made_BHWC.permute(0, 3, 1, 2)[..., odd:]


def _of_both(weight_OCHW: Tensor) -> Tensor:
    """Weights of a kernel one column wider, for the channels of a position and for those of the next one.

    What is multiplied by zero for that is less than what a vector half empty does for nothing. Zero times
    infinity is no number: one that is not finite is felt a column farther than by the convolution itself.
    """
    first_OCHW = F.pad(weight_OCHW, (0, 1))
    both_OCHW = torch.cat((first_OCHW, first_OCHW.roll(1, -1)))
    return both_OCHW.contiguous(memory_format=torch.channels_last)


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
    channels_first(x)
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

    convolution = Convolution(
        module.weight,
        module.bias,
        stride=pair(module.stride),
        padding=pair(padding),
        dilation=pair(module.dilation),
        groups=module.groups,
    )
    return neighbourhood(build, x, convolution, module.out_channels)


def neighbourhood(build: Builder, x: Value, operator: Neighbourhood, channels: int | None = None) -> Value:
    """A node that slides a kernel over `x`; channels: of its output, None for those of `x`."""
    plane = channels_first(x)
    height, width = operator.made(Size(plane.height, plane.width))
    if height < 1 or width < 1:
        raise NotStreamable(f"leaves nothing of {plane.height} x {plane.width}")
    return build.add(operator, [x], plane.with_size(height, width, channels))


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
