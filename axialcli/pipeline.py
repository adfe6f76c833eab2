"""From slide to mask: the one place where slide, model, engine and sinks meet."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from axialcli import __version__
from axialcli.backends import DEFAULT_MODEL, Model, load_model
from axialcli.backends.zoo import model_files
from axialcli.config import Device, Dtype, PredictSettings
from axialcli.engine import Stopwatch, TileEngine, ahead, machine_bytes, peak_resident_bytes
from axialcli.errors import UsageError
from axialcli.geometry import Block, whole
from axialcli.image import Slide, SlideView, open_slide
from axialcli.output import (
    OVERLAY_FILE,
    OVERLAY_MAX_PX,
    REPORT_FILE,
    Journal,
    MaskInfo,
    MaskSink,
    Outputs,
    ProbsSink,
    Sink,
    check_outputs,
    class_areas,
    note_publishing,
    partial_folder,
    publish_all,
    write_overlay,
    write_report,
)
from axialcli.output import overlay as overlay_picture

SAME_MPP = 0.02
"""Resolutions that differ by less than this share need no resampling."""

logger = logging.getLogger("axial")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is: finished and all pixels of the mask."""

    done_px: int
    total_px: int


def predict(
    slide: str | Path | Slide,
    out: str | Path,
    *,
    model: str | Path | Model = DEFAULT_MODEL,
    device: Device = "auto",
    dtype: Dtype = "auto",
    probs: str | Path | None = None,
    overlay: str | Path | None = None,
    force: bool = False,
    progress: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Predicts a slide and writes its mask; the same call after a kill continues where it was.

    slide: a path, or an open Slide, which then has its channels, plane and resolution already. out:
    the mask, a TIFF. model: a name, a model file, or a loaded Model. probs, overlay: more files to
    write. force: overwrite. settings: the fields of PredictSettings. Returns the run report, which
    also lies beside the mask as OUT.json. Raises an AxialError; OUT is then absent or as it was.
    """
    chosen = PredictSettings(**settings)
    with ExitStack() as stack:
        if not isinstance(slide, Slide):
            slide = stack.enter_context(
                open_slide(slide, channels=chosen.channels, z=chosen.z, mpp_override=chosen.mpp_override)
            )
        elif (chosen.channels, chosen.z, chosen.mpp_override) != (None, None, None):
            raise UsageError("channels, z and mpp_override belong to open_slide; this slide is open already")
        inputs = [*slide.files, *([] if isinstance(model, Model) else model_files(model))]
        outputs = check_outputs(out, inputs=inputs, probs=probs, overlay=overlay, force=force)
        if not isinstance(model, Model):
            model = load_model(model, device=device, dtype=dtype)
        return _Run(slide, model, outputs, chosen, progress or (lambda state: None)).report()


def choose_view(slide: Slide, model: Model, settings: PredictSettings) -> SlideView:
    """The grid of the mask: what the settings say, otherwise the model's own resolution.

    A level within the model's range of resolutions is taken as it is; otherwise the slide is
    resampled to the model's microns per pixel.
    """
    wanted = model.spec.input
    if settings.level is not None:
        return slide.view(level=settings.level)
    if settings.mpp is not None:
        return slide.view(mpp=settings.mpp)
    if wanted.mpp is None:
        return slide.view(level=0)
    if slide.mpp is None:
        logger.warning(
            "%s does not say its resolution: level 0 is taken as it is, %s is made for %g microns per "
            "pixel; give --mpp-override",
            slide.path,
            model.spec.name,
            wanted.mpp,
        )
        return slide.view(level=0)
    finest, coarsest = wanted.mpp_range or (wanted.mpp, wanted.mpp)
    fitting = [
        (abs(math.log(mpp / wanted.mpp)), number)
        for number, level in enumerate(slide.levels)
        for mpp in [max(slide.mpp[0] * level.downsample[0], slide.mpp[1] * level.downsample[1])]
        if finest * (1 - SAME_MPP) <= mpp <= coarsest * (1 + SAME_MPP)
    ]
    return slide.view(level=min(fitting)[1]) if fitting else slide.view(mpp=wanted.mpp)


class _Run:
    """One slide on its way to its mask."""

    def __init__(
        self,
        slide: Slide,
        model: Model,
        outputs: Outputs,
        settings: PredictSettings,
        progress: Callable[[Progress], None],
    ) -> None:
        self.slide, self.model, self.outputs, self.settings = slide, model, outputs, settings
        self.progress = progress
        self.stopwatch = Stopwatch()
        self.view = choose_view(slide, model, settings)
        level = slide.levels[self.view.level]
        self.fingerprint = self._fingerprint()
        self.engine = TileEngine(
            self.view,
            model,
            tile=settings.tile,
            overlap=settings.overlap,
            blend=settings.blend,
            batch=settings.batch,
            max_ram_bytes=(
                machine_bytes() // 2 if settings.max_ram_bytes is None else settings.max_ram_bytes
            ),
            cached_rows=0 if level.compression == "none" else level.segment.height,
            probs=outputs.probs is not None,
            overlay=outputs.overlay is not None,
            strips=self._earlier_strips(),
            stopwatch=self.stopwatch,
        )
        self.fingerprint |= {
            "batch": self.engine.batch,
            "strips": [x0 for x0, _, _ in self.engine.plan.strips],
        }

    def report(self) -> dict[str, Any]:
        """Runs to the end, publishes the files and returns the report."""
        with ExitStack() as stack:
            journal = self._open_journal(stack, self.outputs.mask, self.fingerprint)
            mask = stack.enter_context(MaskSink(journal.folder, self._mask_info()))
            sinks: list[Sink] = [mask]
            journals = [journal]
            if self.outputs.probs:
                fingerprint = {**self.fingerprint, "probs": self.settings.probs_dtype}
                journals.append(self._open_journal(stack, self.outputs.probs, fingerprint, journal))
                probs = ProbsSink(journals[1].folder, self._mask_info(), dtype=self.settings.probs_dtype)
                sinks.append(stack.enter_context(probs))
            resumed = self._stream(journal, sinks)
            return self._publish(journal, mask, sinks, journals, resumed)

    def _open_journal(
        self, stack: ExitStack, out: Path, fingerprint: dict[str, Any], main: Journal | None = None
    ) -> Journal:
        """A journal that ends with the stack; without a trace where the run failed before its first block.

        main: the journal that records the blocks, where it is another one.
        """
        journal = stack.enter_context(Journal.open(partial_folder(out), fingerprint))

        def forget(kind: type[BaseException] | None, *_: object) -> None:
            if kind is not None and not (main or journal).done:
                journal.remove()

        stack.push(forget)
        if journal.restarted:
            logger.warning("%s: starting over, %s", partial_folder(out), journal.restarted)
        return journal

    def _stream(self, journal: Journal, sinks: list[Sink]) -> int:
        """Computes ahead in a thread while this one writes. Returns how many blocks were there already."""
        boxes = self.engine.plan.boxes(self.view.size)
        done = {box for box in journal.done.intersection(boxes) if all(sink.has(box) for sink in sinks)}
        resumed = len(done)
        total_px = whole(self.view.size).area_px
        done_px = sum(box.area_px for box in done)
        self.progress(Progress(done_px=done_px, total_px=total_px))
        with ahead(self.engine.blocks(done), 1, cancel=self.engine.cancel) as blocks:
            for block in blocks:
                with self.stopwatch.stage("write"):
                    self._spool(block, sinks)
                    journal.record(block.box, _count(block, len(self.model.spec.classes)))
                done_px += block.box.area_px
                self.progress(Progress(done_px=done_px, total_px=total_px))
        return resumed

    def _spool(self, block: Block, sinks: list[Sink]) -> None:
        for sink in sinks:
            sink.write(block)
        for sink in sinks:
            sink.sync()

    def _publish(
        self, journal: Journal, mask: MaskSink, sinks: list[Sink], journals: list[Journal], resumed: int
    ) -> dict[str, Any]:
        """Builds all files in the work folders, then moves them to their names, the mask last."""
        targets = [self.outputs.mask, self.outputs.probs]
        with self.stopwatch.stage("finish"):
            built = [(sink.finish(), target) for sink, target in zip(sinks, targets, strict=False) if target]
        if self.outputs.overlay:
            with self.stopwatch.stage("overlay"):
                picture_HWC = overlay_picture(
                    self.slide.thumbnail(OVERLAY_MAX_PX),
                    mask.labels_at_most(OVERLAY_MAX_PX),
                    self.model.spec.classes,
                )
                built.append(
                    (write_overlay(journal.folder.file(OVERLAY_FILE), picture_HWC), self.outputs.overlay)
                )
        report = self._report(journal, resumed)
        write_report(journal.folder.file(REPORT_FILE), report)
        built.append((journal.folder.file(REPORT_FILE), self.outputs.report))
        note_publishing(journal, self.outputs)
        publish_all([*built[1:], built[0]])
        for sink in sinks:
            sink.close()
        for finished in journals:
            finished.remove()
        return report

    def _mask_info(self) -> MaskInfo:
        return MaskInfo(
            size=self.view.size,
            classes=self.model.spec.classes,
            mpp=self.view.mpp,
            georeference=self.view.georeference,
            orientation=self.slide.orientation,
            layout=self.settings.layout,
            palette=self.settings.palette,
            software=f"axial {__version__}",
            uuid_seed=repr(
                [self.fingerprint[key] for key in ("input", "slide", "view", "model", "settings")]
            ),
        )

    def _fingerprint(self) -> dict[str, Any]:
        """All that decides the mask's bytes, but for what the engine plans."""
        settings = asdict(self.settings)
        # Probabilities have a journal of their own; the slide says what it was opened with.
        for elsewhere in ("probs_dtype", "channels", "z", "mpp_override"):
            del settings[elsewhere]
        return {
            "axial": __version__,
            "input": self.slide.fingerprint(),
            "slide": self.slide.selection,
            "view": [*self.view.size, self.view.level, *self.view.downsample],
            "model": self.model.sha256,
            "backend": self.model.backend,
            "device": self.model.device.type,
            "dtype": str(self.model.dtype),
            "runtime": self.model.runtime(),
            "settings": settings,
        }

    def _earlier_strips(self) -> list[int] | None:
        """The strips of the run that is to be continued: measured memory could plan others today."""
        earlier = Journal.earlier(partial_folder(self.outputs.mask))
        # As a journal gives it back: JSON knows no tuples.
        wanted = json.loads(json.dumps(self.fingerprint))
        if earlier is None or any(earlier.get(key) != said for key, said in wanted.items()):
            return None
        strips: list[int] = earlier["strips"]
        return strips

    def _report(self, journal: Journal, resumed: int) -> dict[str, Any]:
        pixels_K = journal.counts(self.engine.plan.boxes(self.view.size))
        return {
            "axial": __version__,
            "input": {
                "path": str(self.slide.path),
                "fingerprint": self.fingerprint["input"],
                "format": self.slide.format,
                "size": list(self.slide.size),
                "mpp": list(self.slide.mpp) if self.slide.mpp else None,
                "mpp_source": self.slide.mpp_source,
                "chosen": self.slide.chosen,
                "warnings": list(self.slide.warnings),
                **self.slide.selection,
            },
            "model": {
                "name": self.model.spec.name,
                "sha256": self.model.sha256,
                "backend": self.model.backend,
                "device": str(self.model.device),
                "dtype": str(self.model.dtype).removeprefix("torch."),
            },
            "output": {
                "path": str(self.outputs.mask),
                "size": list(self.view.size),
                "level": self.view.level,
                "resampled": self.view.resampled,
                "mpp": list(self.view.mpp) if self.view.mpp else None,
            },
            "engine": "tiles",
            "settings": {
                **asdict(self.settings),
                "batch": self.engine.batch,
                "strips": len(self.engine.plan.strips),
                "tiles": self.engine.plan.tiles,
            },
            "runtime": self.model.runtime(),
            "versions": {name: version(name) for name in ("numpy", "tifffile", "imagecodecs")},
            "resumed_blocks": resumed,
            "seconds": self.stopwatch.seconds(),
            "peak_resident_bytes": peak_resident_bytes(),
            "segments": {
                "decoded": self.slide.counts.decoded_segments,
                "missing": self.slide.counts.missing_segments,
                "bytes_read": self.slide.counts.bytes_read,
            },
            "classes": class_areas(pixels_K, self.model.spec.classes, self.view.mpp),
        }


def _count(block: Block, classes: int) -> Any:
    return np.bincount(block.labels_HW.ravel(), minlength=classes)
