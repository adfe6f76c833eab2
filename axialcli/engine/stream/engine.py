"""StreamEngine: the whole slide's own answer, with no tiles and no seams.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from axialcli.backends import Model
from axialcli.backends.memory import memory_is_a_limit
from axialcli.config import MASK_TILE, EngineName, StoreDtype
from axialcli.engine.ahead import ahead
from axialcli.engine.background import Background
from axialcli.engine.halving import Halvings
from axialcli.engine.stopwatch import Stopwatch
from axialcli.engine.stream.barrier import BarrierFlow
from axialcli.engine.stream.blocks import BlockRows
from axialcli.engine.stream.budget import UNSEEN_BYTES, make_budget
from axialcli.engine.stream.flow import Flow
from axialcli.engine.stream.late_shuffle import LateShuffle, put_off
from axialcli.engine.stream.less import with_less
from axialcli.engine.stream.pixels import Pixels, Slab
from axialcli.engine.stream.plan import make_plan, whole_width
from axialcli.engine.stream.schedule import make_schedule
from axialcli.engine.stream.sparse import SparseFlow
from axialcli.engine.stream.trace import trace
from axialcli.engine.tiles import OVERLAY_BYTES, SPARE_BYTES
from axialcli.errors import AllocationError, OutputError
from axialcli.geometry import Block, Box, Size, label_dtype
from axialcli.image import SlideView

logger = logging.getLogger("axial")

AnyFlow = Flow | BarrierFlow


class StreamEngine:
    """Runs a model over a view of a slide, row chunk by row chunk, each feature computed once.

    max_ram_bytes: what the whole process may take; lower steps, then column strips keep it.
    max_ram_given: whether the user said so; else a GPU's memory alone decides there. reserved_bytes: of
    it, for others. background: blank pixels are set to one colour and skipped, or computed all the same
    where each pixel looks at a whole axis. windows: whose logits the blocks carry. probs: whether the
    blocks carry probabilities. overlay: whether the budget has to leave room for one. repeat: the
    `plan_notes` of an earlier run; they are repeated whatever memory there is now.

    For attention without a span: scratch: a folder for the features of all tokens, None for memory;
    store_dtype: of what is stored; run_name, fingerprint: what the run is called there, and all that
    decides its numbers.

    Raises LimitError where the budget is too small, OutputError where the scratch folder is.
    """

    name: EngineName = "stream"

    def __init__(
        self,
        view: SlideView,
        model: Model,
        *,
        max_ram_bytes: int,
        max_ram_given: bool = True,
        reserved_bytes: int = 0,
        scratch: Path | None = None,
        store_dtype: StoreDtype = "float32",
        background: Background | None = None,
        windows: Sequence[Box] = (),
        probs: bool = False,
        overlay: bool = False,
        repeat: Mapping[str, Any] | None = None,
        run_name: str = "stream",
        fingerprint: Mapping[str, Any] | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        assert model.network is not None, "the caller asks `refusal` first"
        self.view, self.model, self.windows, self.probs = view, model, windows, probs
        self.network = model.network
        self.stopwatch = stopwatch or Stopwatch()
        self._pixels = Pixels(view, model, background, self.stopwatch)
        self._cancelled = threading.Event()
        self._halvings = Halvings(repeat)
        self._channels = len(model.spec.input.channels)
        budget = make_budget(
            model.device,
            max_ram_bytes=max_ram_bytes,
            given=max_ram_given,
            spare_bytes=SPARE_BYTES + UNSEEN_BYTES + overlay * OVERLAY_BYTES + reserved_bytes,
        )
        graph = trace(self.network, self._channels, view.size)
        self._barrier: BarrierFlow | None = None
        if graph.barriers:
            of_blocks = self._block_bytes_per_px() * view.size.width
            self._barrier = BarrierFlow(
                graph,
                dtype=model.dtype,
                device=model.device,
                max_bytes=budget.free_bytes - of_blocks,
                scratch=scratch,
                name=run_name,
                store_dtype=getattr(torch, store_dtype),
                fingerprint=fingerprint or {},
                plan=repeat,
            )
            self._barrier.check(None if budget.on_device else budget.fixed_bytes + of_blocks)
            self.plan = whole_width(graph, self._barrier.rows_px)
        else:
            self.plan = make_plan(
                self.network,
                self._channels,
                view.size,
                bytes_per_number=model.dtype.itemsize,
                bytes_per_px_of_width=self._block_bytes_per_px(),
                free_bytes=budget.free_bytes,
                max_ram_bytes=max_ram_bytes,
                blank_share=background.share if background and not graph.looks_everywhere else None,
                repeat=repeat,
            )
        self.state_bytes = 0
        self._skipped_px = self._output_px = 0

    def boxes(self) -> list[Box]:
        """The blocks in the order in which they are finished."""
        return self._halvings.boxes(self._planned())

    def _planned(self) -> list[Box]:
        """The blocks of the plan."""
        return [
            Box(y, x0, min(y + MASK_TILE, self.view.size.height), x1)
            for x0, x1 in map(self.plan.own, range(len(self.plan.strips)))
            for y in range(0, self.view.size.height, MASK_TILE)
        ]

    def cancel(self) -> None:
        """Asks a running `blocks`, in whatever thread, to stop after the step in work."""
        self._cancelled.set()

    def plan_notes(self) -> dict[str, Any]:
        """What a continued run has to repeat."""
        plan = self.plan.notes() if self._barrier is None else self._barrier.plan
        return {**plan, **self._halvings.notes()}

    def halve(self, done: Collection[Box]) -> str | None:
        """Steps of half the height; where they are low already, strips of half the width."""
        if self._barrier is not None:
            if not self._barrier.halve():
                return None
            self.plan = replace(self.plan, rows_px=self._barrier.rows_px)
            self._halvings.add("steps")
            words = "steps of half the height"
        else:
            less = with_less(self.plan, self.network, self._channels, self.view.size)
            if less is None:
                return None
            self.plan, what, words = less
            self._halvings.add(what, done if what == "strips" else ())
        self._cancelled.clear()
        return words

    def finish(self) -> None:
        """The output is complete: deletes the scratch files, with a warning where that fails."""
        if self._barrier is not None:
            try:
                self._barrier.remove()
            except OutputError as error:
                logger.warning("the mask is complete, but its scratch files stay: %s", error)

    def close(self) -> None:
        """Lets go of store and scratch folder, whose files stay, to be continued."""
        if self._barrier is not None:
            self._barrier.close()

    def describe(self) -> dict[str, Any]:
        """For the report: steps, strips, and what they cost."""
        return {
            **self.plan.notes(),
            "halo_px": self.plan.halo_px if len(self.plan.strips) > 1 else 0,
            "recomputed_share": round(self.plan.recomputed_share, 4),
            "state_bytes": self.state_bytes,
            "halved": self._halvings.describe(),
            "blank_share": _share(self._pixels.filled.blank_px, self._pixels.filled.read_px),
            "skipped_share": _share(self._skipped_px, self._output_px),
        }

    def blocks(self, done: Collection[Box] = ()) -> Iterator[Block]:
        """The finished blocks, in order, without those that are `done` already.

        Rows that are missing are computed with those that the receptive field needs above them, in
        the same steps as in one run: the numbers are the same, bit by bit. After the last block the
        scratch folder stays locked until `finish` or `close`, and so it does where memory ran out, here or
        with whoever takes the blocks.
        """
        missing = self._halvings.missing(self._planned(), done)
        if not missing:
            return
        self._say_what_it_costs()
        try:
            with memory_is_a_limit():
                yield from self._missing(missing)
        except AllocationError:
            raise
        except Exception:
            self.close()
            raise

    def _missing(self, missing: list[Box]) -> Iterator[Block]:
        """These blocks, strip by strip, after what has to come before them."""
        if self._barrier is not None and not self._prepare(self._barrier):
            return
        for strip in range(len(self.plan.strips)):
            x0 = self.plan.own(strip)[0]
            for run in _runs([box for box in missing if box.x0 == x0]):
                yield from self._run(strip, run)
                if self._cancelled.is_set():
                    return

    def _say_what_it_costs(self) -> None:
        if self._barrier is not None:
            with torch.inference_mode():
                logger.info(self._barrier.needs().text)
        elif len(self.plan.strips) > 1:
            logger.info(
                "memory leaves room for %d column strips: %.0f %% of the width is computed twice",
                len(self.plan.strips),
                100 * self.plan.recomputed_share,
            )

    def _prepare(self, barrier: BarrierFlow) -> bool:
        """Sweeps and passes before the last sweep; False where they were cancelled."""
        said = 0

        def say(share: float) -> None:
            nonlocal said
            if int(10 * share) > said:
                said = int(10 * share)
                logger.info("%d %% of the passes before the mask are done", 10 * said)

        def read_rows(start: int, stop: int) -> Tensor:
            slab = self._pixels.read(Box(start, 0, stop, self.view.size.width))
            return self._pixels.normalised(slab.image_HWC.tensor())

        with self.stopwatch.stage("passes"), torch.inference_mode():
            return barrier.prepare(read_rows, self._cancelled.is_set, say)

    def _run(self, strip: int, wanted: list[Box]) -> Iterator[Block]:
        """Blocks that follow each other down one strip."""
        left, right = self.plan.reads(strip)
        flow, late = (self._barrier, LateShuffle()) if self._barrier else self._flow(right - left)
        first = flow.begin(wanted[0].y0 // late.factor)
        self.state_bytes = max(self.state_bytes, flow.state_bytes)
        rows = BlockRows(self.model, wanted, probs=self.probs, windows=self.windows, late=late)
        inside = late.positions(wanted[0].x0 - left, wanted[0].x1 - left)
        wanted_rows = (flow.wanted(0, step) for step in range(first, flow.schedule.steps))
        with ahead(self._pixels.slabs(wanted_rows, (left, right)), depth=1) as slabs:
            for step, slab in enumerate(slabs, first):
                if self._cancelled.is_set():
                    return
                # Not around the whole loop: whoever takes the blocks must not be in inference mode.
                with self.stopwatch.stage("network", self.model.device), torch.inference_mode():
                    made = self._step(flow, step, slab).get(flow.graph.outputs[0])
                # Nobody else holds these pixels: they are free before the next ones come.
                del slab
                if made is not None:
                    with self.stopwatch.stage("from device"):
                        blocks = list(rows.finish())
                    with self.stopwatch.stage("decide"), torch.inference_mode():
                        blocks += rows.add(made[0], made[1][..., inside])
                    yield from blocks
                if rows.complete:
                    break
            yield from rows.finish()
        if isinstance(flow, SparseFlow):
            self._skipped_px += flow.skipped * late.factor**2
            self._output_px += flow.total * late.factor**2

    def _flow(self, width: int) -> tuple[Flow, LateShuffle]:
        """The flow of a strip, and how what it hands out becomes pixels."""
        graph = trace(self.network, self._channels, Size(self.view.size.height, width))
        graph, late = put_off(graph)
        schedule = make_schedule(graph, self.plan.rows_px)
        dtype, device = self.model.dtype, self.model.device
        blank_BCHW = self._pixels.blank_pixel()
        if blank_BCHW is None or graph.looks_everywhere:
            return Flow(graph, schedule, dtype=dtype, device=device), late
        return SparseFlow(graph, schedule, dtype=dtype, device=device, blank_BCHW=blank_BCHW), late

    def _step(self, flow: AnyFlow, step: int, slab: Slab | None) -> dict[int, tuple[int, Tensor]]:
        image_HWC = None if slab is None else slab.image_HWC.tensor()
        normalised = self._pixels.normalised
        if not isinstance(flow, SparseFlow):
            return flow.run(step, {} if image_HWC is None else {0: normalised(image_HWC)})
        if slab is None or image_HWC is None:
            return flow.run_over(step, None, None)
        return flow.run_over(step, lambda x0, x1: normalised(image_HWC[:, x0:x1]), slab.blank_HW)

    def _block_bytes_per_px(self) -> int:
        """Per pixel of width: slabs ahead and in work, blocks in work and on their way to the sinks."""
        pixels = self.view.channels * self.view.dtype.itemsize
        classes = len(self.model.spec.classes)
        return 3 * 128 * pixels + 3 * MASK_TILE * (label_dtype(classes).itemsize + 4 * classes * self.probs)


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def _runs(boxes: list[Box]) -> list[list[Box]]:
    """Boxes of one strip, in runs without a gap."""
    runs: list[list[Box]] = []
    for box in boxes:
        if runs and runs[-1][-1].y1 == box.y0:
            runs[-1].append(box)
        else:
            runs.append([box])
    return runs
