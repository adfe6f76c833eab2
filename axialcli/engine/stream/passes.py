"""How one stage runs between two states of the feature store: a sweep of rows, or strips of columns.

Shapes: B batch, C channels, H height, W width; R rows of a grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from axialcli.engine.stream.columns import as_planned, positions_first, run_columns
from axialcli.engine.stream.flow import Flow
from axialcli.engine.stream.graph import Plane
from axialcli.engine.stream.schedule import make_schedule
from axialcli.engine.stream.slots import Places
from axialcli.engine.stream.stages import Stage
from axialcli.engine.stream.store import FeatureStore

ReadRows = Callable[[int, int], Tensor]
"""The normalised pixels [1, C, R, W] of the rows [start, stop)."""


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Runs stages on a store. dtype, device: of the computing."""

    places: Places
    store: FeatureStore
    dtype: torch.dtype
    device: torch.device

    def run(self, stage: Stage, step: int, at: int, read_rows: ReadRows) -> Iterator[tuple[int, int]]:
        """Runs a stage from where it stood `at`: columns, or steps that were done.

        step: rows of pixels or columns at once. Yields after each piece (done, of how many).
        """
        return self._columns(stage, step, at) if stage.columns else self._rows(stage, step, at, read_rows)

    def flow(self, stage: Stage, rows_px: int) -> Flow:
        """The flow of a stage of rows, its line buffers allocated."""
        schedule = make_schedule(stage.graph, rows_px)
        return Flow(stage.graph, schedule, dtype=self.dtype, device=self.device)

    def stored_rows(self, stage: Stage, flow: Flow, step: int) -> dict[int, Tensor]:
        """What a flow wants from the store in a step, by source."""
        fed = {}
        for source, value in stage.reads.items():
            start, stop = flow.wanted(source, step)
            if start < stop:
                plane = stage.graph.nodes[source].plane
                rows_RWC = self.store.read_rows(self.places.of[value], start, stop, plane.depth)
                fed[source] = self._planned(rows_RWC, plane)
        return fed

    def _rows(self, stage: Stage, rows_px: int, at: int, read_rows: ReadRows) -> Iterator[tuple[int, int]]:
        flow = self.flow(stage, rows_px)
        schedule = flow.schedule
        # All that later steps make is right from the first row on that some output still lacks.
        row = min(schedule.rows(index, at)[0] for index in stage.graph.outputs)
        for step in range(flow.begin(row), schedule.steps):
            fed = self.stored_rows(stage, flow, step)
            if stage.pixels is not None:
                start, stop = flow.wanted(stage.pixels, step)
                if start < stop:
                    fed[stage.pixels] = read_rows(start, stop)
            for index, (first, tensor) in flow.run(step, fed).items():
                rows_RWC = positions_first(tensor, stage.graph.nodes[index].plane)
                self.store.write_rows(self.places.of[stage.writes[index]], first, rows_RWC)
            yield step + 1, schedule.steps

    def _columns(self, stage: Stage, columns: int, at: int) -> Iterator[tuple[int, int]]:
        width = stage.graph.nodes[stage.graph.outputs[0]].plane.width
        for x0 in range(at, width, columns):
            x1 = min(x0 + columns, width)
            fed = {}
            for source, value in stage.reads.items():
                plane = stage.graph.nodes[source].plane
                strip_HWC = self.store.read_columns(self.places.of[value], x0, x1, plane.depth)
                fed[source] = self._planned(strip_HWC, plane)
            made = run_columns(stage.graph, fed, x0, x1)
            del fed
            for index, tensor in made.items():
                strip_HWC = positions_first(tensor, stage.graph.nodes[index].plane)
                self.store.write_columns(self.places.of[stage.writes[index]], x0, strip_HWC)
            yield x1, width

    def _planned(self, stored_RWC: Tensor, plane: Plane) -> Tensor:
        return as_planned(stored_RWC.to(self.device, self.dtype), plane)
