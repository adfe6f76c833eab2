"""Memory runs out between two barriers: the passes go on with less at once, and the answer stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from axialcli.engine.stream import passes
from axialcli.engine.stream.barrier import BarrierFlow
from axialcli.engine.stream.flow import Flow
from tests.engine.stream.barriers import barrier_flow, last_sweep
from tests.engine.stream.networks import randomised
from tests.engine.stream.whole import WholeNet

IMAGE_BCHW = torch.randn(1, 3, 43, 50, generator=torch.Generator().manual_seed(0))
NETWORK = randomised(WholeNet(order="width_height", depth=2), 1, torch.float32)
PLAN = {"steps": [16, 4, 16, 4, 24]}


@contextmanager
def columns_fit(most: int, *, stage: int) -> Iterator[None]:
    """From the stage of columns of that number on, wider strips fail, but for the first one."""
    real, seen = passes.run_columns, list[Any]()

    def limited(graph: Any, fed: dict[int, Tensor], x0: int, x1: int) -> dict[int, Tensor]:
        if graph not in seen:
            seen.append(graph)
        if x0 > 0 and x1 - x0 > most and seen.index(graph) + 1 >= stage:
            raise MemoryError
        return real(graph, fed, x0, x1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "run_columns", limited)
        yield


@contextmanager
def steps_fit(most: int) -> Iterator[None]:
    """Steps of more rows of the picture fail."""
    real = Flow.run

    def limited(self: Flow, step: int, fed: dict[int, Tensor]) -> dict[int, tuple[int, Tensor]]:
        if self.schedule.rows_px > most:
            raise MemoryError
        return real(self, step, fed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Flow, "run", limited)
        yield


def finished(flow: BarrierFlow, reads: list[int] | None = None) -> Tensor:
    """The answer, however often memory runs out. reads: takes the first row of everything that is read."""

    def read_rows(start: int, stop: int) -> Tensor:
        if reads is not None:
            reads.append(start)
        return IMAGE_BCHW[:, :, start:stop]

    while True:
        try:
            with torch.inference_mode():
                assert flow.prepare(read_rows, note_s=0.0)
            return last_sweep(flow, IMAGE_BCHW)
        except MemoryError:
            assert flow.halve()


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize(
    ("limit", "steps"),
    [
        (lambda: columns_fit(1, stage=1), [16, 1, 8, 1, 8]),
        (lambda: columns_fit(1, stage=2), [16, 4, 16, 1, 8]),
        (lambda: steps_fit(8), [8, 2, 8, 2, 8]),
        (lambda: steps_fit(16), [16, 4, 16, 4, 8]),
    ],
)
def test_any_stage_goes_on_with_less(tmp_path: Path, limit: Any, steps: list[int], on_disk: bool) -> None:
    with torch.inference_mode():
        want = NETWORK(IMAGE_BCHW)
    flow = barrier_flow(NETWORK, IMAGE_BCHW, scratch=tmp_path if on_disk else None, plan=PLAN)
    with limit():
        found = finished(flow)
    assert flow.plan == {"steps": steps}
    torch.testing.assert_close(found, want, rtol=0, atol=1e-4)
    flow.remove()
    assert not list(tmp_path.iterdir())


def test_on_disk_what_is_finished_is_not_run_again(tmp_path: Path) -> None:
    reads: list[int] = []
    flow = barrier_flow(NETWORK, IMAGE_BCHW, scratch=tmp_path, plan=PLAN)
    with columns_fit(1, stage=1):
        finished(flow, reads)
    flow.close()
    assert reads == [0, 16, 32]


def test_a_run_that_was_killed_after_it_repeats_the_lower_plan(tmp_path: Path) -> None:
    flow = barrier_flow(NETWORK, IMAGE_BCHW, scratch=tmp_path, plan=PLAN)
    with columns_fit(1, stage=2):
        want = finished(flow)
    flow.close()

    for plan in (None, flow.plan):
        reads: list[int] = []
        again = barrier_flow(NETWORK, IMAGE_BCHW, scratch=tmp_path, plan=plan)
        assert again.plan == flow.plan == {"steps": [16, 4, 16, 1, 8]}
        assert torch.equal(finished(again, reads), want)
        again.close()
        assert reads == []


def test_nothing_is_left_to_halve(tmp_path: Path) -> None:
    flow = barrier_flow(NETWORK, IMAGE_BCHW, plan={"steps": [8, 1, 8, 1, 8]})
    assert not flow.halve()
