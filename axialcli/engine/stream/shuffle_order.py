"""Channels in the order in which a shuffle can move them: those of each pixel one after the other.

What a network hands to a shuffle has for each channel its pixels one after the other. In memory all channels
of a position are neighbours, so that each number would be moved on its own. Where a convolution makes them,
it does so in the other order instead.

Shapes: O output channels.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from axialcli.engine.stream.convolution import Convolution
from axialcli.engine.stream.graph import Graph
from axialcli.engine.stream.pointwise import Relu
from axialcli.engine.stream.resampling import Shuffle


def ordered_for_shuffles(graph: Graph) -> Graph:
    """The graph with other convolutions and shuffles where that is possible; its output is the same."""
    nodes = list(graph.nodes)
    readers = graph.consumers()
    read_once = [len(found) == 1 and at not in graph.outputs for at, found in enumerate(readers)]
    for index, node in enumerate(nodes):
        shuffle = node.operator
        if not isinstance(shuffle, Shuffle) or shuffle.together:
            continue
        source = node.inputs[0]
        while read_once[source] and isinstance(nodes[source].operator, Relu):
            source = nodes[source].inputs[0]
        made_by = nodes[source].operator
        if read_once[source] and isinstance(made_by, Convolution) and made_by.groups == 1:
            pixels = shuffle.factor**2
            order_O = torch.arange(len(made_by.weight_OCHW)).view(-1, pixels).T.flatten()
            nodes[source] = replace(nodes[source], operator=made_by.reordered(order_O))
            nodes[index] = replace(node, operator=Shuffle(shuffle.factor, together=True))
    return Graph(nodes, graph.outputs)
