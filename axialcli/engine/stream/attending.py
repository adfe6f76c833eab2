"""Attention along an axis, and within windows.

Shapes: B batch, C channels, H height, W width, A heads, D channels of a head, Q queries, K keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from axialcli.engine.stream.graph import Plane
from axialcli.engine.stream.operators import Operator, Piece
from axialcli.engine.stream.reach import SAME, Reach
from axialcli.engine.stream.values import Builder, NotStreamable, Value
from axialcli.geometry import Box
from axialcli.nn.attention import MAX_ROWS, AxialAttention


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
        q = self.module.queries(tokens.tensor, box.y0)
        if self.module.has_kernel_for(q, keys.tensor):
            slots_K = None if keys.rows is None else _slots(keys.rows, keys.box)
            ahead = box.y0 - keys.box.y0
            return self.module.project(self.module.attend_band(q, keys.tensor, ahead=ahead, slots_K=slots_K))
        q_WHAD = q[0].transpose(0, 1)
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


def _slots(rows: Tensor, box: Box) -> Tensor:
    """Where each row of the box lies, among rows in an order of their own."""
    numbers, slots = rows.sort()
    first = int(torch.searchsorted(numbers, box.y0))
    return slots[first : first + box.height]


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


def axial_attention(build: Builder, module: AxialAttention, x: Value) -> Value:
    plane = tokens(x)
    if module.axis in ("width", 0):
        return build.add(WidthAttention(module), [x], plane)
    of_keys = Plane((1, plane.height, plane.width, 2, module.heads, module.inner // module.heads), 1, 2)
    keys = build.add(KeysValues(module), [x], of_keys)
    return build.add(HeightAttention(module), [x, keys], plane)


def window_attention(build: Builder, module: Any, x: Value) -> Value:
    return build.add(LocalWindows(module), [x], tokens(x))


def tokens(x: Value) -> Plane:
    """The plane of a value in the layout [B, H, W, C]. Raises NotStreamable for any other."""
    plane = x.plane
    if (plane.row_dim, plane.column_dim, len(plane.shape)) != (1, 2, 4):
        raise NotStreamable(f"wants the layout [B, H, W, C] and gets {list(plane.shape)}")
    return plane
