"""How high a stream's steps are: enough pixels for every kernel, no more than a resume may compute again."""

from __future__ import annotations

from collections.abc import Iterator

from axialcli.config import MASK_TILE
from axialcli.engine.stream.graph import Graph
from axialcli.engine.stream.schedule import make_schedule
from axialcli.engine.stream.sight import rows_together

STEP_PX = 1 << 20
"""Pixels of a step where memory allows, of 4 bytes a number: enough to feed every kernel, little enough to
stay near the core."""

SPARSE_GAIN = 2
"""Steps of a slide with background have so many times as many pixels at most: of these few are computed."""

GOOD_STEP_PX = 48
"""However wide the picture, steps of a stream without barriers are so high where memory allows: for a step's
queries attention along the height goes through all the keys of a span, and for few it is not worth it."""

LOWEST_STEP_PX = 16
"""Lower steps than this cost much time: column strips are better. They are tried last, and only where a
picture is so wide that the best step is lower itself."""


def pixels_of_a_step(bytes_per_number: int, blank_share: float | None = None) -> int:
    """Pixels of a step where memory allows. blank_share: of the pixels that are skipped, None for none."""
    return int(STEP_PX * 4 / bytes_per_number / max(1 - (blank_share or 0), 1 / SPARSE_GAIN))


def heights(graph: Graph, width: int, step_px: int, *, sparse: bool = False) -> Iterator[int]:
    """Heights of a step to try, in pixels, the best first; each a multiple of the stride.

    step_px: pixels of the best. sparse: whether background is skipped; a late start is then fed whole groups
    of rows.
    """
    field = graph.receptive_field_px()
    best = max(step_px // width, graph.stride)
    # Powers of two, and halfway between, in strides.
    highest = max(best, GOOD_STEP_PX) // graph.stride
    powers = [2**exponent for exponent in range(highest.bit_length())]
    counts = {count for power in powers for count in (power, power * 3 // 2) if count <= highest} or {1}
    found = sorted((count * graph.stride for count in counts), reverse=True)
    found = [rows for rows in found if rows >= min(LOWEST_STEP_PX, best)] or found[:1]
    return (rows for rows in found if rows == found[-1] or _fed_again(graph, rows, field, sparse))


def _fed_again(graph: Graph, rows_px: int, field: int | None, sparse: bool) -> bool:
    """Whether a continued run feeds at most a band and twice the receptive field of rows again."""
    if field is None:
        return True
    schedule = make_schedule(graph, rows_px)
    row = graph.nodes[graph.outputs[0]].plane.height // 2 // MASK_TILE * MASK_TILE
    first = schedule.first_rows(row)[0]
    if sparse:
        first -= first % rows_together(rows_px)
    return row - first <= MASK_TILE + 2 * field
