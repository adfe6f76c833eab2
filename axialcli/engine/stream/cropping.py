"""Crops and paddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.engine.stream.graph import Plane
from axialcli.engine.stream.operators import Operator, Piece, parts
from axialcli.engine.stream.pointwise import pointwise
from axialcli.engine.stream.reach import Reach
from axialcli.engine.stream.values import Builder, NotStreamable, Value
from axialcli.geometry import Box


class Shift(Operator):
    """A crop or a padding: output i is input i + offset, or `fill` where there is none."""

    border = True

    def __init__(self, row_dim: int, column_dim: int, *, rows: int, columns: int, fill: float) -> None:
        super().__init__((Reach(first=rows, last=rows), Reach(first=columns, last=columns)))
        self.dims, self.fill = (row_dim, column_dim), fill

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        out = pieces[0].tensor
        pads = [0] * (2 * out.dim())
        spans = ((box.y0, box.y1), (box.x0, box.x1))
        for dim, reach, span, length in zip(self.dims, self.reaches[0], spans, pieces[0].size, strict=True):
            before, there, behind = parts(reach, *span, length)
            # A box that lies beside the picture asks for nothing of it.
            out = out.narrow(dim, 0, there)
            at = 2 * (out.dim() - 1 - dim)
            pads[at], pads[at + 1] = before, behind
        return F.pad(out, pads, value=self.fill) if any(pads) else out


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
        x = pointwise(build, lambda tensor: tensor[others], [x], part)
    if (rows, columns) == ((0, plane.height), (0, plane.width)):
        return x
    if rows[1] <= rows[0] or columns[1] <= columns[0]:
        raise NotStreamable("takes a part that is empty")
    return shift(build, x, rows, columns)


def split(
    build: Builder, x: Value, split_size_or_sections: int | Sequence[int], dim: int = 0
) -> tuple[Value, ...]:
    dim %= len(x.shape)
    given, length = split_size_or_sections, x.shape[dim]
    sizes = (
        [min(given, length - start) for start in range(0, length, given)]
        if isinstance(given, int)
        else list(given)
    )
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    whole = (slice(None),) * dim
    return tuple(
        getitem(build, x, (*whole, slice(start, start + size)))
        for start, size in zip(starts, sizes, strict=True)
    )


def chunk(build: Builder, x: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    return split(build, x, -(-x.shape[dim] // chunks), dim)


def constant_pad(build: Builder, module: nn.ConstantPad2d | nn.ZeroPad2d, x: Value) -> Value:
    return pad(build, x, module.padding, "constant", module.value)
