"""Axial attention in the place of a vision transformer's global attention, with its own projections.

Shapes: B batch, N tokens, C channels, A heads of D channels, M = B A; P tokens before the grid (class token,
registers), a grid of H x W tokens. Seen along an axis the grid is O lines of L tokens; Q queries, K keys.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.errors import ModelError
from axialcli.nn.blocks import Order

QUERIES = 64
"""Of each line at a time: it bounds what scores and cut-out keys take."""

PARTS = {"qkv", "proj", "q_norm", "k_norm", "norm", "attn_drop", "proj_drop"}
"""What an attention may be made of; any other part that does something has a meaning of its own."""

ARGUMENTS = {"attn_mask", "is_causal"}
"""What else an attention may be called with. Rotary positions, for one, are not among them."""

Before = tuple[Tensor, Tensor]
"""Keys and values [M, P, D] of the tokens before the grid, which all tokens see."""


def axialize(
    vit: nn.Module,
    *,
    order: Order = "width_height",
    span: int | None = None,
    grid: tuple[int, int] | None = None,
) -> nn.Module:
    """A copy of a ViT or DeiT whose blocks attend along the axes of the grid instead of everywhere.

    vit: any module with timm's names: `blocks.N.attn` with `qkv`, `proj`, `num_heads`, possibly `q_norm`,
    `k_norm`, `norm`, and `cls_token`, `reg_token` or `num_prefix_tokens` where tokens come before the grid.
    It stays as it is. The copy has the same weights under the same names, so that a state dict of one
    goes into the other. grid: rows and columns of tokens; None: as `patch_embed.grid_size` says, else
    square. order, span: see AxializedAttention.

    The weights were trained for another attention: expect to train some more. Where the grid has one row,
    or one column, and no span cuts it, nothing has changed: the answers are those of `vit`.

    Raises ModelError for a network of another kind, ValueError for settings that make no attention.
    """
    made = copy.deepcopy(vit)
    blocks = getattr(made, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not len(blocks):
        raise ModelError(f"{type(vit).__name__} has no `blocks`: it is no vision transformer of timm's kind")
    prefix = _tokens_before_the_grid(made)
    grid = grid or _grid_of(made, prefix)
    for number, block in enumerate(blocks):
        attention: Any = getattr(block, "attn", None)
        if reason := _why_not(attention):
            raise ModelError(f"{type(vit).__name__}: blocks.{number}.attn {reason}")
        block.attn = AxializedAttention(attention, grid=grid, prefix=prefix, order=order, span=span)
    return made


class AxializedAttention(nn.Module):
    """Attention of a grid of tokens along its axes, with the projections of an attention over all of them.

    forward: tokens [B, P + H W, C] -> the same shape. Queries, keys and values are made once, as they were.
    What changes is whom a token of the grid sees:

    order "width_height": its row and the tokens before the grid, and then, with the results of that pass for
    values, its column and the tokens before the grid; every token of the grid is two steps away.
    "height_width": the other way round. The second pass takes the same queries and keys and nothing is
    projected in between: the result stays an average of values, as `proj` was trained for; passed through
    `proj` and `qkv` in between it would not be. "parallel": its row, its column and the tokens before the
    grid under one softmax, itself counted once.

    span: odd, how many tokens of a line are seen, itself in the middle; None: the line. The tokens before
    the grid (class token, registers) see everything, in one step, as they did: that is linear in tokens.

    An axis of one token has no pass of its own: it would only show the tokens before the grid a second time.
    So on a grid of one line all of this is the original attention.

    Source: axial attention, Ho et al. 2019 (arXiv 1912.12180); the row and column under one softmax,
    criss-cross attention, Huang et al. 2019 (arXiv 1811.11721, section 3.2).
    """

    def __init__(
        self, attention: nn.Module, *, grid: tuple[int, int], prefix: int, order: Order, span: int | None
    ) -> None:
        super().__init__()
        if order not in ("width_height", "height_width", "parallel"):
            raise ValueError(f"order {order!r} is neither 'width_height', 'height_width' nor 'parallel'")
        if span is not None and (type(span) is not int or span % 2 == 0 or span < 1):
            raise ValueError(f"the span is {span}: it has to be odd, so that it has a centre")
        if min(grid) < 1:
            raise ValueError(f"a grid of {grid[0]} x {grid[1]} has no tokens")
        for name, part in attention.named_children():
            self.add_module(name, part)
        self.num_heads: int = attention.num_heads  # type: ignore[assignment]
        self.scale: Any = getattr(attention, "scale", None)
        self.grid, self.prefix, self.order, self.span = grid, prefix, order, span
        self.train(attention.training)

    def forward(self, x: Tensor, attn_mask: None = None, is_causal: bool = False) -> Tensor:
        height, width = self.grid
        if x.shape[1] != self.prefix + height * width:
            raise ValueError(
                f"{x.shape[1]} tokens are no grid of {height} x {width} and {self.prefix} before it:"
                " axialize(..., grid=(rows, columns)) for another"
            )
        if attn_mask is not None or is_causal:
            raise ValueError("axial attention takes no mask")
        qkv = self._part("qkv", x).view(*x.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = (part.flatten(0, 1) for part in self._normed(*qkv.unbind(0)))
        q_MHWD, k_MHWD, v_MHWD = (
            part[:, self.prefix :].view(len(part), height, width, -1) for part in (q, k, v)
        )
        before = (k[:, : self.prefix], v[:, : self.prefix])
        attend = self._at_once if self.order == "parallel" else self._in_turn
        out_MND = attend(q_MHWD, k_MHWD, v_MHWD, before).flatten(1, 2)
        if self.prefix:
            of_before = F.scaled_dot_product_attention(q[:, : self.prefix], k, v, dropout_p=self._dropout())
            out_MND = torch.cat([of_before, out_MND], 1)
        out_BNC = out_MND.view(len(x), self.num_heads, *out_MND.shape[1:]).transpose(1, 2).flatten(2)
        return self._part("proj_drop", self._part("proj", self._part("norm", out_BNC)))

    def _normed(self, q_BAND: Tensor, k_BAND: Tensor, v_BAND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As the attention has them, and so that scores are products over the root of D."""
        q_BAND, k_BAND = self._part("q_norm", q_BAND), self._part("k_norm", k_BAND)
        usual = q_BAND.shape[-1] ** -0.5
        if self.scale is not None and not math.isclose(self.scale, usual):
            q_BAND = q_BAND * (self.scale / usual)
        return q_BAND, k_BAND, v_BAND

    def _in_turn(self, q_MHWD: Tensor, k_MHWD: Tensor, v_MHWD: Tensor, before: Before) -> Tensor:
        axes = ("height", "width") if self.order == "height_width" else ("width", "height")
        longer = [axis for axis in axes if self.grid[axis == "width"] > 1] or axes[:1]
        for axis in longer:
            q, k, v = (_lines(part, axis) for part in (q_MHWD, k_MHWD, v_MHWD))
            v_MHWD = _lines(_attend(q, k, v, before, span=self.span, dropout=self._dropout()), axis)
        return v_MHWD

    def _at_once(self, q_MHWD: Tensor, k_MHWD: Tensor, v_MHWD: Tensor, before: Before) -> Tensor:
        row_MHWD = _attend(q_MHWD, k_MHWD, v_MHWD, before, span=self.span, dropout=self._dropout())
        if self.grid[0] == 1 or self.span == 1:
            return row_MHWD
        q, k, v = (_lines(part, "height") for part in (q_MHWD, k_MHWD, v_MHWD))
        others: Any = {"span": self.span, "itself": False}
        column_MHWD = _lines(_attend(q, k, v, None, dropout=self._dropout(), **others), "height")
        of_column_MHW = _log_of_sum(q, k, None, **others).transpose(1, 2)
        of_row_MHW = _log_of_sum(q_MHWD, k_MHWD, before[0], span=self.span)
        # Two softmaxes become one: each is weighed by its share of the sum of exponentials.
        share_MHW1 = (of_row_MHW - of_column_MHW).sigmoid()[..., None]
        return share_MHW1 * row_MHWD + (1 - share_MHW1) * column_MHWD

    def _part(self, name: str, x: Tensor) -> Tensor:
        part = self._modules.get(name)
        return x if part is None else part(x)

    def _dropout(self) -> float:
        return getattr(self._modules.get("attn_drop"), "p", 0.0) if self.training else 0.0


def _lines(grid_MHWD: Tensor, axis: str) -> Tensor:
    """The grid as lines [M, O, L, D] along an axis, and such lines as the grid."""
    return grid_MHWD if axis == "width" else grid_MHWD.transpose(1, 2)


def _attend(
    q_MOLD: Tensor,
    k_MOLD: Tensor,
    v_MOLD: Tensor,
    before: Before | None,
    *,
    span: int | None,
    dropout: float,
    itself: bool = True,
) -> Tensor:
    """Softmax attention of each line to itself and to the tokens `before` the grid: [M, O, L, D]."""
    keys_MPD, values_MPD = before or (None, None)
    made = []
    for queries, keys, seen_QK in _pieces(q_MOLD, keys_MPD, span, itself):
        made.append(
            F.scaled_dot_product_attention(
                q_MOLD[:, :, queries],
                _behind(keys_MPD, k_MOLD[:, :, keys]),
                _behind(values_MPD, v_MOLD[:, :, keys]),
                attn_mask=seen_QK,
                dropout_p=dropout,
            )
        )
    return torch.cat(made, 2)


def _log_of_sum(
    q_MOLD: Tensor, k_MOLD: Tensor, keys_MPD: Tensor | None, *, span: int | None, itself: bool = True
) -> Tensor:
    """The logarithm of what the softmax of `_attend` divides by, [M, O, L]."""
    made = []
    for queries, keys, seen_QK in _pieces(q_MOLD, keys_MPD, span, itself):
        scores = q_MOLD[:, :, queries] @ _behind(keys_MPD, k_MOLD[:, :, keys]).transpose(-1, -2)
        scores = scores * q_MOLD.shape[-1] ** -0.5
        made.append((scores if seen_QK is None else scores.masked_fill(~seen_QK, -math.inf)).logsumexp(-1))
    return torch.cat(made, 2)


def _behind(first_MPD: Tensor | None, line_MOKD: Tensor) -> Tensor:
    """The keys or values of lines behind those that all of them see: [M, O, P + K, D]."""
    if first_MPD is None or not first_MPD.shape[1]:
        return line_MOKD
    return torch.cat([first_MPD[:, None].expand(-1, line_MOKD.shape[1], -1, -1), line_MOKD], 2)


def _pieces(
    q_MOLD: Tensor, keys_MPD: Tensor | None, span: int | None, itself: bool
) -> Iterator[tuple[slice, slice, Tensor | None]]:
    """Some queries of all lines, the keys among which theirs are, and who sees whom: [Q, P + K], or None."""
    length, before = q_MOLD.shape[2], 0 if keys_MPD is None else keys_MPD.shape[1]
    radius = length if span is None else span // 2
    for start in range(0, length, QUERIES):
        stop = min(start + QUERIES, length)
        first, last = max(0, start - radius), min(length, stop + radius)
        seen_QK = None
        if not itself or max(stop - 1 - first, last - 1 - start) > radius:
            place_K = torch.arange(first, last, device=q_MOLD.device)
            apart_QK = (place_K - place_K.new_tensor(range(start, stop))[:, None]).abs()
            seen_QK = F.pad((apart_QK <= radius) & (itself | (apart_QK > 0)), (before, 0), value=True)
        yield slice(start, stop), slice(first, last), seen_QK


def _tokens_before_the_grid(vit: nn.Module) -> int:
    said = getattr(vit, "num_prefix_tokens", None)
    if isinstance(said, int):
        return said
    tokens = (getattr(vit, name, None) for name in ("cls_token", "dist_token", "reg_token"))
    return sum(token.shape[1] for token in tokens if isinstance(token, Tensor))


def _grid_of(vit: nn.Module, prefix: int) -> tuple[int, int]:
    """Rows and columns of tokens. Raises ModelError where they cannot be told."""
    said = getattr(getattr(vit, "patch_embed", None), "grid_size", None)
    if said is not None:
        return int(said[0]), int(said[1])
    table = getattr(vit, "pos_embed", None)
    tokens = table.shape[1] - prefix if isinstance(table, Tensor) and table.ndim == 3 else 0
    side = math.isqrt(max(0, tokens))
    if not side or side * side != tokens:
        raise ModelError(
            f"{type(vit).__name__} does not tell its grid: say axialize(..., grid=(rows, columns))"
        )
    return side, side


def _why_not(attention: Any) -> str | None:
    """Why that is no attention with projections and nothing else; None where it is one."""
    if not isinstance(attention, nn.Module) or not hasattr(attention, "num_heads"):
        return "is no attention with `num_heads`"
    parts: dict[str, Any] = dict(attention.named_children())
    heads: Any = attention.num_heads
    for name in ("qkv", "proj"):
        if not isinstance(parts.get(name), nn.Linear):
            return f"has no linear layer `{name}`"
    if parts["qkv"].out_features % (3 * heads):
        return f"has queries, keys and values that do not divide into {heads} heads"
    strange = {name for name, part in parts.items() if not isinstance(part, nn.Identity)} - PARTS
    numbers = (*attention.named_parameters(recurse=False), *attention.named_buffers(recurse=False))
    own = {name for name, _ in numbers}
    called_with = set(list(inspect.signature(attention.forward).parameters)[1:])
    if unknown := sorted(strange | own | (called_with - ARGUMENTS)):
        return f"has {', '.join(unknown)}, which axial attention has no place for"
    return None
