"""Whether a model can be streamed, and why not."""

from __future__ import annotations

from axialcli.backends import Model
from axialcli.backends.memory import memory_is_a_limit
from axialcli.backends.spec import ModelSpec
from axialcli.engine.stream.graph import Graph
from axialcli.engine.stream.proof import prove
from axialcli.engine.stream.stages import split
from axialcli.engine.stream.trace import NotStreamable, trace
from axialcli.geometry import Size


def refusal(model: Model, size: Size) -> str | None:
    """Why a model cannot be streamed over a view of that size, in one line; None where it can."""
    try:
        examine(model, size)
    except NotStreamable as refused:
        return str(refused)
    return None


def examine(model: Model, size: Size) -> Graph:
    """The graph of a model's operators over a view of that size, its answer proven on a small picture.

    Raises NotStreamable.
    """
    if (said := not_dense(model.spec)) is not None:
        raise NotStreamable(said)
    if model.network is None:
        raise NotStreamable(f"backend '{model.backend}' does not show its operators")
    channels = len(model.spec.input.channels)
    graph = trace(model.network, channels, size)
    if graph.barriers:
        split(graph)
    plane = graph.nodes[graph.outputs[0]].plane
    logits = 1 if model.spec.output.activation == "sigmoid" else len(model.spec.classes)
    wanted = (1, logits, size.height, size.width)
    if plane.shape != wanted:
        raise NotStreamable(
            f"it answers {_shape(plane.shape)} for a picture of {size.height} x {size.width}, "
            f"and not {_shape(wanted)}"
        )
    if (plane.row_dim, plane.column_dim) != (2, 3):
        raise NotStreamable("it answers with rows and columns in another order")
    with memory_is_a_limit():
        prove(model.network, channels, size, dtype=model.dtype, device=model.device)
    return graph


def not_dense(spec: ModelSpec) -> str | None:
    """Why a model is no function from each picture to a class of each of its pixels; None where it is one."""
    if spec.task == "classification":
        return "it classifies whole tiles"
    if spec.output.stride != 1:
        return f"it answers at 1/{spec.output.stride} of the resolution"
    if spec.input.size is not None:
        height, width = spec.input.size
        return f"it takes pictures of {height} x {width} only"
    if spec.input.multiple != 1:
        return f"it takes heights and widths that are multiples of {spec.input.multiple} only"
    if spec.input.layout != "NCHW":
        return f"its axes are {spec.input.layout}, and not NCHW"
    return None


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
