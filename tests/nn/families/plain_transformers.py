"""The transformers among the families as they are plainly written down, from their weights: products of
matrices and a softmax, lines and windows brought together by permuting, a shift by turning the picture."""

from __future__ import annotations

from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.nn.families.plain_positions import Weights, under


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def layer_norm(x: Tensor, weights: Weights, name: str, eps: float = 1e-5) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def attended(q_NLC: Tensor, k_NLC: Tensor, v_NLC: Tensor, heads: int, add: Tensor | None = None) -> Tensor:
    """Softmax attention of lines [N, L, C]. add: to the scores [N, A, L, L]."""
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q_NLC, k_NLC, v_NLC))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if add is not None:
        scores = scores + add
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def vit(image: Tensor, weights: Weights) -> Tensor:
    kernel = weights["patch_embed.proj.weight"]
    x = F.conv2d(image, kernel, weights["patch_embed.proj.bias"], stride=kernel.shape[-1])
    first = weights["cls_token"].expand(len(image), -1, -1)
    x = torch.cat((first, x.flatten(2).transpose(1, 2)), 1) + weights["pos_embed"]
    normed, number = partial(layer_norm, eps=1e-6), 0
    while part := under(weights, f"blocks.{number}."):
        q, k, v = linear(normed(x, part, "norm1"), part, "attn.qkv").chunk(3, -1)
        x = x + linear(attended(q, k, v, x.shape[-1] // 64), part, "attn.proj")
        x = x + linear(F.gelu(linear(normed(x, part, "norm2"), part, "mlp.fc1")), part, "mlp.fc2")
        number += 1
    return linear(normed(x, weights, "norm")[:, 0], weights, "head")


def swin(image: Tensor, weights: Weights, *, window: int) -> Tensor:
    x = F.conv2d(image, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=4)
    x = layer_norm(x.permute(0, 2, 3, 1), weights, "patch_embed.norm")
    for stage in range(4):
        own = under(weights, f"layers.{stage}.")
        if stage:
            x = torch.cat([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], -1)
            x = linear(layer_norm(x, own, "downsample.norm"), own, "downsample.reduction")
        number = 0
        while part := under(own, f"blocks.{number}."):
            shift = window // 2 if number % 2 and x.shape[1] > window else 0
            x = x + _in_windows(layer_norm(x, part, "norm1"), under(part, "attn."), window, shift)
            x = x + linear(F.gelu(linear(layer_norm(x, part, "norm2"), part, "mlp.fc1")), part, "mlp.fc2")
            number += 1
    return linear(layer_norm(x, weights, "norm").mean((1, 2)), weights, "head.fc")


def _in_windows(x: Tensor, weights: Weights, window: int, shift: int) -> Tensor:
    """Of a square picture."""
    batch, side, _, channels = x.shape
    turned = x.roll((-shift, -shift), (1, 2)) if shift else x
    tokens = _cut(turned, window)
    q, k, v = linear(tokens, weights, "qkv").chunk(3, -1)
    add = weights["relative_position_bias_table"][_places(window)].permute(2, 0, 1)[None]
    if shift:
        add = add + _apart(side, window, shift, x.dtype).repeat(batch, 1, 1)[:, None]
    made = linear(attended(q, k, v, channels // 32, add), weights, "proj")
    made = made.view(batch, side // window, side // window, window, window, channels)
    made = made.permute(0, 1, 3, 2, 4, 5).reshape(x.shape)
    return made.roll((shift, shift), (1, 2)) if shift else made


def _cut(x: Tensor, window: int) -> Tensor:
    """A picture [B, H, W, C] as windows [N, L, C]."""
    batch, height, width, channels = x.shape
    parts = x.view(batch, height // window, window, width // window, window, channels)
    return parts.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, channels)


@cache
def _places(window: int) -> Tensor:
    """[L, L], the rows of the table."""
    y, x = torch.arange(window).repeat_interleave(window), torch.arange(window).repeat(window)
    down, across = y[:, None] - y[None] + window - 1, x[:, None] - x[None] + window - 1
    return down * (2 * window - 1) + across


@cache
def _apart(side: int, window: int, shift: int, dtype: torch.dtype) -> Tensor:
    """[N, L, L], -100 between tokens that only turning the picture brought together."""
    edges = torch.zeros(side, dtype=torch.int64)
    edges[-window:-shift], edges[-shift:] = 1, 2
    regions = _cut((3 * edges[:, None] + edges[None])[None, ..., None], window)[..., 0]
    return torch.where(regions[:, :, None] == regions[:, None], 0.0, -100.0).to(dtype)


def lines_of(tokens_BHWC: Tensor, axis: str) -> Tensor:
    """[N, L, C], for attention along that axis."""
    return (tokens_BHWC.transpose(1, 2) if axis == "height" else tokens_BHWC).flatten(0, 1)


def picture_of(lines_NLC: Tensor, like_BHWC: Tensor, axis: str) -> Tensor:
    batch, height, width = like_BHWC.shape[:3]
    if axis == "height":
        return lines_NLC.reshape(batch, width, height, -1).transpose(1, 2)
    return lines_NLC.view(batch, height, width, -1)


def axial_transformer(image: Tensor, weights: Weights, *, heads: int, stride: int) -> Tensor:
    x = F.conv2d(image, weights["embed.weight"], weights["embed.bias"], stride=stride).permute(0, 2, 3, 1)
    x, number = x + weights["positions.pos_h"][:, None] + weights["positions.pos_w"], 0
    while part := under(weights, f"blocks.{number}."):
        axis = ("width", "height")[number % 2]
        lines = lines_of(layer_norm(x, part, "norm"), axis)
        seen = attended(*linear(lines, part, "attention.qkv").chunk(3, -1), heads)
        x = x + picture_of(linear(seen, part, "attention.proj"), x, axis)
        hidden = linear(layer_norm(x, part, "norm_mlp"), part, "mlp.0")
        x = x + linear(hidden * torch.sigmoid(1.702 * hidden), part, "mlp.2")
        number += 1
    return F.pixel_shuffle(
        linear(layer_norm(x, weights, "norm"), weights, "head").permute(0, 3, 1, 2), stride
    )


def lucidrains_attention(tokens: Tensor, weights: Weights, *, heads: int) -> Tensor:
    """The sum of both axes, of which the first is the columns."""
    return sum(
        (
            _lucidrains_along(tokens, under(weights, f"axial_attentions.{number}.fn."), axis, heads)
            for number, axis in enumerate(("height", "width"))
        ),
        start=torch.zeros_like(tokens),
    )


def _lucidrains_along(tokens: Tensor, weights: Weights, axis: str, heads: int) -> Tensor:
    lines = lines_of(tokens, axis)
    k, v = linear(lines, weights, "to_kv").chunk(2, -1)
    made = linear(attended(linear(lines, weights, "to_q"), k, v, heads), weights, "to_out")
    return picture_of(made, tokens, axis)


def lucidrains_transformer(features: Tensor, weights: Weights, *, heads: int) -> Tensor:
    """The reversible kind: two streams that begin alike, and their mean."""
    first = second = features + weights["pos_emb.param_0"] + weights["pos_emb.param_1"]
    number = 0
    while block := under(weights, f"layers.blocks.{number}."):
        f, g = (under(block, f"{name}.net.") for name in "fg")
        if number % 2:
            first = first + _lucidrains_fed(second, f)
            second = second + _lucidrains_fed(first, g)
        else:
            first = first + _lucidrains_normed(second, f, "height", heads)
            second = second + _lucidrains_normed(first, g, "width", heads)
        number += 1
    return (first + second) / 2


def _lucidrains_normed(x: Tensor, weights: Weights, axis: str, heads: int) -> Tensor:
    tokens = layer_norm(x.permute(0, 2, 3, 1), weights, "fn.norm")
    return _lucidrains_along(tokens, under(weights, "fn.fn."), axis, heads).permute(0, 3, 1, 2)


def _lucidrains_fed(x: Tensor, weights: Weights) -> Tensor:
    deviation = x.var(1, unbiased=False, keepdim=True).sqrt()
    x = (x - x.mean(1, keepdim=True)) / (deviation + 1e-5) * weights["0.g"] + weights["0.b"]
    x = F.leaky_relu(F.conv2d(x, weights["1.weight"], weights["1.bias"], padding=1))
    return F.conv2d(x, weights["3.weight"], weights["3.bias"], padding=1)
