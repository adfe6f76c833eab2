"""The last shuffle of channels to pixels, put off until classes are decided, of which there is one a pixel.

A position then stands for a square of factor x factor pixels, whose logits lie together in its channels.
Shapes: B batch, K classes (or logits), H height, W width, S pixels of a square.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from axialcli.backends import Model
from axialcli.config import MASK_TILE
from axialcli.engine.stream.cropping import Shift
from axialcli.engine.stream.graph import Graph
from axialcli.engine.stream.resampling import Shuffle

WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Numbers of so many bytes."""


@dataclass(frozen=True)
class LateShuffle:
    """How the rows that a flow hands out become pixels.

    factor: 1 where they are pixels already. together: as of a Shuffle.
    """

    factor: int = 1
    together: bool = False

    def positions(self, start: int, stop: int) -> slice:
        """The positions that the pixels [start, stop) lie in; start is a multiple of the factor."""
        return slice(start // self.factor, -(-stop // self.factor))

    def labels(self, model: Model, logits: Tensor) -> Tensor:
        """The class of each pixel [H, W] of logits [1, K * S, H / factor, W / factor], float32."""
        if self.factor == 1:
            return model.decide_logits(logits)
        factor, (height, width) = self.factor, logits.shape[2:]
        if self.together:
            squares = logits.reshape(1, factor**2, -1, height, width).permute(0, 2, 3, 4, 1)
        else:
            squares = logits.reshape(1, -1, factor**2, height, width).movedim(2, -1)
        labels_HWS = model.decide_logits(squares).contiguous()
        # The pixels of a square's row are moved as one number where there is one of that many bytes.
        word = WORDS.get(factor * labels_HWS.itemsize, labels_HWS.dtype)
        rows = labels_HWS.view(height, width, factor, factor).view(word).transpose(1, 2).contiguous()
        return rows.view(labels_HWS.dtype).reshape(height * factor, width * factor)

    def pixels(self, logits: Tensor) -> Tensor:
        """Logits [1, K * S, H / factor, W / factor] as those of pixels, [1, K, H, W]."""
        return logits if self.factor == 1 else Shuffle(self.factor, together=self.together).shuffled(logits)


def put_off(graph: Graph) -> tuple[Graph, LateShuffle]:
    """The graph without the shuffle that it ends with, and what has to be done instead; or as it is.

    A crop below and on the right of the shuffle goes as well: whoever makes pixels cuts them to the picture.
    Only where the mask's tiles are whole squares.
    """
    at = graph.outputs[0]
    crop = graph.nodes[at].operator
    if isinstance(crop, Shift):
        (source,) = graph.nodes[at].inputs
        before, plane = graph.nodes[source].plane, graph.nodes[at].plane
        only_cuts = plane.height <= before.height and plane.width <= before.width
        if only_cuts and all(reach.local for reach in crop.reaches[0]):
            at = source
    shuffle = graph.nodes[at].operator
    read_by = sum(at in node.inputs for node in graph.nodes)
    if not isinstance(shuffle, Shuffle) or MASK_TILE % shuffle.factor or read_by > 1:
        return graph, LateShuffle()
    return Graph(graph.nodes[:at], graph.nodes[at].inputs), LateShuffle(shuffle.factor, shuffle.together)
