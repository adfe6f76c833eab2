"""What a rule works with: the values of a traced network, and the graph that they are added to.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from axialcli.engine.stream.graph import Graph, Plane
from axialcli.engine.stream.operators import Operator


class NotStreamable(Exception):  # noqa: N818 - it is an answer, not a mistake
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


Rule = Callable[..., Any]
"""(builder, the module if it is one, the call's arguments) -> the Value, or Values, that the call makes.
Raises NotStreamable."""
