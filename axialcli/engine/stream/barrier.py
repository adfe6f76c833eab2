"""Attention without a span: sweeps over the picture, and passes over a store of features in between.

Shapes: B batch, C channels, W width; R rows of a grid.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from axialcli.config import scratch_folder
from axialcli.engine.stream.flow import Flow
from axialcli.engine.stream.graph import Graph
from axialcli.engine.stream.needs import Needs, choose_steps, estimate_seconds, lower_step, stage_bytes
from axialcli.engine.stream.passes import ReadRows, Runner
from axialcli.engine.stream.schedule import Schedule, make_schedule
from axialcli.engine.stream.scratch import JOURNAL, Scratch, header_of, whole_notes
from axialcli.engine.stream.slots import assign
from axialcli.engine.stream.stages import split
from axialcli.engine.stream.store import MemoryStore, ScratchStore

logger = logging.getLogger("axial")

NOTE_S = 30.0
"""Seconds between two notes within a stage: about what a kill can cost."""


class BarrierFlow:
    """Runs a graph with barriers: `prepare` first, then the last sweep as if it were a Flow.

    dtype, device: of the computing; a store in memory lies on the same device. max_bytes: what all
    this may take of memory. scratch: the user's folder for scratch files, or None for a store in
    memory; name: what the run is called there, such as its output's path. store_dtype: of what is
    stored. fingerprint: all that decides the features, in JSON's types; work in the scratch folder
    under another one is dropped. plan: the `plan` of an earlier run, so that the numbers come out the
    same; None for that of the work in the scratch folder, or a new one. Nothing is allocated or written
    before `prepare`. Raises NotStreamable.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        dtype: torch.dtype,
        device: torch.device,
        max_bytes: int,
        scratch: Path | None,
        name: str,
        store_dtype: torch.dtype,
        fingerprint: Mapping[str, Any],
        plan: Mapping[str, Any] | None = None,
    ) -> None:
        self._dtype, self._device, self._store_dtype = dtype, device, store_dtype
        self._max_bytes, self._parent = max_bytes, scratch
        self._folder = None if scratch is None else scratch_folder(scratch, name)
        self._stages = split(graph)
        self._places = assign(graph, self._stages, in_place=scratch is None)
        decided = {
            **fingerprint,
            "dtypes": [str(dtype), str(store_dtype)],
            "slots": [[slot.height, slot.width, slot.depth] for slot in self._places.slots],
        }
        self._repeats = plan is not None
        self._found = False
        if plan is None and self._folder is not None:
            plan = _earlier_plan(self._folder, decided)
            self._repeats = self._found = plan is not None
        if plan is None:
            tiles, free = scratch is not None, max_bytes - self._store_bytes()[0]
            self._steps = choose_steps(self._stages, dtype.itemsize, free, tiles=tiles)
        else:
            self._steps = [int(step) for step in plan["steps"]]
        self._fingerprint = {**decided, "plan": self.plan}
        self._scratch: Scratch | None = None
        self._runner: Runner | None = None
        self._done = 0
        self._flow: Flow | None = None
        self._seconds: list[float] | None = None

    @property
    def plan(self) -> dict[str, Any]:
        """What a continued run has to repeat, in JSON's types: of each stage how much it does at once."""
        return {"steps": list(self._steps)}

    @property
    def graph(self) -> Graph:
        """The graph of the last sweep."""
        return self._stages[-1].graph

    @property
    def rows_px(self) -> int:
        """Rows of pixels of a step of the last sweep."""
        return self._steps[-1]

    @property
    def schedule(self) -> Schedule:
        """The timetable of the last sweep."""
        return make_schedule(self.graph, self._steps[-1]) if self._flow is None else self._flow.schedule

    @property
    def state_bytes(self) -> int:
        """Memory of the line buffers of the last sweep, once it has begun."""
        return 0 if self._flow is None else self._flow.state_bytes

    def needs(self, *, calibrate: bool = True) -> Needs:
        """What the run will take. calibrate: whether its time is estimated, in about two seconds."""
        if calibrate and self._seconds is None:
            self._seconds = estimate_seconds(self._stages, self._dtype, self._device)
        steps = zip(self._stages, self._steps, strict=True)
        in_memory, on_disk = self._store_bytes()
        sweeps = sum(stage.pixels is not None for stage in self._stages)
        return Needs(
            memory_bytes=in_memory + max(stage_bytes(*step, self._dtype.itemsize) for step in steps),
            store_bytes=in_memory + on_disk,
            disk_bytes=on_disk,
            sweeps=sweeps,
            passes=len(self._stages) - sweeps,
            seconds=None if self._seconds is None else sum(self._seconds),
        )

    def check(self, fixed_bytes: int | None = 0) -> None:
        """Raises LimitError where the memory is too little for a new plan, OutputError where the disk is.

        fixed_bytes: what the process takes beside `max_bytes`; None where these are a GPU's.
        """
        needs = self.needs(calibrate=False)
        if not self._repeats:
            needs.check_memory(self._max_bytes, fixed_bytes, self._parent)
        elif self._found and needs.memory_bytes > self._max_bytes:
            logger.warning(
                "%s is continued, its plan takes more memory than there is now; "
                "delete it to start over with less",
                self._folder,
            )
        if self._parent is None:
            return
        there = 0
        if self._folder is not None and self._folder.is_dir():
            # What is really taken: the files have holes until every strip was written once.
            found = [path.stat() for path in self._folder.glob("features-*.bin")]
            there = sum(min(one.st_size, 512 * getattr(one, "st_blocks", 0)) for one in found)
        needs.check_disk(self._parent, there)

    def prepare(
        self,
        read_rows: ReadRows,
        cancelled: Callable[[], bool] = lambda: False,
        progress: Callable[[float], None] | None = None,
        *,
        note_s: float = NOTE_S,
    ) -> bool:
        """Runs all stages before the last; in scratch files it goes on where the run before it ended.

        progress: called with the share that is done. note_s: seconds between two notes within a stage.
        Returns False where it was cancelled. Raises OutputError where a scratch file fails or another
        run uses the folder, LimitError beyond float16.
        """
        runner, at = self._open(), self._scratch.at if self._scratch else 0
        for number in range(self._done, len(self._stages) - 1):
            noted = time.monotonic()
            for done, total in runner.run(self._stages[number], self._steps[number], at, read_rows):
                if cancelled():
                    return False
                if progress is not None:
                    progress(self._share(number, done / total))
                if done < total and time.monotonic() - noted >= note_s:
                    self._note(number, done)
                    noted = time.monotonic()
            self._note(number + 1, 0)
            self._done, at = number + 1, 0
        return True

    def halve(self) -> bool:
        """Memory ran out: the stage in work, and those after it, do half as much at once from now on.

        `prepare` comes next, and goes on where the run was; but in memory, where a pass writes over what it
        reads, one that was not finished begins all again. False where the stage does the least already.
        Raises OutputError.
        """
        stage = self._done
        steps = [
            step if number < stage else lower_step(part, step)
            for number, (part, step) in enumerate(zip(self._stages, self._steps, strict=True))
        ]
        if steps[stage] == self._steps[stage]:
            return False
        self._steps, self._flow, self._repeats = steps, None, True
        self._fingerprint["plan"] = self.plan
        if self._scratch is not None:
            # How far a sweep is, counts in its own steps; columns are columns.
            self._scratch.renew(self._fingerprint, self._scratch.at if self._stages[stage].columns else 0)
        elif stage < len(self._stages) - 1:
            self.close()
        return True

    def begin(self, row: int = 0) -> int:
        """Prepares for the output's rows from `row` on. Returns the step to start with."""
        assert self._runner is not None, "prepare comes first"
        if self._flow is None:
            self._flow = self._runner.flow(self._stages[-1], self._steps[-1])
        return self._flow.begin(row)

    def wanted(self, source: int, step: int) -> tuple[int, int]:
        """The rows of the picture (source 0) that `run` wants in a step; none where the two are equal."""
        assert self._flow is not None, "begin comes first"
        return (0, 0) if source != self._stages[-1].pixels else self._flow.wanted(source, step)

    def run(self, step: int, fed: dict[int, Tensor]) -> dict[int, tuple[int, Tensor]]:
        """One step of the last sweep, as `Flow.run`; fed: the picture's wanted rows alone."""
        assert self._flow is not None
        assert self._runner is not None
        stored = self._runner.stored_rows(self._stages[-1], self._flow, step)
        return self._flow.run(step, {**fed, **stored})

    def close(self) -> None:
        """Lets go of the store; scratch files stay, to be continued."""
        if self._runner is not None:
            self._runner.store.close()
        if self._scratch is not None:
            self._scratch.close()
        self._runner = self._flow = self._scratch = None
        self._done = 0

    def remove(self) -> None:
        """Ends the run: as `close`, and deletes the scratch files, were they in use or not. Raises
        OutputError."""
        scratch, self._scratch = self._scratch, None
        self.close()
        if scratch is None and self._folder is not None and self._folder.is_dir():
            scratch = self._open_scratch(self._folder)
        if scratch is not None:
            scratch.remove()

    def _store_bytes(self) -> tuple[int, int]:
        """What the store takes: of memory, and of disk."""
        if self._parent is not None:
            return 0, sum(ScratchStore.sizes(self._places.slots, self._store_dtype))
        return sum(slot.numbers for slot in self._places.slots) * self._store_dtype.itemsize, 0

    def _open(self) -> Runner:
        """The store, made or continued."""
        if self._runner is None:
            slots = self._places.slots
            store: MemoryStore | ScratchStore
            if self._folder is None:
                store = MemoryStore(slots, self._store_dtype, self._device)
            else:
                self._scratch = self._scratch or self._open_scratch(self._folder)
                self._done = self._scratch.stage
                store = self._scratch.store(slots, self._store_dtype)
            self._runner = Runner(places=self._places, store=store, dtype=self._dtype, device=self._device)
        return self._runner

    def _open_scratch(self, folder: Path) -> Scratch:
        sizes = ScratchStore.sizes(self._places.slots, self._store_dtype)
        return Scratch(folder, self._fingerprint, sizes)

    def _note(self, stage: int, at: int) -> None:
        """Notes on disk how far the run is."""
        if self._scratch is not None:
            assert self._runner is not None
            self._runner.store.sync()
            self._scratch.note(stage, at)

    def _share(self, stage: int, done: float) -> float:
        """What is done of all stages before the last, once `done` of a stage is."""
        weights = (self._seconds or [1.0] * len(self._stages))[:-1]
        return (sum(weights[:stage]) + weights[stage] * done) / (sum(weights) or 1.0)


def _earlier_plan(folder: Path, decided: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The plan of the work in a scratch folder; None where there is none, or it is another run's.

    An output that was ended before its first block keeps no plan, but hours of passes may be here.
    """
    try:
        notes = whole_notes((folder / JOURNAL).read_bytes())
    except OSError:
        return None
    if len(notes) < 2 or None in notes:
        return None
    said = dict(header_of(notes)["fingerprint"])
    plan: Mapping[str, Any] | None = said.pop("plan", None)
    # As a journal gives it back: JSON knows no tuples.
    return plan if said == json.loads(json.dumps(decided)) else None
