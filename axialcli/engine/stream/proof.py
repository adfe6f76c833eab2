"""A small trial of a stream, before a large picture is trusted to it."""

from __future__ import annotations

import torch
from torch import nn

from axialcli.engine.stream.flow import Flow
from axialcli.engine.stream.graph import Graph
from axialcli.engine.stream.schedule import make_schedule
from axialcli.engine.stream.trace import NotStreamable, trace
from axialcli.geometry import Size

TRIAL_PX = 40
"""Side of the picture that is tried, at least: some rows of tokens for every usual stride."""


def prove(network: nn.Module, channels: int, size: Size, *, dtype: torch.dtype, device: torch.device) -> None:
    """Runs a small picture of noise through the network and through its stream, and compares.

    size: of the real picture; the small one leaves the same remainders to the network's strides, so that
    its crops and paddings are alike. Raises NotStreamable where the answers differ by more than rounding,
    or one cannot be had.
    """
    graph = trace(network, channels, size)
    small = Size(*(_like(length, graph.period) for length in size))
    graph = trace(network, channels, small)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((1, channels, *small), generator=generator)
    image_BCHW = noise.to(device, dtype, memory_format=torch.channels_last)
    with torch.inference_mode():
        try:
            expected = network(image_BCHW.clone())
            found = _streamed(graph, image_BCHW)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise NotStreamable(f"a trial on {small.height} x {small.width} fails ({reason:.80})") from error
        if found.shape != expected.shape:
            raise NotStreamable(f"a trial gives {list(found.shape)}, the network {list(expected.shape)}")
        apart = float((found - expected).abs().max())
        allowed = max(1e-4, 16 * torch.finfo(dtype).eps) * max(1.0, float(expected.abs().max()))
        # What is not a number fails as well.
        if not apart <= allowed:
            raise NotStreamable(f"in a trial its logits differ by {apart:.2g} from the network's own")


def _like(length: int, period: int) -> int:
    """A small length that leaves the same remainder to the period."""
    if length <= TRIAL_PX + 2 * period:
        return length
    least = -(-TRIAL_PX // period) * period
    return least + length % period


def _streamed(graph: Graph, image_BCHW: torch.Tensor) -> torch.Tensor:
    flow = Flow(graph, make_schedule(graph, graph.stride), dtype=image_BCHW.dtype, device=image_BCHW.device)
    rows = []
    for step in range(flow.begin(), flow.schedule.steps):
        start, stop = flow.wanted(0, step)
        for _, made in flow.run(step, {0: image_BCHW[:, :, start:stop]} if start < stop else {}).values():
            rows.append(made.clone())
    return torch.cat(rows, graph.nodes[graph.outputs[0]].plane.row_dim)
