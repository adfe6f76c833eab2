"""The order of measurements and their time, with jobs that only pretend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from axialcli.bench.budget import Budget
from axialcli.bench.jobs import Job
from axialcli.bench.run import Bench
from axialcli.bench.settings import BenchSettings
from axialcli.bench.worker import Outcome
from axialcli.errors import LimitError, ModelError
from tests.bench.test_figures import FakeClock

ROWS = ("stream torch", "tiles torch", "tiles onnx", "tiles compiled")

MODEL = {"name": "m", "sha256": "0" * 64, "device": "cpu", "dtype": "float32"}


class FakeJobs:
    """Stands in for `run_job`: each job takes its time on a fake clock and is killed at its limit."""

    def __init__(self, clock: FakeClock, takes_s: Mapping[str, float], **fails: str) -> None:
        self.clock, self.takes_s, self.fails = clock, takes_s, fails
        self.done: list[Job] = []

    def __call__(self, job: Job, *, limit_s: float, env: Mapping[str, str]) -> Outcome:
        self.done.append(job)
        needed_s = self.takes_s.get(job.kind, 1.0)
        self.clock.now += min(needed_s, limit_s)
        if needed_s > limit_s:
            return Outcome(failure="not finished")
        if job.kind in self.fails:
            return Outcome(failure=self.fails[job.kind], exit_code=4)
        makes = job.kind in ("slides", "export", "ceilings")
        return Outcome(seconds=[] if makes else [needed_s], facts=self._facts(job), process_s=2 + needed_s)

    def _facts(self, job: Job) -> dict[str, Any]:
        if job.kind == "slides":
            return {"model": MODEL, "flops_per_px": 100.0}
        if job.kind == "ceilings":
            return {"machine": {}, "matmul float32": {"seconds": [1.0], "amount": 1, "unit": "flop"}}
        if job.kind == "end_to_end":
            return {"engine": "stream", "stages": {}, "start_up": {"imports": 0.25, "model": 0.25}}
        return {"engine": "stream"} if job.kind == "network" else {}


def bench(
    seconds: float, takes_s: Mapping[str, float], **more: Any
) -> tuple[FakeJobs, dict[str, Any], FakeClock]:
    clock = FakeClock()
    jobs = FakeJobs(clock, takes_s, **more.pop("fails", {}))
    settings = BenchSettings(seconds=seconds, **more)
    report = Bench(settings, budget=Budget(seconds, clock), run=jobs).report()
    return jobs, report, clock


def names(report: dict[str, Any], part: str = "measurements") -> list[str]:
    return [entry["name"] for entry in report[part]]


def test_everything_is_measured_where_there_is_time() -> None:
    _, report, _ = bench(240, {}, resolutions=(128, 256))

    assert report["failures"] == []
    assert set(names(report)) == {
        "matmul float32",
        "end to end stream 256",
        "decode alone 256",
        "network alone stream 256",
        *(f"{row} {side}" for row in ROWS for side in (128, 256)),
    }


@pytest.mark.parametrize("seconds", [5, 20, 60])
@pytest.mark.parametrize("each_s", [0.3, 4.0, 1000.0])
def test_the_time_is_kept_and_what_was_left_out_is_said(seconds: float, each_s: float) -> None:
    kinds = ("end_to_end", "network", "engine", "export", "decode")
    _, report, clock = bench(seconds, dict.fromkeys(kinds, each_s), resolutions=(128, 256, 512))

    # Every process gets half a second, or it would tell nothing.
    assert clock.now - 100 <= seconds + 0.5
    wanted = 1 + 1 + 3 * 4
    said = {name for name in names(report) + names(report, "failures") if name != "ONNX export"}
    assert len(said - {"matmul float32", "decode alone 512"}) == wanted


def test_start_up_and_end_are_what_the_process_took_besides() -> None:
    _, report, _ = bench(240, {"end_to_end": 3.0}, resolutions=(256,))
    (found,) = (entry for entry in report["measurements"] if entry["kind"] == "end_to_end")

    assert found["seconds"] == [3.0] * 5
    assert {run["end"] for run in found["facts"]["runs"]} == {1.5}


def test_what_would_take_too_long_is_not_begun() -> None:
    jobs, report, _ = bench(
        60, {"engine": 9.0, "end_to_end": 1, "network": 1}, resolutions=(256, 1024), engines=("stream",)
    )

    assert "stream torch 256" in names(report)
    assert [job.given["slide"].endswith("256.tif") for job in jobs.done if job.kind == "engine"] == [True]
    (left_out,) = report["failures"]
    assert left_out["name"] == "stream torch 1024"
    assert "144 s" in left_out["reason"]


def test_a_failed_export_is_told_once_and_costs_its_rows_only() -> None:
    _, report, _ = bench(240, {}, resolutions=(256,), fails={"export": "no such operator"})

    assert report["failures"] == [
        {"name": "ONNX export", "reason": "no such operator"},
        {"name": "tiles onnx 256", "reason": "not begun: it needs the ONNX export"},
    ]
    assert "tiles compiled 256" in names(report)


def test_a_model_that_cannot_be_loaded_is_the_models_error() -> None:
    with pytest.raises(ModelError, match="damaged"):
        bench(240, {}, resolutions=(256,), fails={"slides": "damaged"})


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        ({}, "nothing was measured in 5 s: give more --seconds"),
        ({"ceilings": "no such device"}, "nothing was measured: ceilings: no such device"),
    ],
)
def test_a_bench_that_measured_nothing_is_no_report(fails: dict[str, str], says: str) -> None:
    takes_s = {"ceilings": 1.0 if fails else 99.0, "attention": 99.0}

    class Slow(FakeJobs):
        def __call__(self, job: Job, *, limit_s: float, env: Mapping[str, str]) -> Outcome:
            outcome = super().__call__(job, limit_s=limit_s, env=env)
            late = outcome.failure == "not finished"
            return Outcome(failure="not finished: give more --seconds") if late else outcome

    clock = FakeClock()
    settings = BenchSettings(seconds=5, attention=True)
    with pytest.raises(LimitError, match=says):
        Bench(settings, budget=Budget(5, clock), run=Slow(clock, takes_s, **fails)).report()


def test_attention_needs_no_model_and_leaves_out_what_grows_too_long() -> None:
    jobs, report, _ = bench(100, {"attention": 1.0}, attention=True)

    assert {job.kind for job in jobs.done} == {"ceilings", "attention"}
    assert "axial attention 1024" in names(report)
    assert "global attention 1024" not in names(report)
    assert report["model"] is None


def test_an_onnx_file_runs_as_it_is() -> None:
    jobs, _, _ = bench(240, {}, resolutions=(256,), model="net.onnx")

    assert [(job.given["model"], job.given["backend"]) for job in jobs.done if job.kind == "engine"] == [
        ("net.onnx", "onnx")
    ]
    assert "export" not in {job.kind for job in jobs.done}
