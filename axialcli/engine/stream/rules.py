"""Which operator of a stream stands for which module, function or method of a network.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.engine.stream.graph import Graph, Plane
from axialcli.engine.stream.operators import (
    Add,
    HeightAttention,
    KeysValues,
    Linear,
    LocalWindows,
    Neighbourhood,
    Operator,
    Pointwise,
    Relu,
    Resize,
    Shift,
    Shuffle,
    Transposed,
    Unshuffle,
    WidthAttention,
)
from axialcli.nn import attention


class NotStreamable(Exception):
    """An operator has no rule. The text names it and says why, in one line."""


@dataclass(frozen=True)
class Value:
    """What a node of the graph makes, as the network's own code sees it."""

    index: int
    plane: Plane

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self.plane.shape)


class Builder:
    """Adds operators to a graph under the name of the call that asks for them."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.name = ""

    def add(self, made: Operator, inputs: Sequence[Value], plane: Plane) -> Value:
        index = self.graph.add(self.name, made, [value.index for value in inputs], plane)
        return Value(index, plane)

    def pointwise(self, function: Callable[..., Tensor], inputs: Sequence[Value], plane: Plane) -> Value:
        return self.add(Pointwise(function, len(inputs)), inputs, plane)


Rule = Callable[..., Value]


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """The setting for height and width."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def channels_first(value: Value) -> Plane:
    """The plane of a value in the layout [B, C, H, W]. Raises NotStreamable for any other."""
    plane = value.plane
    if (len(plane.shape), plane.row_dim, plane.column_dim) != (4, 2, 3):
        raise NotStreamable(f"wants the layout [B, C, H, W] and gets {list(plane.shape)}")
    return plane


def channels_last(value: Value) -> Plane:
    """The plane of a value whose last dimension is the channels. Raises NotStreamable for any other."""
    if (
        value.plane.row_dim == len(value.plane.shape) - 1
        or value.plane.column_dim == len(value.plane.shape) - 1
    ):
        raise NotStreamable("works along the width of the picture")
    return value.plane


# Modules.


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
    if ceil_mode or return_indices:
        raise NotStreamable("has ceil_mode or return_indices")
    kernel, steps, spread = pair(kernel_size), pair(stride or kernel_size), pair(dilation)

    def apply(x_BCHW: Tensor, pad: tuple[int, int]) -> Tensor:
        return F.max_pool2d(x_BCHW, kernel, steps, pad, spread)

    return neighbourhood(build, x, channels_first(x), apply, kernel, steps, padding, spread, -math.inf)


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
    if ceil_mode or (any(pair(padding)) and not count_include_pad):
        raise NotStreamable("has ceil_mode, or a padding that does not count")
    kernel, steps = pair(kernel_size), pair(stride or kernel_size)

    def apply(x_BCHW: Tensor, pad: tuple[int, int]) -> Tensor:
        return F.avg_pool2d(x_BCHW, kernel, steps, pad, divisor_override=divisor_override)

    return neighbourhood(build, x, channels_first(x), apply, kernel, steps, padding, 1, 0.0)


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


def linear(build: Builder, module: nn.Linear, x: Value) -> Value:
    plane = channels_last(x)
    out = Plane((*plane.shape[:-1], module.out_features), plane.row_dim, plane.column_dim)
    return build.add(Linear(module), [x], out)


def layer_norm(build: Builder, module: nn.LayerNorm, x: Value) -> Value:
    if len(module.normalized_shape) > len(x.plane.shape) - 1 - max(x.plane.row_dim, x.plane.column_dim):
        raise NotStreamable("takes its statistics over the picture")
    return build.pointwise(module, [x], x.plane)


def batch_norm(build: Builder, module: nn.BatchNorm2d, x: Value) -> Value:
    channels_first(x)
    if module.training or module.running_mean is None:
        raise NotStreamable("takes its statistics from the picture: switch it to evaluation")
    return build.pointwise(module, [x], x.plane)


def relu_module(build: Builder, module: nn.Module, x: Value) -> Value:
    return build.add(Relu(), [x], x.plane)


def activation(build: Builder, module: nn.Module, x: Value) -> Value:
    if getattr(module, "inplace", False):
        # The same object serves the network elsewhere; a stream's buffers must not be overwritten.
        module = copy.copy(module)
        module.inplace = False
    return build.pointwise(module, [x], x.plane)


def channel_softmax(build: Builder, module: nn.Softmax | nn.LogSoftmax, x: Value) -> Value:
    if module.dim is None or module.dim % len(x.plane.shape) in (x.plane.row_dim, x.plane.column_dim):
        raise NotStreamable("sums over the height or the width")
    return build.pointwise(module, [x], x.plane)


def identity(build: Builder, module: nn.Module, x: Value) -> Value:
    return x


def upsample_module(build: Builder, module: nn.Upsample, x: Value) -> Value:
    return interpolate(build, x, module.size, module.scale_factor, module.mode, module.align_corners)


def shuffle_module(build: Builder, module: nn.PixelShuffle, x: Value) -> Value:
    return pixel_shuffle(build, x, module.upscale_factor)


def unshuffle_module(build: Builder, module: nn.PixelUnshuffle, x: Value) -> Value:
    return pixel_unshuffle(build, x, module.downscale_factor)


def axial_attention(build: Builder, module: attention.AxialAttention, x: Value) -> Value:
    plane = channels_last(x)
    if (plane.row_dim, plane.column_dim, len(plane.shape)) != (1, 2, 4):
        raise NotStreamable(f"wants the layout [B, H, W, C] and gets {list(plane.shape)}")
    if module.axis in ("width", 0):
        return build.add(WidthAttention(module), [x], plane)
    channels = plane.shape[3]
    of_keys = Plane((1, plane.height, plane.width, 2, module.heads, channels // module.heads), 1, 2)
    keys = build.add(KeysValues(module), [x], of_keys)
    return build.add(HeightAttention(module), [x, keys], plane)


def window_attention(build: Builder, module: Any, x: Value) -> Value:
    return build.add(LocalWindows(module), [x], channels_last(x))


def whole_picture(build: Builder, module: nn.Module, *args: Any) -> Value:
    raise NotStreamable("looks at the whole picture")


# Functions.


def interpolate(
    build: Builder,
    x: Value,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Value:
    plane = channels_first(x)
    if align_corners or antialias or mode not in ("nearest", "nearest-exact", "bilinear", "area"):
        raise NotStreamable(f"resamples by '{mode}'{' with align_corners' if align_corners else ''}")
    lengths = (plane.height, plane.width)
    if size is not None:
        sizes = pair(size)
    else:
        factors = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * 2
        sizes = tuple(
            int(math.floor(length * factor)) for length, factor in zip(lengths, factors, strict=True)
        )
    up, down = [], []
    for length, wanted in zip(lengths, sizes, strict=True):
        factor = round(wanted / length)
        by = round(length / wanted) if wanted else 0
        # Where the factor was given, an odd last row is dropped; where the size was given, nothing may be over.
        if wanted >= length and wanted == factor * length:
            up.append(factor)
            down.append(1)
        elif wanted and (wanted * by == length or (size is None and length // by == wanted)):
            up.append(1)
            down.append(by)
        else:
            raise NotStreamable(f"resamples {length} to {wanted}, which is no whole factor")
    if any(by > 1 for by in down) and (mode == "area" or any(factor > 1 for factor in up)) and up != [1, 1]:
        raise NotStreamable("resamples up along one axis and down along the other")
    if mode == "area" and up != [1, 1]:
        raise NotStreamable("resamples up by 'area'")
    made = Resize(
        up=pair(up), down=pair(down), mode="nearest" if mode == "nearest-exact" and down == [1, 1] else mode
    )
    return build.add(made, [x], plane.with_size(*sizes))


def pixel_shuffle(build: Builder, x: Value, upscale_factor: int) -> Value:
    plane, r = channels_first(x), upscale_factor
    return build.add(
        Shuffle(r), [x], plane.with_size(plane.height * r, plane.width * r, plane.shape[1] // r**2)
    )


def pixel_unshuffle(build: Builder, x: Value, downscale_factor: int) -> Value:
    plane, r = channels_first(x), downscale_factor
    if plane.height % r or plane.width % r:
        raise NotStreamable(f"wants a height and a width that {r} divides")
    return build.add(
        Unshuffle(r), [x], plane.with_size(plane.height // r, plane.width // r, plane.shape[1] * r**2)
    )


def pad(
    build: Builder, x: Value, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Value:
    plane = x.plane
    sides = {len(plane.shape) - 1 - at // 2: (pad[at], pad[at + 1]) for at in range(0, len(pad), 2)}
    if any(any(both) for dim, both in sides.items() if dim not in (plane.row_dim, plane.column_dim)):
        raise NotStreamable("pads the channels")
    top, bottom = sides.get(plane.row_dim, (0, 0))
    left, right = sides.get(plane.column_dim, (0, 0))
    if (top, bottom, left, right) == (0, 0, 0, 0):
        return x
    if mode != "constant":
        raise NotStreamable(f"pads with '{mode}'")
    return shift(build, x, (-top, plane.height + bottom), (-left, plane.width + right), float(value or 0))


def shift(
    build: Builder, x: Value, rows: tuple[int, int], columns: tuple[int, int], fill: float = 0.0
) -> Value:
    """The box [rows) x [columns) of x, which may reach beyond it."""
    plane = x.plane
    made = Shift(plane.row_dim, plane.column_dim, rows=rows[0], columns=columns[0], fill=fill)
    return build.add(made, [x], plane.with_size(rows[1] - rows[0], columns[1] - columns[0]))


def getitem(build: Builder, x: Value, key: Any) -> Value:
    plane = x.plane
    keys = list(key) if isinstance(key, tuple) else [key]
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        keys[at : at + 1] = [slice(None)] * (len(plane.shape) - len(keys) + 1)
    keys += [slice(None)] * (len(plane.shape) - len(keys))
    if not all(isinstance(part, slice) and part.step in (None, 1) for part in keys):
        raise NotStreamable(f"takes the part {key}")
    bounds = [part.indices(length) for part, length in zip(keys, plane.shape, strict=True)]
    others = tuple(
        slice(None) if dim in (plane.row_dim, plane.column_dim) else part for dim, part in enumerate(keys)
    )
    rows, columns = bounds[plane.row_dim][:2], bounds[plane.column_dim][:2]
    shape = list(plane.shape)
    for dim, (start, stop, _) in enumerate(bounds):
        if dim not in (plane.row_dim, plane.column_dim):
            shape[dim] = stop - start
    if shape != list(plane.shape):
        part = Plane(tuple(shape), plane.row_dim, plane.column_dim)
        x = build.pointwise(lambda tensor: tensor[others], [x], part)
    if (rows, columns) == ((0, plane.height), (0, plane.width)):
        return x
    if rows[1] <= rows[0] or columns[1] <= columns[0]:
        raise NotStreamable("takes a part that is empty")
    return shift(build, x, rows, columns)


def concatenate(build: Builder, tensors: Sequence[Value], dim: int = 0) -> Value:
    first = tensors[0].plane
    dim %= len(first.shape)
    if dim in (first.row_dim, first.column_dim, 0):
        raise NotStreamable("joins along the height or the width")
    same_plane(tensors, but=dim)
    shape = list(first.shape)
    shape[dim] = sum(value.plane.shape[dim] for value in tensors)
    plane = Plane(tuple(shape), first.row_dim, first.column_dim)
    return build.pointwise(lambda *parts: torch.cat(parts, dim), list(tensors), plane)


def same_plane(values: Sequence[Value], but: int | None = None) -> None:
    """Raises NotStreamable unless the values lie on one grid, in one layout."""
    first = values[0].plane
    for value in values:
        plane = value.plane
        same = [
            a == b or dim == but for dim, (a, b) in enumerate(zip(plane.shape, first.shape, strict=False))
        ]
        layout = (len(plane.shape), plane.row_dim, plane.column_dim)
        if not all(same) or layout != (len(first.shape), first.row_dim, first.column_dim):
            raise NotStreamable(f"joins {list(plane.shape)} with {list(first.shape)}")


def add(build: Builder, x: Any, y: Any, *, alpha: float = 1) -> Value:
    if isinstance(x, Value) and isinstance(y, Value) and alpha == 1 and x.shape == y.shape:
        same_plane([x, y])
        return build.add(Add(), [x, y], x.plane)
    return elementwise(lambda a, b: torch.add(a, b, alpha=alpha))(build, x, y)


def elementwise(function: Callable[..., Tensor]) -> Rule:
    """The rule of a function of numbers at one position; constants have to be alike everywhere."""

    def rule(build: Builder, *args: Any, **kwargs: Any) -> Value:
        kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
        values = [part for part in args if isinstance(part, Value)]
        if any(isinstance(part, Value) for part in kwargs.values()):
            raise NotStreamable("takes a picture by keyword")
        plane = max((value.plane for value in values), key=lambda plane: math.prod(plane.shape))
        for value in values:
            same_grid(value, plane)
        for part in args:
            if isinstance(part, Tensor):
                same_everywhere(part, plane)

        def apply(*tensors: Tensor) -> Tensor:
            given = iter(tensors)
            return function(*(next(given) if isinstance(part, Value) else part for part in args), **kwargs)

        return build.pointwise(apply, values, plane)

    return rule


def same_grid(value: Value, plane: Plane) -> None:
    layout = (len(value.plane.shape), value.plane.row_dim, value.plane.column_dim)
    if layout != (len(plane.shape), plane.row_dim, plane.column_dim) or (
        value.plane.height,
        value.plane.width,
    ) != (plane.height, plane.width):
        raise NotStreamable(f"joins {list(value.plane.shape)} with {list(plane.shape)}")


def same_everywhere(constant: Tensor, plane: Plane) -> None:
    """Raises NotStreamable where a constant has a height or a width of its own."""
    shape = (1,) * (len(plane.shape) - constant.dim()) + tuple(constant.shape)
    if len(shape) > len(plane.shape) or shape[plane.row_dim] != 1 or shape[plane.column_dim] != 1:
        raise NotStreamable(f"joins a table of shape {list(constant.shape)}, which has a size of its own")


def permute(build: Builder, x: Value, *dims: Any) -> Value:
    order = [dim % len(x.plane.shape) for dim in (dims[0] if isinstance(dims[0], (tuple, list)) else dims)]
    if order[0] != 0:
        raise NotStreamable("moves the batch dimension")
    plane = Plane(
        tuple(x.plane.shape[dim] for dim in order),
        order.index(x.plane.row_dim),
        order.index(x.plane.column_dim),
    )
    return build.pointwise(lambda tensor: tensor.permute(order), [x], plane)


def transpose(build: Builder, x: Value, first: int, second: int) -> Value:
    order = list(range(len(x.plane.shape)))
    order[first], order[second] = order[second], order[first]
    return permute(build, x, order)


def as_is(build: Builder, x: Value, *args: Any, **kwargs: Any) -> Value:
    return x


def softmax(build: Builder, x: Value, dim: int, *args: Any, **kwargs: Any) -> Value:
    return channel_softmax(build, nn.Softmax(dim), x)


def mean(build: Builder, x: Value, *args: Any, **kwargs: Any) -> Value:
    raise NotStreamable("looks at the whole picture, or changes the layout")


_ACTIVATIONS = (
    nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.ReLU6, nn.Hardswish,
    nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Mish, nn.CELU, nn.SELU,
)  # fmt: skip

MODULES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: conv2d,
    nn.ConvTranspose2d: conv_transpose2d,
    nn.MaxPool2d: max_pool_module,
    nn.AvgPool2d: avg_pool_module,
    nn.Linear: linear,
    nn.LayerNorm: layer_norm,
    nn.BatchNorm2d: batch_norm,
    nn.ReLU: relu_module,
    **dict.fromkeys(_ACTIVATIONS, activation),
    nn.Softmax: channel_softmax,
    nn.LogSoftmax: channel_softmax,
    nn.Identity: identity,
    nn.Dropout: identity,
    nn.Dropout2d: identity,
    nn.Upsample: upsample_module,
    nn.UpsamplingNearest2d: upsample_module,
    nn.PixelShuffle: shuffle_module,
    nn.PixelUnshuffle: unshuffle_module,
    attention.AxialAttention: axial_attention,
}

_ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    "sub": operator.sub,
    "mul": operator.mul,
    "truediv": operator.truediv,
    "div": torch.div,
    "neg": torch.neg,
    "relu6": F.relu6,
    "gelu": F.gelu,
    "silu": F.silu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "clamp": torch.clamp,
    "pow": torch.pow,
    "sqrt": torch.sqrt,
    "abs": torch.abs,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}

FUNCTIONS: dict[str, Rule] = {
    "add": add,
    "iadd": add,
    "relu": lambda build, x, **_: relu_module(build, nn.ReLU(), x),
    "cat": concatenate,
    "concat": concatenate,
    "interpolate": interpolate,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "pad": pad,
    "getitem": getitem,
    "permute": permute,
    "transpose": transpose,
    "max_pool2d": max_pool,
    "boolean_dispatch": max_pool,
    "avg_pool2d": avg_pool,
    "softmax": softmax,
    "contiguous": as_is,
    "dropout": as_is,
    "mean": mean,
    **{name: elementwise(function) for name, function in _ELEMENTWISE.items()},
    "isub": elementwise(operator.sub),
    "imul": elementwise(operator.mul),
}
"""By the name of a function of torch, or of a method of a tensor, without a closing underscore."""
