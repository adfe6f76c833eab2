"""What a network with barriers needs, known before the start: memory, disk and time."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

from axialcli.engine.stream.chains import Chain
from axialcli.engine.stream.columns import column_bytes
from axialcli.engine.stream.convolution import Neighbourhood
from axialcli.engine.stream.graph import Graph, Node
from axialcli.engine.stream.heights import STEP_PX
from axialcli.engine.stream.operators import Operator, Piece
from axialcli.engine.stream.plan import stream_bytes
from axialcli.engine.stream.stages import Stage
from axialcli.engine.stream.store import TILE
from axialcli.errors import LimitError, OutputError
from axialcli.geometry import Box, Size

STRIP_BYTES = 128 << 20
"""Memory of a strip of columns where there is enough: more columns at once are no faster."""

ROOM_BYTES = 32 << 20
"""By how much the memory that is named as enough is more than what was counted."""

SAMPLE_NUMBERS = 1 << 18
SAMPLE_LENGTH = 4096
CALIBRATION_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a run takes before its last sweep is over.

    memory_bytes: store, strips, line buffers and steps. store_bytes: of the store alone, disk_bytes:
    the same where it lies on disk, else 0. sweeps: stages that read the picture; passes: the others.
    seconds: for computing alone, from a small piece of the real work; None where that took too long.
    """

    memory_bytes: int
    store_bytes: int
    disk_bytes: int
    sweeps: int
    passes: int
    seconds: float | None

    @property
    def text(self) -> str:
        """One line to print."""
        where = "on disk" if self.disk_bytes else "in memory"
        line = (
            f"no span: store {_size(self.store_bytes)} {where}, {_size(self.memory_bytes)} of memory in all, "
            f"{_count(self.sweeps, 'sweep')} and {_count(self.passes, 'pass', 'es')}"
        )
        return line if self.seconds is None else f"{line}, about {_duration(self.seconds)} of computing"

    def check_memory(self, max_bytes: int, fixed_bytes: int | None, scratch: Path | None) -> None:
        """Raises LimitError where memory is too little; it says how much is enough.

        max_bytes: what is there for this. fixed_bytes: what the process takes beside it, None where
        the memory is a GPU's, which no option raises. scratch: as for `check_disk`.
        """
        if self.memory_bytes <= max_bytes:
            return
        more = [] if scratch is not None else ["give a folder with --scratch"]
        if fixed_bytes is None:
            where, total, whole = "the device's free memory", max_bytes, self.memory_bytes
            more += ["use --device cpu"]
        else:
            where, total, whole = "memory", max_bytes + fixed_bytes, self.memory_bytes + fixed_bytes
            more = [f"give --max-ram {_option(whole)} or more", *more]
        raise LimitError(
            f"{where} of {max(0, total) >> 20} MiB is too little for attention without a span, "
            f"which needs {-(-whole >> 20)} MiB: {', or '.join(more)}"
        )

    def check_disk(self, scratch: Path, there_bytes: int = 0) -> None:
        """Raises OutputError where the disk is too small.

        scratch: the folder for scratch files. there_bytes: of them, what an earlier run has taken
        already.
        """
        try:
            free = shutil.disk_usage(scratch).free + there_bytes
        except OSError as error:
            raise OutputError(f"--scratch {scratch}: {error.strerror}; name a folder that exists") from error
        if self.disk_bytes > free:
            raise OutputError(
                f"--scratch {scratch} has {_size(free)} free, {_size(self.disk_bytes)} are needed: "
                "free some space, or name another folder"
            )


def choose_steps(
    stages: Sequence[Stage], bytes_per_number: int, free_bytes: int, *, tiles: bool
) -> list[int]:
    """Of each stage how much it does at once: rows of pixels, or columns of the grid.

    free_bytes: what is left beside the store. tiles: whether strips should be whole tiles of a scratch
    file. Where nothing fits it is the least that can be done; `stage_bytes` then says what it takes.
    """
    return [
        _columns(stage.graph, bytes_per_number, free_bytes, tiles)
        if stage.columns
        else _rows(stage.graph, bytes_per_number, free_bytes)
        for stage in stages
    ]


def stage_bytes(stage: Stage, step: int, bytes_per_number: int) -> int:
    """Memory of a stage beside the store."""
    if stage.columns:
        # What the allocator has given back to itself and not to the system stays resident as well.
        return step * column_bytes(stage.graph, bytes_per_number) * 3 // 2
    return stream_bytes(stage.graph, step, bytes_per_number)


def _columns(graph: Graph, bytes_per_number: int, free_bytes: int, tiles: bool) -> int:
    width = graph.nodes[graph.outputs[0]].plane.width
    one = column_bytes(graph, bytes_per_number) * 3 // 2
    columns = min(max(STRIP_BYTES // one, TILE if tiles else 2), free_bytes // one)
    if columns >= TILE:
        columns -= columns % TILE
    return max(1, min(columns, width))


def _rows(graph: Graph, bytes_per_number: int, free_bytes: int) -> int:
    lowest = lowest_step(graph)
    width_px = max(math.ceil(node.plane.width / node.rate) for node in graph.nodes)
    height_px = max(math.ceil(node.plane.height / node.rate) for node in graph.nodes)
    most = min(STEP_PX // width_px, height_px) // lowest
    rows_px = lowest << max(0, most.bit_length() - 1)
    while rows_px > lowest and stream_bytes(graph, rows_px, bytes_per_number) > free_bytes:
        rows_px //= 2
    return rows_px


def lower_step(stage: Stage, step: int) -> int:
    """Half of what a stage does at once, or the least that it can."""
    least = 1 if stage.columns else lowest_step(stage.graph)
    return max(least, step // 2 // least * least)


def lowest_step(graph: Graph) -> int:
    """The lowest step, in rows of pixels: whole cells of every grid, and whole blocks of local windows."""
    blocks = [
        Fraction(rows.block) / graph.nodes[source].rate
        for node in graph.nodes
        if node.operator is not None
        for source, (rows, _) in zip(node.inputs, node.operator.reaches, strict=True)
    ]
    return -(-math.ceil(max(blocks, default=Fraction(1))) // graph.stride) * graph.stride


def estimate_seconds(
    stages: Sequence[Stage], dtype: torch.dtype, device: torch.device, *, limit_s: float = CALIBRATION_S
) -> list[float] | None:
    """How long each stage will compute: a small piece of every kind of operator is run and timed.

    None where that would take longer than `limit_s`.
    """
    known: dict[object, float] = {}
    found = []
    started = time.perf_counter()
    with torch.inference_mode():
        for number, stage in enumerate(stages):
            seconds = 0.0
            for index, node in enumerate(stage.graph.nodes):
                if node.operator is None:
                    continue
                kind = _kind(stage.graph, node, (number, index))
                if kind not in known:
                    if time.perf_counter() - started > limit_s:
                        return None
                    known[kind] = _seconds_each(stage.graph, node, node.operator, dtype, device)
                seconds += known[kind] * node.plane.height * node.plane.width
            found.append(seconds)
    return found


def _kind(graph: Graph, node: Node, place: tuple[int, int]) -> object:
    """What is alike for operators that take the same time; convolutions do not show their groups."""
    operator = node.operator
    inner = type(getattr(operator, "module", None) or getattr(operator, "function", None))
    shapes = tuple(graph.nodes[source].plane.depth for source in node.inputs)
    alone = place if isinstance(operator, (Neighbourhood, Chain)) else None
    return type(operator), inner, operator and operator.reaches, shapes, node.plane.depth, alone


def _seconds_each(
    graph: Graph, node: Node, operator: Operator, dtype: torch.dtype, device: torch.device
) -> float:
    """Seconds for one position of a node, timed on a box at the picture's corner."""
    plane = node.plane
    # Along an axis that is attended as a whole the sample is whole as well, up to a length.
    full = [any(reaches[axis].whole for reaches in operator.reaches) for axis in (0, 1)]
    # The longer the axis, the more each position takes; a shorter sample is scaled up.
    scale = 1.0
    columns = min(plane.width, SAMPLE_LENGTH if full[1] else 256)
    rows = min(plane.height, SAMPLE_LENGTH if full[0] else max(1, SAMPLE_NUMBERS // plane.depth // columns))
    if full[0]:
        columns = min(columns, max(2, SAMPLE_NUMBERS // plane.depth // rows))
        scale = plane.height / rows
    if full[1]:
        scale = plane.width / columns
    box = Box(0, 0, rows, columns)
    pieces = []
    for source, reaches in zip(node.inputs, operator.reaches, strict=True):
        given = graph.nodes[source].plane
        height = rows if reaches[0].whole else reaches[0].clipped(0, rows, given.height)[1]
        width = columns if reaches[1].whole else reaches[1].clipped(0, columns, given.width)[1]
        tensor = torch.randn(given.with_size(height, width).shape, device=device).to(dtype)
        pieces.append(Piece(tensor, Box(0, 0, height, width), Size(given.height, given.width)))
    timed = math.inf
    for _ in range(2):  # The first one warms up.
        began = time.perf_counter()
        operator.run(pieces, box)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        timed = min(timed, time.perf_counter() - began)
    return timed * scale / (rows * columns)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{math.ceil(count / 1e6)} MB"


def _option(count: int) -> str:
    """A number of bytes as --max-ram takes it, rounded up: no two processes start with the same memory."""
    roomy = count + ROOM_BYTES
    if roomy < 1 << 30:
        return f"{-(-roomy // (10 << 20)) * 10}M"
    return f"{math.ceil(10 * roomy / (1 << 30)) / 10:.1f}G"


def _count(count: int, word: str, plural: str = "s") -> str:
    return f"{count} {word if count == 1 else word + plural}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
