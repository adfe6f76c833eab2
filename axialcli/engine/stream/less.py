"""A stream's plan for less memory: lower steps, then narrower strips."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from axialcli.engine.halving import Halved, halved_strips
from axialcli.engine.stream.heights import LOWEST_STEP_PX
from axialcli.engine.stream.plan import StreamPlan, low_graph
from axialcli.engine.stream.strips import strip_graphs
from axialcli.engine.stream.trace import NotStreamable
from axialcli.geometry import Size


def with_less(
    plan: StreamPlan, network: nn.Module, channels: int, size: Size
) -> tuple[StreamPlan, Halved, str] | None:
    """The plan with half of its steps' height, or else of its strips' width.

    Returns with it what was halved, and the words for a message; None where nothing is left to halve.
    """
    rows_px = plan.rows_px // 2 // plan.stride_px * plan.stride_px
    if rows_px >= max(plan.stride_px, LOWEST_STEP_PX):
        return replace(plan, rows_px=rows_px), "steps", f"steps of {rows_px} rows"
    narrower = replace(plan, strips=tuple(halved_strips(plan.strips, plan.width)))
    count = len(narrower.strips)
    if count == len(plan.strips):
        return None
    graph = low_graph(network, channels, size)
    if graph.receptive_field_px() is None:
        return None
    try:
        strip_graphs(network, channels, graph, narrower.columns())
    except NotStreamable:
        return None
    return narrower, "strips", f"{count} column strips"
