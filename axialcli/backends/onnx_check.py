"""What is refused in an ONNX graph before anything runs it: foreign operators, sizes beyond every limit."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import TensorProto

from axialcli.backends.onnx_external import MAX_MODEL_BYTES
from axialcli.errors import ModelError

MAX_NODES = 100_000
MAX_RANK = 16
MAX_SIDE = 16384

STANDARD = ("", "ai.onnx", "ai.onnx.ml")
COMPUTING = (
    "Attention BiasAdd BiasDropout BiasGelu BiasSoftmax BiasSplitGelu ConvTransposeWithDynamicPads "
    "DequantizeLinear DynamicQuantizeMatMul FastGelu FusedConv FusedGemm FusedMatMul "
    "FusedMatMulActivation Gelu GroupNorm Inverse Irfft MatMulInteger16 MatMulIntegerToFloat "
    "MatMulNBits MaxpoolWithMask MultiHeadAttention NhwcConv NhwcFusedConv NhwcMaxPool Pad "
    "PackedAttention PackedMultiHeadAttention QLinearAdd QLinearAveragePool QLinearConcat QLinearConv "
    "QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid "
    "QLinearSoftmax QLinearWhere QAttention QGemm QuantizeLinear QuickGelu Rfft SkipGroupNorm "
    "SkipLayerNormalization SkipSimplifiedLayerNormalization Trilu Unique"
)
MICROSOFT = frozenset(COMPUTING.split())
"""Operators of com.microsoft that compute and do nothing else; EPContext, for one, opens files."""

BITS: dict[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.DOUBLE: 64,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.UINT8: 8,
    TensorProto.INT8: 8,
    TensorProto.UINT16: 16,
    TensorProto.INT16: 16,
    TensorProto.UINT32: 32,
    TensorProto.INT32: 32,
    TensorProto.UINT64: 64,
    TensorProto.INT64: 64,
    TensorProto.BOOL: 8,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8,
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
}
"""Types of numbers that a network may hold, and how long one is."""

FLOATS: dict[int, str] = {TensorProto.FLOAT: "<f4", TensorProto.DOUBLE: "<f8", TensorProto.FLOAT16: "<f2"}
PIXELS: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.UINT8: "uint8",
}

TAKES_VOLUMES = "takes volumes; of .onnx files, axial runs those that take pictures"


def messages(root: Message) -> Iterator[Message]:
    """Every message within, itself included, wherever it hides: subgraphs, attributes, functions.

    The insides of tensors are left out. Without recursion, so that depth costs no stack.
    """
    stack = [root]
    while stack:
        message = stack.pop()
        yield message
        if isinstance(message, TensorProto):
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                stack.extend([value] if isinstance(value, Message) else value)


def tensors(model: onnx.ModelProto) -> list[TensorProto]:
    """Every tensor that a model stores: weights, constants, sparse ones, those of subgraphs."""
    return [message for message in messages(model) if isinstance(message, TensorProto)]


def tensor_bytes(tensor: TensorProto, where: str) -> int:
    """Bytes that a tensor's shape and type need. Raises ModelError where they cannot be a network's."""
    if tensor.data_type not in BITS:
        raise ModelError(
            f"{where}: tensor {tensor.name!r:.40} holds type {tensor.data_type}, which is refused"
        )
    if len(tensor.dims) > MAX_RANK or any(side < 0 for side in tensor.dims):
        raise ModelError(f"{where}: tensor {tensor.name!r:.40} has an impossible shape")
    nbytes: int = (math.prod(tensor.dims) * BITS[tensor.data_type] + 7) // 8
    if nbytes > MAX_MODEL_BYTES:
        raise ModelError(f"{where}: tensor {tensor.name!r:.40} alone would have more than 2 GiB")
    return nbytes


def check_tensor(tensor: TensorProto, where: str) -> None:
    """Raises ModelError where a tensor's bytes do not fit its shape, or hold NaN."""
    nbytes = tensor_bytes(tensor, where)
    if tensor.HasField("raw_data") and len(tensor.raw_data) != nbytes:
        raise ModelError(
            f"{where}: tensor {tensor.name!r:.40} has {len(tensor.raw_data)} bytes, its shape needs {nbytes}"
        )
    if tensor.data_type not in FLOATS:
        return
    # Infinities are left alone: masks of attention are made of them.
    values = np.frombuffer(tensor.raw_data, FLOATS[tensor.data_type])
    typed = np.array(tensor.float_data if tensor.data_type == TensorProto.FLOAT else tensor.double_data)
    for part in (*(values[i : i + (1 << 22)] for i in range(0, len(values), 1 << 22)), typed):
        if np.isnan(part).any():
            raise ModelError(f"{where}: {tensor.name!r:.40} holds NaN")


def check_operators(model: onnx.ModelProto, where: str) -> None:
    """Raises ModelError unless every operator is of the standard, of a known list or defined in the file."""
    own = {(function.domain, function.name) for function in model.functions}
    nodes = 0
    for message in messages(model):
        if not isinstance(message, onnx.NodeProto):
            continue
        nodes += 1
        known = message.domain in STANDARD or (message.domain, message.op_type) in own
        if not known and not (message.domain == "com.microsoft" and message.op_type in MICROSOFT):
            raise ModelError(
                f"{where}: operator {message.op_type!r:.40} of {message.domain!r:.40} is refused: "
                "only standard operators are run"
            )
    if not nodes or nodes > MAX_NODES:
        raise ModelError(f"{where}: {nodes} operators; a network has 1 to {MAX_NODES}")


def image_input(model: onnx.ModelProto, where: str) -> onnx.ValueInfoProto:
    """The only input of a graph: a batch of pictures. Raises ModelError where it is not one."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1 or not model.graph.output:
        raise ModelError(
            f"{where}: {len(inputs)} inputs and {len(model.graph.output)} outputs; "
            "axial runs networks of one picture in, one answer out"
        )
    image: onnx.ValueInfoProto = inputs[0]
    tensor = image.type.tensor_type
    if tensor.elem_type not in PIXELS:
        raise ModelError(
            f"{where}: its input has type {tensor.elem_type}; float32, float16 and uint8 are read"
        )
    sides = [side.dim_value for side in tensor.shape.dim]
    if len(sides) == 5:
        raise ModelError(f"{where}: {TAKES_VOLUMES}")
    if tensor.HasField("shape") and (len(sides) != 4 or any(not 0 <= side <= MAX_SIDE for side in sides)):
        raise ModelError(
            f"{where}: its input has the shape {sides!s:.60}; four axes up to {MAX_SIDE} are read"
        )
    return image
