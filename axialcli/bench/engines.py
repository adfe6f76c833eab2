"""In a child: a model run by an engine over a slide, with nobody taking the blocks.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from axialcli.backends import Model, load_model
from axialcli.bench.budget import repeat_for
from axialcli.bench.jobs import Send
from axialcli.config import PredictSettings
from axialcli.engine import (
    Engine,
    Stopwatch,
    TileEngine,
    Tiling,
    ahead,
    apart,
    choose_engine,
    choose_view,
    make_engine,
    peak_resident_bytes,
)
from axialcli.engine.tiles import DEFAULT_BATCH
from axialcli.geometry import Box, Size, whole
from axialcli.image import Slide, SlideView, open_slide

TILE_REPEATS, TILE_SECONDS = 5, 2.0


def measure_engine(given: dict[str, Any], seconds: float, send: Send) -> None:
    """Seconds of whole pictures, from the slide's file to finished blocks, and peak memory.

    given: slide, model, device, dtype; engine; backend, where "compiled" is torch.compile. The engine is
    planned before and warmed up on the whole picture, which also compiles what is to be compiled; the peak
    memory is that of this first run, as in a process of a user. Each repeat opens the slide anew.
    """
    runs = _Runs(given)
    spent_s = time.perf_counter()
    with runs.open() as slide:
        engine = runs.engine(slide, runs.view(slide))
        send({"facts": runs.facts(engine)})
        runs.run(engine)
    # Later runs find memory that the threads of earlier ones have left behind, and do not use it.
    send({"facts": {"peak_resident_bytes": peak_resident_bytes(), "gpu_bytes": runs.gpu_bytes()}})
    warm_up_s = time.perf_counter() - spent_s
    taken: list[float] = []

    def once() -> float:
        began = time.perf_counter()
        with runs.open() as slide:
            taken.append(runs.run(runs.engine(slide, runs.view(slide))))
        send({"seconds": taken[-1]})
        return time.perf_counter() - began

    repeat_for(_left_s(given, seconds), once)
    if runs.compiled:
        send({"facts": {"compile_s": warm_up_s - min(taken)}})
    elif isinstance(engine, TileEngine):
        send({"facts": {"tile_s": _tile_seconds(runs.model, engine.tiling.tile, runs.network_device)}})


def measure_network(given: dict[str, Any], seconds: float, send: Send) -> None:
    """Seconds of the network alone on the work of a whole picture: the same engine, over pixels that lie in
    memory, and of its time only the network's stage."""
    runs = _Runs(given)
    with runs.open() as slide:
        view = runs.view(slide)
        view = replace(view, pixels=InMemory(view.read(whole(view.size))))
        runs.run(runs.engine(slide, view), first_block=True)

        def once() -> float:
            stopwatch, began = Stopwatch(), time.perf_counter()
            runs.run(runs.engine(slide, view, stopwatch))
            send({"seconds": stopwatch.seconds()["network"], "facts": {"engine": runs.chosen.name}})
            return time.perf_counter() - began

        repeat_for(_left_s(given, seconds), once)


class InMemory:
    """Pixels [H, W, C] that are decoded already, as a view's source."""

    def __init__(self, image_HWC: NDArray[Any]) -> None:
        self._image_HWC = image_HWC
        self.size = Size(*image_HWC.shape[:2])

    def read(self, box: Box) -> NDArray[Any]:
        # A copy, for an engine may write into what it has read.
        return np.array(self._image_HWC[box.within(whole(self.size))])


class _Runs:
    """One model, and engines that run it over one slide, all alike."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._path, self._settings = given["slide"], PredictSettings(engine=given["engine"])
        self.compiled = given.get("backend") == "compiled"
        how = {name: given[name] for name in ("device", "dtype")}
        self.model: Model = apart(partial(load_model, given["model"], **how))
        self.network_device = self.model.device
        self._free_bytes = self._device_free_bytes()
        self._notes: dict[str, Any] | None = None
        with self.open() as slide:
            size = self.view(slide).size
            self.chosen = apart(partial(choose_engine, self._settings, self.model, size))
        self._tiling = self.chosen.tiling
        if self.compiled and self._tiling is not None:
            assert self.model.network is not None
            # One shape alone is compiled, which takes half a minute: whole tiles, and batches that fill rows.
            self._tiling = replace(self._tiling, fixed=True)
            self._settings = replace(self._settings, batch=_even_batch(self.model, self._tiling, size.width))
            compiled: Any = torch.compile(self.model.network, dynamic=False)
            self.model.network = compiled

    def open(self) -> Slide:
        return open_slide(self._path)

    def view(self, slide: Slide) -> SlideView:
        return choose_view(slide, self.model, self._settings)

    def engine(self, slide: Slide, view: SlideView, stopwatch: Stopwatch | None = None) -> Engine:
        """An engine, planned as for `axial predict`; the first plan is repeated by all later ones."""
        level = slide.levels[view.level]
        engine = apart(
            partial(
                make_engine,
                self.chosen.name,
                view,
                self.model,
                self._settings,
                tiling=self._tiling,
                cached_rows=0 if level.compression == "none" else level.segment.height,
                background=None,
                windows=(),
                reserved_bytes=0,
                probs=False,
                overlay=False,
                repeat=self._notes,
                run_name=str(Path(self._path).resolve()),
                fingerprint={},
                stopwatch=stopwatch or Stopwatch(),
            )
        )
        self._notes = engine.plan_notes()
        return engine

    def run(self, engine: Engine, *, first_block: bool = False) -> float:
        """Seconds until the last block is there, or the first; the blocks go nowhere."""
        began = time.perf_counter()
        with closing(engine), ahead(engine.blocks(), 1, cancel=engine.cancel) as blocks:
            for _ in blocks:
                if first_block:
                    engine.cancel()
                    break
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter() - began

    def facts(self, engine: Engine) -> dict[str, Any]:
        size = engine.view.size  # type: ignore[attr-defined] # both engines have one
        facts = {"px": size.height * size.width, "computed_px": size.height * size.width}
        if isinstance(engine, TileEngine):
            rows = sum(row.length for row in engine.plan.rows)
            columns = sum(span.length for _, _, spans in engine.plan.strips for span in spans)
            facts |= {"computed_px": rows * columns, "tile": engine.tiling.tile.height, "batch": engine.batch}
        return {**facts, "dtype": str(self.model.dtype).removeprefix("torch.")}

    def gpu_bytes(self) -> int | None:
        """What this process has taken of the GPU's memory at most: torch's own, or what is missing now."""
        if self._free_bytes is None:
            return None
        missing = self._free_bytes - (self._device_free_bytes() or 0)
        return max(int(torch.cuda.max_memory_reserved(self.model.device)), missing)

    def _device_free_bytes(self) -> int | None:
        if self.model.device.type != "cuda":
            return None
        return int(torch.cuda.mem_get_info(self.model.device)[0])


def _left_s(given: dict[str, Any], seconds: float) -> float:
    """Of the job's seconds what is left after the start of its process."""
    return float(given["spawned_s"]) + seconds - time.time()


def _even_batch(model: Model, tiling: Tiling, width: int) -> int:
    """The largest batch, up to the usual one, that divides a row of tiles."""
    tiles = len(tiling.columns(width))
    most = DEFAULT_BATCH[model.device.type]
    return max(batch for batch in range(1, most + 1) if tiles % batch == 0)


def _tile_seconds(model: Model, tile: Size, device: torch.device) -> list[float]:
    """Seconds from the pixels of one tile to its probabilities."""
    images_BCHW = torch.zeros((1, *tile, len(model.spec.input.channels)), dtype=torch.uint8)
    images_BCHW = images_BCHW.permute(0, 3, 1, 2)
    taken: list[float] = []

    def once() -> float:
        began = time.perf_counter()
        model.predict(images_BCHW)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
        return taken[-1]

    once()
    taken.clear()
    repeat_for(TILE_SECONDS, once, most=TILE_REPEATS)
    return taken
