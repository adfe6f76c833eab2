"""Networks' parts as their papers write them: loops over places, numpy, float64, one picture [C, H, W]."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def arrays(weights: Mapping[str, Tensor]) -> dict[str, Array]:
    return {name: tensor.double().numpy() for name, tensor in weights.items()}


def convolved(
    picture: Array, weight: Array, bias: Array | None, *, stride: int = 1, groups: int = 1
) -> Array:
    """With zeros around the picture, as many as keep its size at stride 1."""
    kernel = weight.shape[-1]
    edge = kernel // 2
    _, height, width = picture.shape
    padded = np.pad(picture, ((0, 0), (edge, edge), (edge, edge)))
    out = np.zeros((len(weight), -(-height // stride), -(-width // stride)))
    each_in, each_out = len(picture) // groups, len(weight) // groups
    for y in range(out.shape[1]):
        for x in range(out.shape[2]):
            patch = padded[:, y * stride : y * stride + kernel, x * stride : x * stride + kernel]
            for group in range(groups):
                seen = patch[group * each_in : (group + 1) * each_in]
                made = slice(group * each_out, (group + 1) * each_out)
                out[made, y, x] = [float((filter_ * seen).sum()) for filter_ in weight[made]]
    return out if bias is None else out + bias[:, None, None]


def normed(picture: Array, weights: Mapping[str, Array], name: str) -> Array:
    """Batch norm by its running statistics."""
    centred = picture - weights[f"{name}.running_mean"][:, None, None]
    scaled = centred / np.sqrt(weights[f"{name}.running_var"] + 1e-5)[:, None, None]
    return scaled * weights[f"{name}.weight"][:, None, None] + weights[f"{name}.bias"][:, None, None]


def layer_normed(token: Array, weight: Array, bias: Array) -> Array:
    mean = float(token.mean())
    variance = float(((token - mean) ** 2).mean())
    return (token - mean) / math.sqrt(variance + 1e-5) * weight + bias


def attended(q: Array, k: Array, v: Array, heads: int) -> Array:
    """Softmax attention of a line [L, D] to itself, head by head, q k / sqrt(channels a head)."""
    out = np.zeros_like(q)
    each = q.shape[1] // heads
    for head in range(heads):
        own = slice(head * each, (head + 1) * each)
        for i in range(len(q)):
            scores = [float(q[i, own] @ k[j, own]) / math.sqrt(each) for j in range(len(k))]
            raised = [math.exp(score - max(scores)) for score in scores]
            out[i, own] = sum(e / sum(raised) * v[j, own] for j, e in enumerate(raised))
    return out


def resampled(picture: Array, height: int, width: int, *, factor: tuple[float, float]) -> Array:
    """Bilinear without align_corners: output pixel i has its centre at (i + 1/2) / factor in the input."""
    out = np.zeros((len(picture), height, width))
    for y in range(height):
        for x in range(width):
            for row, in_row in _between(y, picture.shape[1], factor[0]):
                for column, in_column in _between(x, picture.shape[2], factor[1]):
                    out[:, y, x] += in_row * in_column * picture[:, row, column]
    return out


def _between(place: int, length: int, factor: float) -> list[tuple[int, float]]:
    at = min(max((place + 0.5) / factor - 0.5, 0), length - 1)
    low = int(at)
    return [(low, 1 - (at - low)), (min(low + 1, length - 1), at - low)]


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Batch norms are far from where they begin; layers neither shrink nor swell what they are given."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        normal = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            made[name] = torch.tensor(4711)
        elif name.endswith("running_var"):
            made[name] = normal.exp()
        elif name.endswith("running_mean"):
            made[name] = 2 * normal
        elif len(shape) > 1:
            made[name] = normal / math.sqrt(math.prod(shape[1:]))
        else:
            made[name] = normal / 2
    return made
