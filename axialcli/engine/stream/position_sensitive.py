"""Attention along an axis with a learned vector per distance.

Shapes: B batch, C channels, H height, W width, A heads, F channels of a head's key and value.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from axialcli.engine.stream.attending import tokens
from axialcli.engine.stream.graph import Plane
from axialcli.engine.stream.operators import Operator, Piece
from axialcli.engine.stream.reach import SAME, Reach
from axialcli.engine.stream.values import Builder, NotStreamable, Value
from axialcli.geometry import Box
from axialcli.nn.families.position_sensitive import PositionSensitiveAttention


def _reach(module: PositionSensitiveAttention) -> Reach:
    return Reach(whole=True) if module.radius is None else Reach(first=-module.radius, last=module.radius)


class RelativeWidth(Operator):
    """Attention along the width: rows are independent."""

    fresh = True
    # A token beside the edge sees fewer distances, and so another mean of their vectors.
    border = True

    def __init__(self, module: PositionSensitiveAttention) -> None:
        super().__init__((SAME, _reach(module)))
        self.module = module

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        inside = pieces[0].box
        out_BHWC: Tensor = self.module(pieces[0].tensor)
        return out_BHWC[:, :, box.x0 - inside.x0 : box.x1 - inside.x0]


class RelativeKeysValues(Operator):
    """The keys and values of an attention along the height, [B, H, W, A, F], each made once."""

    fresh = True

    def __init__(self, module: PositionSensitiveAttention) -> None:
        super().__init__((SAME, SAME))
        self.module = module

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        return self.module.keys_values(pieces[0].tensor)


class RelativeHeight(Operator):
    """Attention along the height: queries from the first input, keys and values from the second."""

    fresh = True

    def __init__(self, module: PositionSensitiveAttention) -> None:
        super().__init__((SAME, SAME), (_reach(module), SAME))
        self.module = module

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        given, keys = pieces
        q_BHWAD = self.module.queries(given.tensor)
        return self.module.attend(q_BHWAD, keys.tensor, ahead=box.y0 - keys.box.y0)


def position_sensitive(build: Builder, module: PositionSensitiveAttention, x: Value) -> Value:
    plane = tokens(x)
    length = plane.width if module.axis == "width" else plane.height
    if not module.takes(length):
        raise NotStreamable(f"has learned positions for {module.length} tokens, and there are {length}")
    made = Plane((1, plane.height, plane.width, module.planes), 1, 2)
    if module.axis == "width":
        return build.add(RelativeWidth(module), [x], made)
    of_keys = Plane(
        (1, plane.height, plane.width, module.heads, 3 * module.planes // module.heads // 2), 1, 2
    )
    keys = build.add(RelativeKeysValues(module), [x], of_keys)
    return build.add(RelativeHeight(module), [x, keys], made)
