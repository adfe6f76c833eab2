"""Which rule stands for which module, function or method of a network."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.engine.stream.attending import axial_attention, window_attention
from axialcli.engine.stream.convolution import conv2d, conv_transpose2d
from axialcli.engine.stream.cropping import chunk, constant_pad, getitem, pad, split
from axialcli.engine.stream.pointwise import (
    activation,
    add,
    as_is,
    batch_norm,
    channel_softmax,
    concatenate,
    dropout,
    dropout_module,
    elementwise,
    identity,
    layer_norm,
    linear,
    linear_function,
    log_softmax,
    mean,
    permute,
    prelu,
    relu_module,
    softmax,
    softmax_2d,
    transpose,
)
from axialcli.engine.stream.pooling import avg_pool, avg_pool_module, max_pool, max_pool_module
from axialcli.engine.stream.position_sensitive import position_sensitive
from axialcli.engine.stream.resampling import (
    interpolate,
    pixel_shuffle,
    pixel_unshuffle,
    shuffle_module,
    unshuffle_module,
    upsample_module,
)
from axialcli.engine.stream.values import Builder, NotStreamable, Rule, Value
from axialcli.nn.attention import AxialAttention
from axialcli.nn.families.axial_transformer import FactorisedPositions
from axialcli.nn.families.global_sum import GlobalSum
from axialcli.nn.families.position_sensitive import PositionSensitiveAttention
from axialcli.nn.fused import FusedLinear
from axialcli.nn.whole_grid import GlobalAttention, SeparableAttention
from axialcli.nn.windows import WindowAttention


def whole_picture(build: Builder, module: nn.Module, *args: Any) -> Value:
    raise NotStreamable("looks at the whole picture")


def known_places(build: Builder, module: nn.Module, *args: Any) -> Value:
    raise NotStreamable("has a table of places, for pictures of one size")


_ACTIVATIONS = (
    nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.LeakyReLU, nn.ELU, nn.ReLU6, nn.Hardswish,
    nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Mish, nn.CELU, nn.SELU,
)  # fmt: skip

MODULES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: conv2d,
    nn.ConvTranspose2d: conv_transpose2d,
    nn.MaxPool2d: max_pool_module,
    nn.AvgPool2d: avg_pool_module,
    nn.Linear: linear,
    FusedLinear: linear,
    nn.LayerNorm: layer_norm,
    nn.BatchNorm2d: batch_norm,
    nn.ReLU: relu_module,
    **dict.fromkeys(_ACTIVATIONS, activation),
    nn.PReLU: prelu,
    nn.Softmax: channel_softmax,
    nn.Softmax2d: softmax_2d,
    nn.ZeroPad2d: constant_pad,
    nn.ConstantPad2d: constant_pad,
    nn.LogSoftmax: channel_softmax,
    nn.Identity: identity,
    nn.Dropout: dropout_module,
    nn.Dropout2d: dropout_module,
    nn.Upsample: upsample_module,
    nn.UpsamplingNearest2d: upsample_module,
    nn.PixelShuffle: shuffle_module,
    nn.PixelUnshuffle: unshuffle_module,
    AxialAttention: axial_attention,
    PositionSensitiveAttention: position_sensitive,
    WindowAttention: window_attention,
    GlobalAttention: whole_picture,
    SeparableAttention: whole_picture,
    GlobalSum: whole_picture,
    FactorisedPositions: known_places,
}

_ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    "sub": lambda a, b, **how: torch.sub(a, b, **how) if how else operator.sub(a, b),
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
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": F.hardtanh,
    "softplus": F.softplus,
    "mish": F.mish,
    "celu": F.celu,
    "selu": F.selu,
    "log": torch.log,
    "square": torch.square,
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
    "linear": linear_function,
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
    "avg_pool2d": avg_pool,
    "softmax": softmax,
    "log_softmax": log_softmax,
    "split": split,
    "chunk": chunk,
    "contiguous": as_is,
    "dropout": dropout,
    "mean": mean,
    **{name: elementwise(function) for name, function in _ELEMENTWISE.items()},
    "isub": elementwise(operator.sub),
    "imul": elementwise(operator.mul),
    "itruediv": elementwise(operator.truediv),
}
"""By the name of a function of torch, or of a method of a tensor, without a closing underscore."""
