"""From slide to mask: the one place where slide, model, engine and sinks meet."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialcli import __version__
from axialcli.backends import DEFAULT_MODEL, Model, load_model
from axialcli.backends.augmented_model import augmented
from axialcli.backends.memory import give_back_memory, memory_is_a_limit
from axialcli.backends.zoo import model_files
from axialcli.config import FEW_CLASSES, Backend, Device, Dtype, PredictSettings, distinct_names
from axialcli.engine import (
    Certifier,
    Stopwatch,
    ahead,
    apart,
    choose_engine,
    choose_view,
    find_background,
    fingerprint,
    make_engine,
    mask_grid,
    peak_resident_bytes,
    planned_bytes,
)
from axialcli.errors import AllocationError, UsageError
from axialcli.geometry import whole
from axialcli.hints import ModelHints
from axialcli.image import Slide, describe_counts, describe_input, describe_view, open_slide
from axialcli.output import (
    OVERLAY_MAX_PX,
    MaskInfo,
    Outputs,
    RunFiles,
    check_outputs,
    check_scratch,
    class_areas,
    earlier_plan,
    partial_folder,
)
from axialcli.volume import predict_volume

UUID_KEYS = ("input", "slide", "view", "model", "description", "settings")
"""What the mask's UUID is made of."""

logger = logging.getLogger("axial")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is: finished and all pixels of the mask, of a stack in all planes."""

    done_px: int
    total_px: int


def predict(
    slide: str | Path | Slide,
    out: str | Path,
    *,
    model: str | Path | Model = DEFAULT_MODEL,
    device: Device = "auto",
    dtype: Dtype = "auto",
    backend: Backend = "auto",
    hints: ModelHints | None = None,
    trust_model: bool = False,
    probs: str | Path | None = None,
    overlay: str | Path | None = None,
    csv: str | Path | None = None,
    heatmaps: Sequence[tuple[str, str | Path]] = (),
    force: bool = False,
    progress: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Predicts a slide and writes its mask; the same call after a kill continues where it was.

    slide: a path, or an open Slide, which then has its channels, plane and resolution already. out:
    the mask, a TIFF; of a model that takes volumes a stack, see `predict_volume`. model: a name, a model
    file, or a loaded Model; device, dtype, backend, hints and trust_model say how a file is loaded, see
    `load_model`. probs, overlay: more files to write. csv: the table of a classifier's tiles. heatmaps:
    classes, by name or number, and a .tif or .png for each. force: overwrite. settings: the fields of
    PredictSettings. Returns the run report, which also lies beside the mask as OUT.json. Raises an
    AxialError; OUT is then absent or as it was.
    """
    chosen, stopwatch = PredictSettings(**settings), Stopwatch()
    check_scratch(chosen.scratch)
    with ExitStack() as stack:
        if not isinstance(slide, Slide):
            slide = stack.enter_context(
                open_slide(slide, channels=chosen.channels, z=chosen.z, mpp_override=chosen.mpp_override)
            )
        elif (chosen.channels, chosen.z, chosen.mpp_override) != (None, None, None):
            raise UsageError("channels, z and mpp_override belong to open_slide; this slide is open already")
        loading = (device, dtype, backend, hints, trust_model)
        if isinstance(model, Model) and loading != ("auto", "auto", "auto", None, False):
            raise UsageError(
                "device, dtype, backend, hints and trust_model belong to load_model, done already"
            )
        inputs = [*slide.files, *([] if isinstance(model, Model) else model_files(model))]
        outputs = check_outputs(
            out, inputs=inputs, probs=probs, overlay=overlay, table=csv, heatmaps=heatmaps, force=force
        )
        if not isinstance(model, Model):
            how: dict[str, Any] = {
                "backend": backend,
                "device": device,
                "dtype": dtype,
                "hints": hints,
                "trust": trust_model,
            }
            with stopwatch.stage("load"):
                model = apart(partial(load_model, model, **how))
        if model.spec.input.takes_volumes:
            return predict_volume(slide, model, outputs, chosen, _counting(progress), stopwatch)
        _one_plane(slide, model, chosen)
        with stopwatch.stage("plan"):
            run = apart(
                partial(_Run, slide, model, outputs, chosen, progress or (lambda state: None), stopwatch)
            )
        return run.report()


def _counting(progress: Callable[[Progress], None] | None) -> Callable[[int, int], None]:
    """The same, for who counts in plain numbers."""
    if progress is None:
        return lambda done, total: None
    return lambda done, total: progress(Progress(done_px=done, total_px=total))


def _one_plane(slide: Slide, model: Model, settings: PredictSettings) -> None:
    """Warns where a model of pictures sees one of many planes. Raises UsageError for a block."""
    if settings.block is not None:
        raise UsageError(f"--block is for models of volumes, '{model.spec.name}' takes pictures: use --tile")
    if slide.chose_plane is not None:
        logger.warning("%s: %s", slide.path, slide.chose_plane)


class _Run:
    """One slide on its way to its mask."""

    def __init__(
        self,
        slide: Slide,
        model: Model,
        outputs: Outputs,
        settings: PredictSettings,
        progress: Callable[[Progress], None],
        stopwatch: Stopwatch,
    ) -> None:
        self.slide, self.outputs, self.settings = slide, outputs, settings
        self.progress, self.stopwatch = progress, stopwatch
        classifies = model.spec.task == "classification"
        outputs.check_classes(model.spec.classes, classifies=classifies)
        self.view = choose_view(slide, model, settings)
        model = augmented(model, settings.tta, self.view.mpp and max(self.view.mpp))
        self.model = model
        self.found = find_background(settings.background, slide, self.view)
        self.chosen = choose_engine(settings, model, self.view.size)
        self.grid = mask_grid(self.view, self.chosen.stride)
        # The whole picture is one tile: its answer is the result, and stands in the report.
        self.answers_once = classifies and self.grid.size == (1, 1)
        self.answer_K: list[float] = []
        if not outputs.of_probs and settings.probs_dtype != PredictSettings.probs_dtype:
            logger.warning("--probs-dtype: no effect without --probs or --heatmap")
        if settings.palette and len(model.spec.classes) > FEW_CLASSES:
            logger.warning(
                "--palette: no effect, a mask of more than %d classes has 16 bits and no colour table",
                FEW_CLASSES,
            )
        self.fingerprint = fingerprint(slide, self.view, model, settings, self.chosen, self.found)
        self.certifier = self._certifier() if settings.certify else None
        level = slide.levels[self.view.level]
        earlier = earlier_plan(outputs.mask, self.fingerprint)
        self.engine = make_engine(
            self.chosen.name,
            self.view,
            model,
            settings,
            tiling=self.chosen.tiling,
            cached_rows=0 if level.compression == "none" else level.segment.height,
            background=self.found.background,
            windows=self.certifier.windows if self.certifier else (),
            reserved_bytes=self.certifier.reserved_bytes if self.certifier else 0,
            probs=bool(outputs.of_probs) or self.answers_once,
            overlay=outputs.drawn,
            repeat=earlier,
            run_name=str(outputs.mask.resolve()),
            fingerprint=self.fingerprint.copy(),
            stopwatch=self.stopwatch,
        )
        self.planned_bytes = planned_bytes(settings, earlier, partial_folder(outputs.mask))
        self.fingerprint["plan"] = self._plan()

    def _plan(self) -> dict[str, Any]:
        return {**self.engine.plan_notes(), "max_ram_bytes": self.planned_bytes}

    def report(self) -> dict[str, Any]:
        """Runs to the end, publishes the files and returns the report."""
        windows = self.certifier.windows if self.certifier else ()
        files = RunFiles(
            self.outputs,
            self.fingerprint,
            self._mask_info(),
            probs_dtype=self.settings.probs_dtype,
            windows=windows,
        )
        with closing(self.engine), files:
            resumed = len(files.done(self.engine.boxes()))
            while not self._stream(files):
                give_back_memory(self.model.device)
            with self.stopwatch.stage("finish"):
                files.finish()
            if self.outputs.drawn:
                with self.stopwatch.stage("overlay"):
                    files.draw(self.slide.thumbnail(OVERLAY_MAX_PX))
            report = self._report(files, resumed)
            files.publish(report)
            self.engine.finish()
        return report

    def _stream(self, files: RunFiles) -> bool:
        """Makes the blocks that are missing; False where memory ran out and the rest is planned for less.

        The error holds on to what was being computed, until this returns.
        """
        try:
            with memory_is_a_limit():
                self._make_blocks(files)
        except AllocationError:
            less = self.engine.halve(files.done(self.engine.boxes()))
            if less is None:
                raise
            logger.warning("memory ran out; going on with %s", less)
            files.replan(self._plan())
            return False
        return True

    def _make_blocks(self, files: RunFiles) -> None:
        """Computes ahead in a thread while this one writes."""
        # The journal does not keep the one answer; computing it again costs one tile.
        done = set() if self.answers_once else files.done(self.engine.boxes())
        total_px = whole(self.grid.size).area_px
        done_px = sum(box.area_px for box in done)
        self.progress(Progress(done_px=done_px, total_px=total_px))
        with ahead(self.engine.blocks(done), 1, cancel=self.engine.cancel) as blocks:
            for block in blocks:
                figures = []
                if self.certifier and block.windows:
                    with self.stopwatch.stage("certify"):
                        figures = self.certifier.compare(block)
                with self.stopwatch.stage("write"):
                    files.write(block, figures)
                if self.answers_once and block.probs_KHW is not None:
                    self.answer_K = block.probs_KHW[:, 0, 0].tolist()
                done_px += block.box.area_px
                self.progress(Progress(done_px=done_px, total_px=total_px))

    def _certifier(self) -> Certifier:
        return Certifier(
            self.view,
            self.model,
            count=self.settings.certify,
            seed=json.dumps(self.fingerprint, sort_keys=True),
            background=self.found.background,
            blended=self.chosen.name == "tiles",
        )

    def _mask_info(self) -> MaskInfo:
        return MaskInfo(
            size=self.grid.size,
            classes=self.model.spec.classes,
            mpp=self.grid.mpp,
            georeference=self.grid.georeference,
            covered=self.grid.covered,
            cell_px=(
                self.view.downsample[0] * self.grid.stride.height,
                self.view.downsample[1] * self.grid.stride.width,
            ),
            slide_size=self.slide.size,
            orientation=self.slide.orientation,
            layout=self.settings.layout,
            palette=self.settings.palette,
            software=f"axial {__version__}",
            uuid_seed=repr([self.fingerprint[key] for key in UUID_KEYS]),
        )

    def _report(self, files: RunFiles, resumed: int) -> dict[str, Any]:
        scratch = None if self.settings.scratch is None else str(self.settings.scratch)
        pixels_K = files.counts(self.engine.boxes())
        did = self.engine.describe()
        halved = did.pop("halved")
        shares = {name: did.pop(name) for name in ("blank_share", "skipped_share")}
        tiles = {} if self.chosen.tiling is None else self.chosen.tiling.describe()
        return {
            "axial": __version__,
            "input": {**describe_input(self.slide), "fingerprint": self.fingerprint["input"]},
            "model": self.model.describe(),
            "output": {"path": str(self.outputs.mask), **describe_view(self.view), **self.grid.describe()},
            "engine": self.chosen.name,
            "engine_reason": self.chosen.reason,
            "settings": {**asdict(self.settings), "scratch": scratch, **tiles, **did},
            "background": {**self.found.describe(), **shares},
            "certificate": self._certificate(files),
            "runtime": self.model.runtime(),
            "versions": {name: version(name) for name in ("numpy", "tifffile", "imagecodecs")},
            "resumed_blocks": resumed,
            "halved": halved,
            "seconds": self.stopwatch.seconds(),
            "thread_seconds": {
                "file": round(self.slide.counts.file_s, 3),
                "decode": round(self.slide.counts.decode_s, 3),
                "encode": round(files.encode_s, 3),
            },
            "peak_resident_bytes": peak_resident_bytes(),
            "segments": describe_counts(self.slide),
            "class_count": len(self.model.spec.classes),
            "classes": class_areas(pixels_K, self.model.spec.classes, self.grid.mpp, files.counts_beyond()),
            "answer": self._answer(pixels_K) if self.answers_once else None,
        }

    def _answer(self, pixels_K: NDArray[np.int64]) -> dict[str, Any]:
        """Of a picture that is one tile: its class, and the probability of each."""
        names = distinct_names([entry.name for entry in self.model.spec.classes])
        return {
            "class": names[int(pixels_K.argmax())],
            "probabilities": dict(zip(names, self.answer_K, strict=True)),
        }

    def _certificate(self, files: RunFiles) -> dict[str, Any] | None:
        if self.certifier is None or files.certificate is None:
            return None
        return files.certificate.describe(self.certifier.windows, self.certifier.receptive_field_px)
