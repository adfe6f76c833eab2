"""What an ONNX graph says of itself: inputs, outputs, how it ends and how far it shrinks a picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

ELEMENT_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.BOOL: "bool",
}
"""Elements whose name in ONNX is not numpy's."""

PASSING = (
    *("Identity", "Cast", "Dropout", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"),
    *("Resize", "Upsample"),
)
"""Operators that move numbers or blend neighbours: probabilities stay probabilities."""

SHRINKING = ("Conv", "MaxPool", "AveragePool", "LpPool", "QLinearConv", "ConvInteger")
MAX_COUNTED_STRIDE = 256
"""Larger strides come from counting a stack of encoders and decoders as one encoder."""


@dataclass(frozen=True, kw_only=True)
class TensorSignature:
    """One input or output. shape: None for a dynamic axis; None altogether where the rank is not said.

    element: numpy's name of the type where there is one, such as "float16".
    """

    name: str
    element: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, kw_only=True)
class GraphSignature:
    """A graph from outside.

    inputs: without the weights. last_operators: from the first output backwards, those that only move
    numbers, then the one that made them. stride: by how much convolutions and pools shrink the
    picture at most, in pixels per cell; too large rather than too small.
    """

    inputs: tuple[TensorSignature, ...]
    outputs: tuple[TensorSignature, ...]
    last_operators: tuple[str, ...]
    stride: int


def read_signature(model: ModelProto) -> GraphSignature:
    """The signature of a model that was parsed; nothing is run and no other file is opened."""
    graph = model.graph
    weights = {weight.name for weight in graph.initializer}
    weights |= {weight.values.name for weight in graph.sparse_initializer}
    return GraphSignature(
        # Before IR version 4 the weights are inputs as well.
        inputs=tuple(_tensor(value) for value in graph.input if value.name not in weights),
        outputs=tuple(_tensor(value) for value in graph.output),
        last_operators=tuple(_last_operators(graph)),
        stride=_stride(graph.node),
    )


def _tensor(value: ValueInfoProto) -> TensorSignature:
    tensor = value.type.tensor_type
    shape = None
    if value.type.HasField("tensor_type") and tensor.HasField("shape"):
        # Exporters also write 0 and -1 where they mean any length.
        shape = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim)
    return TensorSignature(name=value.name, element=_element(tensor.elem_type), shape=shape)


def _element(number: int) -> str:
    if number in ELEMENT_TYPES:
        return ELEMENT_TYPES[number]
    known = TensorProto.DataType.values()
    return TensorProto.DataType.Name(number).lower() if number in known else f"type {number}"


def _last_operators(graph: GraphProto) -> Iterable[str]:
    if not graph.output:
        return
    makers = {name: node for node in graph.node for name in node.output}
    tensor = graph.output[0].name
    # A damaged graph may have a ring.
    for _ in graph.node:
        maker = makers.get(tensor)
        if maker is None:
            return
        yield maker.op_type
        if maker.op_type not in PASSING or not maker.input:
            return
        tensor = maker.input[0]


def _stride(nodes: Iterable[NodeProto]) -> int:
    shrunk: dict[str, Fraction] = {}
    largest = Fraction(1)
    for node in nodes:
        before = max((shrunk.get(name, Fraction(1)) for name in node.input), default=Fraction(1))
        after = before * _factor(node)
        shrunk.update(dict.fromkeys(node.output, after))
        largest = max(largest, after)
    stride = largest.numerator
    while stride > MAX_COUNTED_STRIDE:
        stride //= 2
    return stride


def _factor(node: NodeProto) -> Fraction:
    """How many pixels of a node's input make one of its output, along the axis that shrinks most."""
    whole = {a.name: [*a.ints, *([a.i] if a.i else [])] for a in node.attribute}
    steps = max([1, *whole.get("strides", ())])
    block = max([1, *whole.get("blocksize", ())])
    if node.op_type in SHRINKING:
        return Fraction(steps)
    if node.op_type == "ConvTranspose":
        return Fraction(1, steps)
    if node.op_type == "SpaceToDepth":
        return Fraction(block)
    return Fraction(1, block) if node.op_type == "DepthToSpace" else Fraction(1)
