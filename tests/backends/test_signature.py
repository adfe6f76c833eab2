"""What an ONNX graph says of itself is read as it stands, without running it."""

from __future__ import annotations

from typing import Any

import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper

from axialcli.backends.signature import TensorSignature, read_signature
from tests.fixtures.foreign_models import (
    conv,
    ending,
    fcn,
    graph_model,
    labels_of_bytes,
    quarter,
    u_net,
    weights,
)


def chain(*nodes: NodeProto) -> ModelProto:
    """The nodes in a row, from `image` to `answer`."""
    for number, node in enumerate(nodes):
        node.input[0] = f"t{number}" if number else "image"
        node.output[0] = f"t{number + 1}" if number + 1 < len(nodes) else "answer"
    return graph_model(
        nodes, given=["n", 3, "h", "w"], answered=None, initializers=[weights("w", 3, 3, 3, 3)]
    )


def node(operator: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, [""], [""], **attributes)


def down(factor: int) -> NodeProto:
    return conv("", "w", "", stride=factor)


def up(factor: int) -> NodeProto:
    return helper.make_node("ConvTranspose", ["", "w"], [""], strides=[factor] * 2)


def ring() -> ModelProto:
    pair = (("a", "answer"), ("answer", "a"))
    nodes = [helper.make_node("Identity", [given], [made]) for given, made in pair]
    return graph_model(nodes, given=["n", 3, "h", "w"], answered=None)


@pytest.mark.parametrize(
    ("model", "stride"),
    [
        (fcn(), 1),
        (quarter(), 4),
        (u_net(4), 16),
        (chain(down(2), up(2), down(2), up(2)), 2),
        (chain(down(4), down(3), up(12)), 12),
        (chain(node("MaxPool", kernel_shape=[3, 3], strides=[2, 2]), down(2)), 4),
        (chain(node("AveragePool", kernel_shape=[1, 8], strides=[1, 8])), 8),
        (chain(node("SpaceToDepth", blocksize=4), down(2), node("DepthToSpace", blocksize=8)), 8),
        # Beyond what an encoder does: halved until it may be one.
        (chain(down(16), down(16), down(4)), 256),
    ],
)
def test_the_stride_is_the_most_that_the_picture_is_shrunk_by(model: ModelProto, stride: int) -> None:
    assert read_signature(model).stride == stride


@pytest.mark.parametrize(
    ("model", "operators"),
    [
        (fcn(), ("Conv",)),
        (labels_of_bytes(), ("ArgMax",)),
        (ending("Softmax", 3, then=[helper.make_node("Identity", ["squashed"], ["answer"])]),
         ("Identity", "Softmax")),
        (chain(node("Sigmoid"), node("Transpose"), node("Cast", to=10)), ("Cast", "Transpose", "Sigmoid")),
        # A ring, as a damaged file may have it.
        (ring(), ("Identity", "Identity")),
        (graph_model([], given=["n", 3, "h", "w"], answered=None), ()),
    ],
)  # fmt: skip
def test_the_last_operators_reach_back_to_the_one_that_made_the_numbers(
    model: ModelProto, operators: tuple[str, ...]
) -> None:
    assert read_signature(model).last_operators == operators


@pytest.mark.parametrize(
    ("kind", "dims", "element", "shape"),
    [
        (TensorProto.FLOAT, ["n", 3, -1, 0], "float32", (None, 3, None, None)),
        (TensorProto.BFLOAT16, [1, 3, 8, 8], "bfloat16", (1, 3, 8, 8)),
        (TensorProto.UINT8, [], "uint8", ()),
        (TensorProto.FLOAT16, None, "float16", None),
        (999, None, "type 999", None),
    ],
)
def test_inputs_are_read_with_type_and_shape(
    kind: int, dims: list[Any] | None, element: str, shape: tuple[int | None, ...] | None
) -> None:
    model = fcn()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", kind, dims))

    assert read_signature(model).inputs == (TensorSignature(name="x", element=element, shape=shape),)
