"""From stack to stack: how a model of volumes labels every plane of a slide, and what it cannot do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from importlib.metadata import version
from typing import Any

from axialcli import __version__
from axialcli.backends import Model
from axialcli.config import PredictSettings
from axialcli.engine import (
    Blocks,
    Stopwatch,
    VolumeEngine,
    ahead,
    allowed_bytes,
    apart,
    choose_blocks,
    choose_volume,
    peak_resident_bytes,
)
from axialcli.errors import UsageError
from axialcli.image import Slide, Stack, describe_counts, describe_input
from axialcli.output import MaskInfo, Outputs, StackFiles, class_volumes

USED = {"block", "overlap", "blend", "max_ram_bytes", "level", "mpp_override", "channels", "palette"}
"""The settings that mean something for a volume."""

TAKEN = {"engine": ("auto", "tiles"), "layout": ("auto", "ome", "ome-strict")}
"""Of others, the values that ask for no more than what is done."""


def predict_volume(
    slide: Slide,
    model: Model,
    outputs: Outputs,
    settings: PredictSettings,
    progress: Callable[[int, int], None],
    stopwatch: Stopwatch,
) -> dict[str, Any]:
    """Predicts all planes of a slide at once and writes their mask, a stack as deep.

    progress: called with the voxels that are done, and all. Returns the run report, as `pipeline.predict`;
    unlike there a run that was interrupted starts again from the beginning. Raises UsageError for what has
    no meaning for volumes.
    """
    _refuse(slide, model, outputs, settings)
    with stopwatch.stage("plan"):
        stack = choose_volume(slide, model, settings)
        blocks = choose_blocks(settings, model.spec, stack.size)
        make = partial(
            VolumeEngine, stack, model, blocks, max_ram_bytes=allowed_bytes(settings), stopwatch=stopwatch
        )
        engine = apart(make)
    with StackFiles(outputs, _mask_info(slide, stack, model, settings, blocks)) as files:
        done, total = 0, stack.size.voxels
        progress(done, total)
        with ahead(engine.parts(), 1, cancel=engine.cancel) as parts:
            for part in parts:
                with stopwatch.stage("write"):
                    files.write(part)
                done += part.labels_DHW.size
                progress(done, total)
        with stopwatch.stage("finish"):
            files.finish()
        report = _report(slide, stack, model, outputs, settings, engine)
        report["seconds"] = stopwatch.seconds()
        report["classes"] = class_volumes(files.counts_K, model.spec.classes, _voxel_um3(stack))
        files.publish(report)
    return report


def _refuse(slide: Slide, model: Model, outputs: Outputs, settings: PredictSettings) -> None:
    """Raises UsageError that names all that was asked for and has no meaning for a volume."""
    given = {
        "--probs": outputs.probs,
        "--overlay": outputs.overlay,
        "--csv": outputs.table,
        "--heatmap": outputs.heatmaps or None,
        "--z": slide.selection["z"],
    }
    names = [name for name, value in given.items() if value is not None]
    for field in fields(PredictSettings):
        value = getattr(settings, field.name)
        if field.name in USED or field.name == "z" or value == field.default:
            continue
        if value not in TAKEN.get(field.name, ()):
            names.append("--" + field.name.replace("_", "-"))
    if names:
        raise UsageError(
            f"model '{model.spec.name}' takes volumes, in blocks, and answers a mask alone: "
            f"leave out {', '.join(names)}"
        )


def _report(
    slide: Slide,
    stack: Stack,
    model: Model,
    outputs: Outputs,
    settings: PredictSettings,
    engine: VolumeEngine,
) -> dict[str, Any]:
    """What was made of what; sizes are [depth, height, width]."""
    told = {"max_ram_bytes": settings.max_ram_bytes, "palette": settings.palette}
    return {
        "axial": __version__,
        "input": _describe_input(slide),
        "model": model.describe(),
        "output": {
            "path": str(outputs.mask),
            "size": list(stack.size),
            "level": stack.level,
            "mpp": list(stack.mpp) if stack.mpp else None,
            "spacing_um": stack.spacing_um,
        },
        "engine": "blocks",
        "settings": {**told, **engine.describe()},
        "runtime": model.runtime(),
        "versions": {name: version(name) for name in ("numpy", "tifffile", "imagecodecs")},
        "peak_resident_bytes": peak_resident_bytes(),
        "segments": describe_counts(slide),
    }


def _describe_input(slide: Slide) -> dict[str, Any]:
    warnings = [text for text in slide.warnings if text != slide.chose_plane]
    return {
        **describe_input(slide),
        "warnings": warnings,
        "planes": slide.depth,
        "spacing_um": slide.spacing_um,
        "fingerprint": slide.fingerprint(),
    }


def _mask_info(
    slide: Slide, stack: Stack, model: Model, settings: PredictSettings, blocks: Blocks
) -> MaskInfo:
    georeference = slide.georeference
    decides = [
        slide.fingerprint(),
        slide.selection,
        stack.level,
        model.sha256,
        hashlib.sha256(model.spec.to_json().encode()).hexdigest(),
        # Not the strips that memory asked for: they change nothing.
        blocks.describe(),
    ]
    return MaskInfo(
        size=stack.size.plane,
        depth=stack.size.depth,
        spacing_um=stack.spacing_um,
        classes=model.spec.classes,
        mpp=stack.mpp,
        georeference=georeference.scaled(*stack.downsample) if georeference else None,
        orientation=slide.orientation,
        layout="ome",
        palette=settings.palette,
        software=f"axial {__version__}",
        uuid_seed=repr(decides),
    )


def _voxel_um3(stack: Stack) -> float | None:
    if stack.mpp is None or stack.spacing_um is None:
        return None
    return stack.mpp[0] * stack.mpp[1] * stack.spacing_um
