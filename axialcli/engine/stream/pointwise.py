"""Operators that look at one position at a time: norms, activations, sums, layers of an MLP.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from axialcli.engine.stream.graph import Plane
from axialcli.engine.stream.operators import Operator, Piece
from axialcli.engine.stream.reach import SAME
from axialcli.engine.stream.values import (
    Builder,
    NotStreamable,
    Rule,
    Value,
    channels_first,
    channels_last,
    same_everywhere,
    same_grid,
    same_plane,
)
from axialcli.geometry import Box


class Pointwise(Operator):
    """A function of the numbers at one position: norms over channels, activations, sums, MLPs."""

    def __init__(self, function: Callable[..., Tensor], inputs: int) -> None:
        super().__init__(*[(SAME, SAME)] * inputs)
        self.function = function

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        return self.function(*(piece.tensor for piece in pieces))


class Norm(Pointwise):
    """A norm over the channels of each position: cheap enough to be made twice."""

    fresh = True

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module, 1)


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


def pointwise(
    build: Builder, function: Callable[..., Tensor], inputs: Sequence[Value], plane: Plane
) -> Value:
    """A node that applies a function to the numbers of its inputs."""
    return build.add(Pointwise(function, len(inputs)), inputs, plane)


def linear(build: Builder, module: nn.Linear, x: Value) -> Value:
    plane = channels_last(x)
    out = Plane((*plane.shape[:-1], module.out_features), plane.row_dim, plane.column_dim)
    return build.add(Linear(module), [x], out)


def linear_function(build: Builder, x: Value, weight: Tensor, bias: Tensor | None = None) -> Value:
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    module.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        module.bias = nn.Parameter(bias, requires_grad=False)
    return linear(build, module, x)


def layer_norm(build: Builder, module: nn.LayerNorm, x: Value) -> Value:
    if len(module.normalized_shape) > len(x.plane.shape) - 1 - max(x.plane.row_dim, x.plane.column_dim):
        raise NotStreamable("takes its statistics over the picture")
    return build.add(Norm(module), [x], x.plane)


def batch_norm(build: Builder, module: nn.BatchNorm2d, x: Value) -> Value:
    channels_first(x)
    if module.training or module.running_mean is None:
        raise NotStreamable("takes its statistics from the picture: switch it to evaluation")
    return pointwise(build, module, [x], x.plane)


def relu_module(build: Builder, module: nn.Module, x: Value) -> Value:
    return build.add(Relu(), [x], x.plane)


def activation(build: Builder, module: nn.Module, x: Value) -> Value:
    if getattr(module, "inplace", False):
        # The same object serves the network elsewhere; a stream's buffers must not be overwritten.
        module = copy.copy(module)
        module.inplace = False  # type: ignore[assignment] # a plain attribute of every activation
    return pointwise(build, module, [x], x.plane)


def channel_softmax(build: Builder, module: nn.Softmax | nn.LogSoftmax, x: Value) -> Value:
    if module.dim is None or module.dim % len(x.plane.shape) in (x.plane.row_dim, x.plane.column_dim):
        raise NotStreamable("sums over the height or the width")
    return pointwise(build, module, [x], x.plane)


def prelu(build: Builder, module: nn.PReLU, x: Value) -> Value:
    if module.num_parameters > 1:
        channels_first(x)
    return pointwise(build, module, [x], x.plane)


def softmax_2d(build: Builder, module: nn.Softmax2d, x: Value) -> Value:
    channels_first(x)
    return pointwise(build, module, [x], x.plane)


def identity(build: Builder, module: nn.Module, x: Value) -> Value:
    return x


def dropout_module(build: Builder, module: nn.Module, x: Value) -> Value:
    return dropout(build, x, training=module.training)


def dropout(build: Builder, x: Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
    if training:
        raise NotStreamable("drops at random: switch it to evaluation")
    return x


def concatenate(build: Builder, tensors: Sequence[Value], dim: int = 0) -> Value:
    first = tensors[0].plane
    dim %= len(first.shape)
    if dim in (first.row_dim, first.column_dim, 0):
        raise NotStreamable("joins along the height or the width")
    same_plane(tensors, but=dim)
    shape = list(first.shape)
    shape[dim] = sum(value.plane.shape[dim] for value in tensors)
    plane = Plane(tuple(shape), first.row_dim, first.column_dim)
    return pointwise(build, lambda *parts: torch.cat(parts, dim), list(tensors), plane)


def add(build: Builder, x: Any, y: Any, *, alpha: float = 1) -> Value:
    if isinstance(x, Value) and isinstance(y, Value) and alpha == 1 and x.shape == y.shape:
        same_plane([x, y])
        return build.add(Add(), [x, y], x.plane)
    made: Value = elementwise(lambda a, b: torch.add(a, b, alpha=alpha))(build, x, y)
    return made


def elementwise(function: Callable[..., Tensor]) -> Rule:
    """The rule of a function of numbers at one position; constants have to be alike everywhere."""

    def rule(build: Builder, *args: Any, **kwargs: Any) -> Value:
        kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
        if any(isinstance(part, (Value, Tensor)) for part in kwargs.values()):
            raise NotStreamable("takes a picture or a table by keyword")
        values = [part for part in args if isinstance(part, Value)]
        plane = broadcast(args, values[0].plane)
        for value in values:
            same_grid(value, plane)

        def apply(*tensors: Tensor) -> Tensor:
            given = iter(tensors)
            return function(*(next(given) if isinstance(part, Value) else part for part in args), **kwargs)

        return pointwise(build, apply, values, plane)

    return rule


def broadcast(parts: Sequence[Any], like: Plane) -> Plane:
    """The plane of values and constants together. Raises NotStreamable where they do not fit."""
    for part in parts:
        if isinstance(part, Tensor):
            same_everywhere(part, like)
    try:
        shapes = (part.shape for part in parts if isinstance(part, (Value, Tensor)))
        shape = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise NotStreamable("joins shapes that do not fit") from error
    if len(shape) != len(like.shape):
        raise NotStreamable("changes the number of dimensions")
    return Plane(tuple(shape), like.row_dim, like.column_dim)


def permute(build: Builder, x: Value, *dims: Any) -> Value:
    order = [dim % len(x.plane.shape) for dim in (dims[0] if isinstance(dims[0], (tuple, list)) else dims)]
    if order[0] != 0:
        raise NotStreamable("moves the batch dimension")
    plane = Plane(
        tuple(x.plane.shape[dim] for dim in order),
        order.index(x.plane.row_dim),
        order.index(x.plane.column_dim),
    )
    return pointwise(build, lambda tensor: tensor.permute(order), [x], plane)


def transpose(build: Builder, x: Value, first: int, second: int) -> Value:
    order = list(range(len(x.plane.shape)))
    order[first], order[second] = order[second], order[first]
    return permute(build, x, order)


def as_is(build: Builder, x: Value, *args: Any, **kwargs: Any) -> Value:
    return x


def softmax(build: Builder, x: Value, dim: int, *args: Any, **kwargs: Any) -> Value:
    return channel_softmax(build, nn.Softmax(dim), x)


def log_softmax(build: Builder, x: Value, dim: int, *args: Any, **kwargs: Any) -> Value:
    return channel_softmax(build, nn.LogSoftmax(dim), x)


def mean(build: Builder, x: Value, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Value:
    dims = {at % len(x.shape) for at in (dim if isinstance(dim, (tuple, list)) else (dim,)) if at is not None}
    if not dims or dims & {0, x.plane.row_dim, x.plane.column_dim}:
        raise NotStreamable("looks at the whole picture")
    if not keepdim:
        raise NotStreamable("changes the number of dimensions")
    shape = tuple(1 if at in dims else length for at, length in enumerate(x.shape))
    plane = Plane(shape, x.plane.row_dim, x.plane.column_dim)
    return pointwise(build, lambda tensor: tensor.mean(sorted(dims), keepdim=True), [x], plane)
