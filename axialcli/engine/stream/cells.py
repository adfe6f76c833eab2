"""Logits whose last exchange of channels for pixels is put off: a class is a byte, a pixel's logits are many.

A cell is a square of `side` x `side` pixels, whose logits lie together in the channels of one position.
Shapes: B batch, K classes (or logits), H height, W width, S pixels of a cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from axialcli.backends import Model
from axialcli.config import MASK_TILE
from axialcli.engine.stream.graph import Graph
from axialcli.engine.stream.resampling import Shuffle


@dataclass(frozen=True)
class Cells:
    """How the rows that a flow hands out become pixels. side: 1 where they are pixels already."""

    side: int = 1

    def labels(self, model: Model, logits: Tensor) -> Tensor:
        """The class of each pixel [H, W] of logits [1, K * S, H / side, W / side], float32."""
        if self.side == 1:
            return model.decide_logits(logits)
        side, (_, channels, height, width) = self.side, logits.shape
        of_cells = logits.reshape(1, channels // side**2, side**2, height, width).movedim(2, -1)
        labels_HWS = model.decide_logits(of_cells)
        return labels_HWS.view(height, width, side, side).transpose(1, 2).reshape(height * side, width * side)

    def pixels(self, logits: Tensor) -> Tensor:
        """Logits [1, K * S, H / side, W / side] as those of pixels, [1, K, H, W]."""
        return logits if self.side == 1 else F.pixel_shuffle(logits, self.side)


def in_cells(graph: Graph) -> tuple[Graph, Cells]:
    """The graph without the shuffle that it ends with, and what has to be done instead; or as it is.

    Only where the mask's tiles are whole cells.
    """
    last = graph.nodes[graph.outputs[0]]
    if not isinstance(last.operator, Shuffle) or MASK_TILE % last.operator.factor:
        return graph, Cells()
    assert graph.outputs[0] == len(graph.nodes) - 1, "everything else is made for the output"
    return Graph(graph.nodes[:-1], last.inputs), Cells(last.operator.factor)
