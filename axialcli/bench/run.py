"""All measurements of one call of `axial bench`: in order, each in a process of its own, within the time."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from axialcli.bench.budget import Budget
from axialcli.bench.figures import Measurement
from axialcli.bench.jobs import Job, JobKind
from axialcli.bench.settings import BenchSettings
from axialcli.bench.worker import Outcome, run_job
from axialcli.errors import AxialError, ImageError, LimitError, ModelError, OutputError, UsageError

RunJob = Callable[..., Outcome]
Say = Callable[[str, float], None]
"""Takes what is measured now, and the share of the time that is used up."""

LEAST_S = 0.5
"""With less time left nothing more is begun."""

CEILINGS_S, CODEC_S = 4.0, 2.0
"""For repeats of what is quick."""

END_TO_END_WEIGHT, NETWORK_WEIGHT, EXPORT_WEIGHT, COMPILE_WEIGHT = 1.5, 0.8, 0.8, 2.0
"""Of the time that is left, relative to one engine at the highest resolution."""

BY_COST = ("torch", "onnx", "compiled")
"""Backends in the order in which they are measured: what has to be made first, and may fail, comes last."""

EXPORT = "ONNX export"

MOST_RUNS = 5
"""From end to end; each is a process of its own."""

ATTENTION_SIDES = {"global": 512, "window": 512, "axial": 1024, "axial with span": 1024}
"""The largest grid of each kind; the smallest has FIRST_SIDE tokens, and each is twice the last."""

FIRST_SIDE = 32

_BY_EXIT_CODE: dict[int, type[AxialError]] = {
    error.exit_code: error for error in (UsageError, ImageError, ModelError, OutputError, LimitError)
}


@dataclass(frozen=True, kw_only=True)
class _Unit:
    """One measurement to come. weight: of the time. like: what it resembles, `size` telling by how much more
    work it is; size: of the work, in any unit. needs: a unit that has to have come to its end before."""

    name: str
    kind: JobKind
    weight: float
    given: dict[str, Any]
    like: str = ""
    size: float = 0.0
    needs: str = ""


class Bench:
    """Runs what the settings ask for. command: modules that the command line loads, for its start-up.

    say: told of every step. run: runs one job.
    """

    def __init__(
        self,
        settings: BenchSettings,
        *,
        command: Sequence[str] = (),
        say: Say = lambda text, share: None,
        budget: Budget | None = None,
        run: RunJob = run_job,
    ) -> None:
        self.settings, self._command, self._say, self._run = settings, list(command), say, run
        self.budget = budget or Budget(settings.seconds)
        self.measurements: list[Measurement] = []
        self.failures: list[dict[str, str]] = []
        self.facts: dict[str, Any] = {}
        self._known: dict[str, tuple[float, float]] = {}
        self._env: dict[str, str] = {}

    def report(self) -> dict[str, Any]:
        """Measures all, and returns the report in JSON's types.

        Raises the error of the model where it cannot be loaded; any other measurement that fails is an entry
        of `failures`. Raises LimitError where nothing at all was measured.
        """
        with tempfile.TemporaryDirectory(prefix="axial-bench-") as folder:
            # What torch.compile keeps stays for this bench alone: compiling is measured anew each time.
            self._env = {"TORCHINDUCTOR_CACHE_DIR": str(Path(folder) / "compiled")}
            if self.settings.attention:
                self._ceilings(["float32"])
                self._measure(_attention_units(self.settings))
            else:
                self._of_model(Path(folder))
        if not self.measurements:
            raise LimitError(self._nothing())
        return {
            "axial_bench": 1,
            "settings": asdict(self.settings),
            "machine": self.facts.get("machine"),
            "model": self.facts.get("model"),
            "flops_per_px": self.facts.get("flops_per_px"),
            "seconds": round(self.budget.used_s, 1),
            "measurements": [measured.to_json() for measured in self.measurements],
            "failures": self.failures,
        }

    def _of_model(self, folder: Path) -> None:
        settings, largest = self.settings, max(self.settings.resolutions)
        slide, mask = str(folder / f"{largest}.tif"), str(folder / "mask.tif")
        how = {"model": settings.model, "device": settings.device, "dtype": settings.dtype}
        prepared = self._job(
            "synthetic slides", "slides", how | {"folder": str(folder), "sides": settings.resolutions}
        )
        self.facts.update(prepared.facts)
        if prepared.failure is not None:
            known = _BY_EXIT_CODE.get(prepared.exit_code)
            raise known(prepared.failure) if known else LimitError(f"synthetic slides: {prepared.failure}")
        self._ceilings(list(dict.fromkeys(("float32", self.facts["model"]["dtype"]))))
        engine = settings.engines[0] if len(settings.engines) == 1 else "auto"
        given = how | {"slide": slide, "engine": engine, "out": mask, "command": self._command}
        units = [
            _Unit(name=f"network alone {largest}", kind="network", weight=NETWORK_WEIGHT, given=given),
            *self._engine_units(folder, how),
        ]
        share_s = self.budget.share_s(END_TO_END_WEIGHT, END_TO_END_WEIGHT + sum(u.weight for u in units))
        self._end_to_end(f"end to end {largest}", given, share_s)
        quick = [_Unit(name=f"decode alone {largest}", kind="decode", weight=0, given={"slide": slide})]
        if Path(mask).exists():
            given_mask = {"mask": mask, "folder": str(folder / "encode")}
            quick.append(_Unit(name=f"encode alone {largest}", kind="encode", weight=0, given=given_mask))
        self._measure([*quick, *units])

    def _end_to_end(self, name: str, given: dict[str, Any], share_s: float) -> None:
        """Several runs, a process each."""
        seconds: list[float] = []
        runs: list[dict[str, Any]] = []
        until_s = self.budget.used_s + share_s
        for _ in range(MOST_RUNS):
            began_s = self.budget.used_s
            outcome = self._job(name, "end_to_end", given)
            if outcome.failure is not None:
                self._fail(name, outcome.failure)
                break
            seconds += outcome.seconds
            # Libraries take their time to let go of threads and memory, and the user waits for it.
            end_s = outcome.process_s - sum(outcome.seconds) - sum(outcome.facts["start_up"].values())
            runs.append({**outcome.facts, "end": end_s})
            if self.budget.used_s + (self.budget.used_s - began_s) > until_s:
                break
        if seconds:
            side = max(self.settings.resolutions)
            facts = {"px": side**2, "runs": runs}
            engines = "+".join(dict.fromkeys(run["engine"] for run in runs))
            measured = Measurement(
                name=_by_engine(name, engines), kind="end_to_end", seconds=tuple(seconds), facts=facts
            )
            self.measurements.append(measured)

    def _engine_units(self, folder: Path, how: dict[str, Any]) -> list[_Unit]:
        """Engines and backends at each resolution, what is quick to begin first."""
        sides, exports = sorted(self.settings.resolutions), Path(self.settings.model).suffix != ".onnx"
        pairs = [pair for pair in self.settings.pairs if exports or pair[1] == "onnx"]
        onnx = str(folder / "model.onnx") if exports else self.settings.model
        units = [
            _Unit(
                name=f"{engine} {backend} {side}",
                kind="engine",
                weight=(side / max(sides)) ** 2 * (COMPILE_WEIGHT if backend == "compiled" else 1),
                given=how
                | {"slide": str(folder / f"{side}.tif"), "engine": engine, "backend": backend}
                | ({"model": onnx} if backend == "onnx" else {}),
                like=f"{engine} {backend}",
                size=side**2,
                needs=EXPORT if backend == "onnx" and exports else "",
            )
            for engine, backend in sorted(pairs, key=lambda pair: BY_COST.index(pair[1]))
            for side in sides
        ]
        first = next((at for at, unit in enumerate(units) if unit.needs == EXPORT), None)
        if first is not None:
            export = _Unit(name=EXPORT, kind="export", weight=EXPORT_WEIGHT, given=how | {"path": onnx})
            units.insert(first, export)
        return units

    def _ceilings(self, dtypes: list[str]) -> None:
        given = {"device": self.settings.device, "dtypes": dtypes}
        outcome = self._job("ceilings", "ceilings", given, CEILINGS_S)
        self.facts["machine"] = outcome.facts.pop("machine", None)
        for name, found in outcome.facts.items():
            facts = {key: found[key] for key in ("amount", "unit")}
            measured = Measurement(name=name, kind="ceiling", seconds=tuple(found["seconds"]), facts=facts)
            self.measurements.append(measured)
        if outcome.failure is not None:
            self._fail("ceilings", outcome.failure)

    def _measure(self, units: list[_Unit]) -> None:
        """Each in turn. What is not measured is said, with the reason."""
        weights = [unit.weight for unit in units]
        for at, unit in enumerate(units):
            if reason := self._obstacle(unit):
                self._fail(unit.name, reason)
                continue
            seconds = self.budget.share_s(unit.weight, sum(weights[at:])) if unit.weight else CODEC_S
            outcome = self._job(unit.name, unit.kind, unit.given, seconds)
            if outcome.failure is not None:
                self._fail(unit.name, outcome.failure)
            if outcome.seconds:
                # Which engine `auto` took is known only now.
                name = _by_engine(unit.name, outcome.facts["engine"]) if unit.kind == "network" else unit.name
                measured = Measurement(
                    name=name, kind=unit.kind, seconds=tuple(outcome.seconds), facts=outcome.facts
                )
                self.measurements.append(measured)
                if unit.like:
                    self._known[unit.like] = (unit.size, measured.median_s)

    def _obstacle(self, unit: _Unit) -> str | None:
        """Why a unit is not begun; None where nothing stands against it."""
        if unit.needs in {failure["name"] for failure in self.failures}:
            return f"not begun: it needs the {unit.needs}"
        expected_s = self._expected_s(unit)
        if self.budget.left_s >= max(LEAST_S, expected_s):
            return None
        needs = f", it would take some {expected_s:.0f} s" if expected_s else ""
        return f"not begun{needs}: give more --seconds"

    def _expected_s(self, unit: _Unit) -> float:
        """Seconds for one repeat, from what it resembles: global attention grows with the square of the
        size, all else at least in proportion. 0 where nothing is known."""
        if unit.like not in self._known:
            return 0.0
        size, seconds = self._known[unit.like]
        power = 2 if unit.like == "global" else 1
        return seconds * math.pow(unit.size / size, power)

    def _job(self, name: str, kind: JobKind, given: dict[str, Any], seconds: float = 0.0) -> Outcome:
        self._say(name, min(self.budget.used_s / self.budget.seconds, 1.0))
        job = Job(kind=kind, seconds=seconds, given=given)
        # A process that cannot even start within it would tell nothing.
        return self._run(job, limit_s=max(self.budget.left_s, LEAST_S), env=self._env)

    def _fail(self, name: str, reason: str) -> None:
        self.failures.append({"name": name, "reason": reason})

    def _nothing(self) -> str:
        """Why there is no measurement: the first reason that more time would not mend, or else the time."""
        for failure in self.failures:
            if "--seconds" not in failure["reason"]:
                return f"nothing was measured: {failure['name']}: {failure['reason']}"
        return f"nothing was measured in {self.settings.seconds:g} s: give more --seconds"


def _by_engine(name: str, engine: str) -> str:
    """The name with the engine before the side: what different engines did is not the same work."""
    what, _, side = name.rpartition(" ")
    return f"{what} {engine} {side}"


def _attention_units(settings: BenchSettings) -> list[_Unit]:
    """Grids from small to large, all kinds at each: what a short time leaves out is what takes long."""
    sides = [FIRST_SIDE << step for step in range(max(ATTENTION_SIDES.values()).bit_length() - 5)]
    return [
        _Unit(
            name=f"{kind} attention {side}",
            kind="attention",
            weight=side / FIRST_SIDE,
            given={"kind": kind, "side": side, "device": settings.device},
            like=kind,
            size=side**2,
        )
        for side in sides
        for kind, largest in ATTENTION_SIDES.items()
        if side <= largest
    ]
