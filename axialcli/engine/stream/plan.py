"""How a stream is cut so that it stays within a budget of memory: the height of a step, the column strips."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from axialcli.config import MASK_TILE
from axialcli.engine.stream.chains import Chain
from axialcli.engine.stream.flow import buffer_rows, recomputed
from axialcli.engine.stream.graph import Graph, Node
from axialcli.engine.stream.heights import STEP_PX, heights, pixels_of_a_step
from axialcli.engine.stream.schedule import make_schedule
from axialcli.engine.stream.strips import strip_graphs
from axialcli.engine.stream.trace import NotStreamable, trace
from axialcli.errors import LimitError
from axialcli.geometry import Size


@dataclass(frozen=True, kw_only=True)
class StreamPlan:
    """rows_px: rows of pixels of a step, a multiple of stride_px. strips: left edges of the column strips,
    multiples of a mask tile. halo_px: what a strip reads beyond its own columns on each side, at least;
    period_px: it begins at a multiple of this, so that the network's grids lie as in the whole picture."""

    rows_px: int
    stride_px: int
    strips: tuple[int, ...]
    halo_px: int
    period_px: int
    width: int

    def own(self, strip: int) -> tuple[int, int]:
        """The columns [x0, x1) that a strip writes."""
        return self.strips[strip], [*self.strips, self.width][strip + 1]

    def reads(self, strip: int) -> tuple[int, int]:
        """The columns [x0, x1) that a strip reads."""
        x0, x1 = self.own(strip)
        left = (x0 - self.halo_px) // self.period_px * self.period_px
        right = -(-(x1 + self.halo_px) // self.period_px) * self.period_px
        return max(0, left), min(self.width, right)

    def columns(self) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Of each strip the columns that it writes, and those that it reads."""
        return [(self.own(strip), self.reads(strip)) for strip in range(len(self.strips))]

    @property
    def recomputed_share(self) -> float:
        """Columns that are computed more than once, as a share of the width."""
        read = sum(x1 - x0 for _, (x0, x1) in self.columns())
        return read / self.width - 1

    def notes(self) -> dict[str, Any]:
        """The plan in JSON's types; `make_plan(repeat=…)` takes them."""
        return {"rows_px": self.rows_px, "strips": list(self.strips)}


def make_plan(
    network: nn.Module,
    channels: int,
    size: Size,
    *,
    bytes_per_number: int,
    bytes_per_px_of_width: int,
    free_bytes: int,
    max_ram_bytes: int,
    blank_share: float | None = None,
    repeat: Mapping[str, Any] | None = None,
) -> StreamPlan:
    """The plan with the fewest strips, and with these the highest steps, that fits into `free_bytes`.

    bytes_per_px_of_width: what the caller keeps beside the stream for each pixel of a strip's width.
    max_ram_bytes: what the user allowed, for the message. blank_share: of the pixels that are skipped, about:
    the more, the higher the steps; None where none is. repeat: the notes of an earlier plan. Raises
    LimitError where nothing fits, NotStreamable.
    """
    # What a stream takes does not grow with the height; a lower picture is planned faster.
    graph = low_graph(network, channels, size)
    field = graph.receptive_field_px()

    def plan_of(rows_px: int, strips: Sequence[int]) -> StreamPlan:
        return StreamPlan(
            rows_px=rows_px,
            stride_px=graph.stride,
            strips=tuple(strips),
            halo_px=field or 0,
            period_px=graph.period,
            width=size.width,
        )

    if repeat is not None:
        return plan_of(int(repeat["rows_px"]), repeat["strips"])
    tiles_across = -(-size.width // MASK_TILE)
    step_px = pixels_of_a_step(bytes_per_number, blank_share)

    def cut(count: int) -> list[int]:
        return [index * tiles_across // count * MASK_TILE for index in range(count)]

    def candidates(count: int) -> Iterator[tuple[int, int]]:
        """Heights of a step with that many strips, the best first, and the bytes that each takes."""
        plan = plan_of(graph.stride, cut(count))
        widest = max(x1 - x0 for _, (x0, x1) in plan.columns())
        parts = [graph] if count == 1 else strip_graphs(network, channels, graph, plan.columns())
        for rows_px in heights(graph, widest, step_px, sparse=blank_share is not None):
            yield (
                rows_px,
                max(
                    stream_bytes(part, rows_px, bytes_per_number) + bytes_per_px_of_width * part.width
                    for part in parts
                ),
            )

    def fits(count: int) -> bool:
        return any(needed <= free_bytes for _, needed in candidates(count))

    most = 1 if field is None else tiles_across
    try:
        # The narrower the strips, the less they take: the fewest that fit are found by halving.
        count = 1 if fits(1) else bisect_left(range(2, most + 1), True, key=fits) + 2
        for rows_px, needed in candidates(min(count, most)):
            if needed <= free_bytes:
                return plan_of(rows_px, cut(count))
    except NotStreamable as refused:
        raise LimitError(
            f"memory of {max_ram_bytes >> 20} MiB is too little: the network cannot be cut into column "
            f"strips, {refused}; give more with --max-ram, or use --engine tiles"
        ) from refused
    raise LimitError(
        f"memory of {max_ram_bytes >> 20} MiB is too little: the narrowest strip of a stream needs "
        f"{needed >> 20} MiB beside libraries and model, {max(free_bytes, 0) >> 20} MiB are left; "
        "give more with --max-ram, or use --engine tiles"
    )


def low_graph(network: nn.Module, channels: int, size: Size) -> Graph:
    """The graph of a picture of that width, and of no more height than its buffers need to fill."""
    graph = trace(network, channels, size)
    if graph.looks_everywhere:
        return graph
    field = graph.receptive_field_px() or 0
    height = -(-(8 * STEP_PX // size.width + 8 * field + 4096) // graph.period) * graph.period
    return graph if size.height <= height else trace(network, channels, Size(height, size.width))


def whole_width(graph: Graph, rows_px: int) -> StreamPlan:
    """The plan of a network that looks at whole rows or columns: one strip."""
    return StreamPlan(
        rows_px=rows_px,
        stride_px=graph.stride,
        strips=(0,),
        halo_px=0,
        period_px=graph.period,
        width=graph.nodes[0].plane.width,
    )


def stream_bytes(graph: Graph, rows_px: int, bytes_per_number: int) -> int:
    """Memory that a flow takes: its line buffers, and the most that one step has in work at once."""
    return state_bytes(graph, rows_px, bytes_per_number) + _work_bytes(graph, rows_px, bytes_per_number)


def state_bytes(graph: Graph, rows_px: int, bytes_per_number: int) -> int:
    """Memory of the line buffers of a flow."""
    schedule = make_schedule(graph, rows_px)
    skipped = recomputed(graph, schedule)
    return sum(
        buffer_rows(graph, schedule, index) * node.plane.width * node.plane.depth * bytes_per_number
        for index, node in enumerate(graph.nodes)
        if schedule.waits(index) and index not in skipped
    )


def _work_bytes(graph: Graph, rows_px: int, bytes_per_number: int) -> int:
    """Memory of the tensors of one step: an operator's inputs, its output, and what it needs in between."""

    def of(node: Node) -> int:
        return math.ceil(rows_px * node.rate) * node.plane.width * node.plane.depth * bytes_per_number

    alive = [0]
    for node in graph.nodes:
        given = sum(of(graph.nodes[source]) for source in node.inputs)
        for link in node.operator.nodes if isinstance(node.operator, Chain) else [node]:
            alive.append(of(link) + 2 * given)
            given = of(link)
    # Convolutions take as much again inside, and what the allocator keeps for itself stays resident.
    return 3 * max(alive)


WIDE_PX = 32768
"""Width of the slide whose steps `stream_facts` speaks of, in pixels."""


@dataclass(frozen=True, kw_only=True)
class StreamFacts:
    """What a stream of a network takes. rows_px: of a step on a slide of WIDE_PX; state_bytes_per_px: of
    its line buffers, per pixel of width, whatever the height. receptive_field_px: None without a bound."""

    rows_px: int
    state_bytes_per_px: float
    receptive_field_px: int | None


def stream_facts(network: nn.Module, channels: int) -> StreamFacts:
    """The facts in float32, computed from the network's operators. Raises NotStreamable."""
    stride = trace(network, channels, Size(64, 64)).stride
    # Wide enough that the sides do not count, high enough that the buffers fill.
    width = 64 * stride
    graph = trace(network, channels, Size(64 * width, width))
    rows_px = next(heights(graph, WIDE_PX, STEP_PX))
    return StreamFacts(
        rows_px=rows_px,
        state_bytes_per_px=state_bytes(graph, rows_px, 4) / width,
        receptive_field_px=graph.receptive_field_px(),
    )
