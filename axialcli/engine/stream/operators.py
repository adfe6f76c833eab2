"""The operators of a stream: what each needs of its inputs, and how it makes one box of its output.

Coordinates are those of the whole picture on the node's own grid. Shapes: B batch, C channels, H height,
W width, A heads, D channels of a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.engine.stream.reach import SAME, Reach
from axialcli.geometry import Box, Size
from axialcli.nn.attention import MAX_ROWS, AxialAttention

Axes = tuple[Reach, Reach]
"""What is needed along the height, and along the width."""


@dataclass(frozen=True)
class Piece:
    """A box of a node's output. tensor: its numbers, in the node's layout. size: of the whole output.

    owned: nobody else reads the tensor, it may be overwritten. rows: where the rows of the tensor stand in
    an order of their own (a ring), their numbers; otherwise None.
    """

    tensor: Tensor
    box: Box
    size: Size
    owned: bool = False
    rows: Tensor | None = None


class Operator(ABC):
    """One kind of operator. reaches: per input. border: what lies beyond the picture's edge changes the
    numbers there (zero padding), also where the picture is of one colour."""

    border = False
    any_order = False
    """The last input may come with its rows in any order (a ring)."""
    fresh = False
    """What `run` gives back shares no memory with an input that somebody else reads."""

    def __init__(self, *reaches: Axes) -> None:
        self.reaches = reaches

    @abstractmethod
    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        """The numbers of `box`, from pieces that cover what the reaches ask for."""

    def run_into(self, pieces: Sequence[Piece], box: Box, out: Tensor) -> None:
        """The same, written into `out`."""
        out.copy_(self.run(pieces, box))


class Pointwise(Operator):
    """A function of the numbers at one position: norms over channels, activations, sums, MLPs."""

    def __init__(self, function: Callable[..., Tensor], inputs: int) -> None:
        super().__init__(*[(SAME, SAME)] * inputs)
        self.function = function

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        return self.function(*(piece.tensor for piece in pieces))


class Relu(Operator):
    """max(x, 0), in place where nobody else reads x."""

    fresh = True

    def __init__(self) -> None:
        super().__init__((SAME, SAME))

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        return torch.relu_(pieces[0].tensor) if pieces[0].owned else torch.relu(pieces[0].tensor)

    def run_into(self, pieces: Sequence[Piece], box: Box, out: Tensor) -> None:
        torch.clamp_min(pieces[0].tensor, 0, out=out)


class Add(Operator):
    """The sum of two inputs."""

    fresh = True

    def __init__(self) -> None:
        super().__init__((SAME, SAME), (SAME, SAME))

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        first, second = pieces
        if first.owned:
            return first.tensor.add_(second.tensor)
        return second.tensor.add_(first.tensor) if second.owned else first.tensor + second.tensor

    def run_into(self, pieces: Sequence[Piece], box: Box, out: Tensor) -> None:
        torch.add(pieces[0].tensor, pieces[1].tensor, out=out)


class Linear(Operator):
    """A matrix applied to the channels of each position of [B, H, W, C]."""

    fresh = True

    def __init__(self, module: nn.Linear) -> None:
        super().__init__((SAME, SAME))
        self.module = module

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        return self.module(pieces[0].tensor)  # type: ignore[no-any-return]


class Neighbourhood(Operator):
    """A convolution or a pooling: a kernel slides over [B, C, H, W], beyond the edge lies `fill`.

    apply(tensor, padding): the operator itself with that zero (or -inf) padding on both sides.
    """

    fresh = True

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
        self.apply, self.fill = apply, fill
        self.border = any(padding)

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        piece = pieces[0]
        (top, bottom), (left, right) = (
            missing(reach, start, stop, length)
            for reach, (start, stop), length in zip(
                self.reaches[0], ((box.y0, box.y1), (box.x0, box.x1)), piece.size, strict=True
            )
        )
        x_BCHW = piece.tensor
        # The operator pads both sides alike and for free; what it makes too much is cut off again.
        if bottom > top or right > left:
            x_BCHW = F.pad(x_BCHW, (0, max(right - left, 0), 0, max(bottom - top, 0)), value=self.fill)
        out_BCHW = self.apply(x_BCHW, (top, left))
        return out_BCHW[:, :, : box.height, : box.width]


def missing(reach: Reach, start: int, stop: int, length: int) -> tuple[int, int]:
    """How many inputs before and behind the picture's edges the outputs [start, stop) ask for."""
    low, high = reach.needs(start, stop)
    return max(0, -low), max(0, high - length)


class Transposed(Operator):
    """A transposed convolution over [B, C, H, W]."""

    fresh = True

    def __init__(self, module: nn.ConvTranspose2d) -> None:
        reaches = []
        for k, s, p, d in zip(
            module.kernel_size, module.stride, module.padding, module.dilation, strict=True
        ):
            assert isinstance(p, int)
            reaches.append(Reach(per=s, first=p - d * (k - 1) + s - 1, last=p))
        super().__init__((reaches[0], reaches[1]))
        self.module = module
        # Edge outputs get fewer contributions than inner ones.
        self.border = any(
            d * (k - 1) + 1 > s
            for k, s, d in zip(module.kernel_size, module.stride, module.dilation, strict=True)
        )

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


class Resize(Operator):
    """Resampling of [B, C, H, W] by whole factors, up or down, without align_corners."""

    def __init__(self, *, up: tuple[int, int], down: tuple[int, int], mode: str) -> None:
        near = 0 if mode == "nearest" else 1
        reaches = []
        for factor, by in zip(up, down, strict=True):
            if by > 1:
                reaches.append(Reach(step=by, last=by - 1))
            elif factor > 1 and near:
                # The source of output i is (i + 1/2) / factor - 1/2, between two inputs.
                reaches.append(Reach(step=2, per=2 * factor, first=1 - factor, last=1 + factor))
            else:
                reaches.append(Reach(per=factor))
        super().__init__((reaches[0], reaches[1]))
        self.scale = tuple(float(factor) / by for factor, by in zip(up, down, strict=True))
        self.up, self.down, self.mode = up, down, mode

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        inside = pieces[0].box
        corners = {} if self.mode in ("nearest", "area") else {"align_corners": False}
        out_BCHW = F.interpolate(pieces[0].tensor, scale_factor=self.scale, mode=self.mode, **corners)
        y = box.y0 - inside.y0 * self.up[0] // self.down[0]
        x = box.x0 - inside.x0 * self.up[1] // self.down[1]
        return out_BCHW[:, :, y : y + box.height, x : x + box.width]


class Shuffle(Operator):
    """Channels to pixels: [B, C * r * r, H, W] -> [B, C, H * r, W * r]."""

    def __init__(self, factor: int) -> None:
        super().__init__((Reach(per=factor), Reach(per=factor)))
        self.factor = factor

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        inside, r = pieces[0].box, self.factor
        out_BCHW = F.pixel_shuffle(pieces[0].tensor, r)
        y, x = box.y0 - inside.y0 * r, box.x0 - inside.x0 * r
        return out_BCHW[:, :, y : y + box.height, x : x + box.width]

    def run_into(self, pieces: Sequence[Piece], box: Box, out: Tensor) -> None:
        inside, r = pieces[0].box, self.factor
        if box != Box(inside.y0 * r, inside.x0 * r, inside.y1 * r, inside.x1 * r):
            super().run_into(pieces, box, out)
            return
        batch, channels, height, width = pieces[0].tensor.shape
        cells = pieces[0].tensor.view(batch, channels // r**2, r, r, height, width).permute(0, 1, 4, 2, 5, 3)
        out.unflatten(2, (height, r)).unflatten(4, (width, r)).copy_(cells)


class Unshuffle(Operator):
    """Pixels to channels: [B, C, H * r, W * r] -> [B, C * r * r, H, W]."""

    def __init__(self, factor: int) -> None:
        super().__init__(*[(Reach(step=factor, last=factor - 1),) * 2])
        self.factor = factor

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        return F.pixel_unshuffle(pieces[0].tensor, self.factor)


class Shift(Operator):
    """A crop or a padding: output i is input i + offset, or `fill` where there is none."""

    def __init__(self, row_dim: int, column_dim: int, *, rows: int, columns: int, fill: float) -> None:
        super().__init__((Reach(first=rows, last=rows), Reach(first=columns, last=columns)))
        self.dims, self.fill = (row_dim, column_dim), fill
        self.border = rows < 0 or columns < 0

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        out = pieces[0].tensor
        pads = [0] * (2 * out.dim())
        for dim, reach, (start, stop), length in zip(
            self.dims, self.reaches[0], ((box.y0, box.y1), (box.x0, box.x1)), pieces[0].size, strict=True
        ):
            before, behind = missing(reach, start, stop, length)
            # A box that lies beside the picture asks for nothing of it.
            out = out.narrow(dim, 0, max(0, stop - start - before - behind))
            at = 2 * (out.dim() - 1 - dim)
            pads[at], pads[at + 1] = min(before, stop - start), min(behind, stop - start)
        return F.pad(out, pads, value=self.fill) if any(pads) else out


class WidthAttention(Operator):
    """Attention along the width: rows are independent."""

    fresh = True

    def __init__(self, module: AxialAttention) -> None:
        radius = None if module.span is None else module.span // 2
        across = Reach(whole=True) if radius is None else Reach(first=-radius, last=radius)
        super().__init__((SAME, across))
        self.module = module

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        inside = pieces[0].box
        out_BHWC = self.module(pieces[0].tensor)
        return out_BHWC[:, :, box.x0 - inside.x0 : box.x1 - inside.x0]  # type: ignore[no-any-return]


class KeysValues(Operator):
    """The keys and values of an attention along the height, [B, H, W, 2, A, D], each made once."""

    fresh = True

    def __init__(self, module: AxialAttention) -> None:
        super().__init__((SAME, SAME))
        self.module = module

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        return self.module.keys_values(pieces[0].tensor, box.y0)

    def run_into(self, pieces: Sequence[Piece], box: Box, out: Tensor) -> None:
        if out.is_contiguous():
            self.module.keys_values(pieces[0].tensor, box.y0, out=out)
        else:
            super().run_into(pieces, box, out)


class HeightAttention(Operator):
    """Attention along the height: queries from the first input, keys and values from the second."""

    fresh = True
    any_order = True

    def __init__(self, module: AxialAttention) -> None:
        radius = None if module.span is None else module.span // 2
        along = Reach(whole=True) if radius is None else Reach(first=-radius, last=radius)
        super().__init__((SAME, SAME), (along, SAME))
        self.module = module

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        tokens, keys = pieces
        q_WHAD = self.module.queries(tokens.tensor, box.y0)[0].transpose(0, 1)
        k_WHAD, v_WHAD = keys.tensor[0].transpose(0, 1).unbind(2)
        mask_AQK = self._band(box, keys)
        out_HWAD = torch.empty_like(q_WHAD.transpose(0, 1), memory_format=torch.contiguous_format)
        for left in range(0, box.width, MAX_ROWS):
            columns = slice(left, left + MAX_ROWS)
            out_HWAD[:, columns] = F.scaled_dot_product_attention(
                q_WHAD[columns].transpose(1, 2),
                k_WHAD[columns].transpose(1, 2),
                v_WHAD[columns].transpose(1, 2),
                attn_mask=None if mask_AQK is None else mask_AQK[None],
            ).permute(2, 0, 1, 3)
        return self.module.project(out_HWAD[None])

    def _band(self, box: Box, keys: Piece) -> Tensor | None:
        device = keys.tensor.device
        rows = torch.arange(keys.box.y0, keys.box.y1, device=device) if keys.rows is None else keys.rows
        return self.module.band(torch.arange(box.y0, box.y1, device=device), rows)


class LocalWindows(Operator):
    """Attention within windows of the absolute grid."""

    fresh = True

    def __init__(self, module: Any) -> None:
        reach = Reach(block=module.window)
        super().__init__((reach, reach))
        self.module = module

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        inside = pieces[0].box
        out_BHWC: Tensor = self.module(pieces[0].tensor)
        return out_BHWC[:, box.y0 - inside.y0 : box.y1 - inside.y0, box.x0 - inside.x0 : box.x1 - inside.x0]
