"""`axial predict`: a slide in, a mask out."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from axialcli.cli.console import classes_shown, printable, say, show_messages
from axialcli.cli.model_options import (
    MODEL_HELP,
    ActivationOption,
    ClassesOption,
    InputChannelsOption,
    InputRangeOption,
    InputSizeOption,
    LayoutInOption,
    ModelMppOption,
    OutputStrideOption,
    PositionsOption,
    TaskOption,
    ThresholdOption,
    TrustModelOption,
    model_hints,
)
from axialcli.cli.progress import progress_bar
from axialcli.cli.start import Stopped, imports
from axialcli.config import WAITING, Backend, PredictSettings, check_choice, parse_bytes, scratch_folder
from axialcli.errors import UsageError
from axialcli.image import open_slide
from axialcli.output import check_outputs, check_scratch, partial_folder


def predict(
    slide: Annotated[Path, typer.Argument(help="The slide: TIFF, PNG or JPEG.", readable=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The mask to write, a TIFF.")],
    model: Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)] = "nuclei",
    level: Annotated[int | None, typer.Option(help="Predict on this level of the slide.")] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Predict at these microns per pixel. Default: the model's own.")
    ] = None,
    mpp_override: Annotated[
        float | None, typer.Option(help="Microns per pixel of level 0, instead of what the file says.")
    ] = None,
    channels: Annotated[
        str | None, typer.Option(help="Channels to use, counted from 0, such as 2,1,0.")
    ] = None,
    z: Annotated[int | None, typer.Option(help="Plane of a stack, counted from 0.")] = None,
    engine: Annotated[
        str, typer.Option(help="stream (exact, no tiles), tiles, or auto: stream where the model allows.")
    ] = "auto",
    tile: Annotated[
        int, typer.Option(help="Side of a tile, in pixels; a model of one size has its own.")
    ] = 512,
    overlap: Annotated[
        str | None,
        typer.Option(
            help="Pixels on each side that tiles share, or auto: the model's receptive field, which makes "
            "crop exact. Default: 64, less for small tiles. A model that classifies tiles answers one pixel "
            "of the mask per tile and sees so far beyond it; default there: 0."
        ),
    ] = None,
    blend: Annotated[
        str, typer.Option(help="gaussian, linear, mean or crop (keep the centre).")
    ] = "gaussian",
    batch: Annotated[int | None, typer.Option(help="Tiles at once. Default: what suits the device.")] = None,
    block: Annotated[
        str | None,
        typer.Option(
            metavar="DxHxW",
            help="Of a model of volumes: planes, height and width that it sees at once. Default: 32x256x256.",
        ),
    ] = None,
    background: Annotated[
        str, typer.Option(help="Blank glass to skip: off, auto, or colour and tolerance: #f4f4f4:6.")
    ] = "off",
    scratch: Annotated[
        Path | None, typer.Option(help="Folder for features of a stream without span. Default: memory.")
    ] = None,
    store_dtype: Annotated[
        str, typer.Option(help="How they are kept there: float32 or float16.")
    ] = "float32",
    certify: Annotated[
        int, typer.Option(help="Compare so many windows with a run of their own; see the report.")
    ] = 0,
    tta: Annotated[
        str,
        typer.Option(
            help="Test-time augmentation, in tiles. turns: the mean of each tile's eight turned and mirrored "
            "forms, in eight times their time; full: of these at 0.6, 0.8, 1 and 1.25 times the resolution, "
            "in some thirty times; off."
        ),
    ] = "off",
    max_ram: Annotated[
        str | None, typer.Option(help="Memory to stay below, such as 1.5G. Default: half of the machine's.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    backend: Annotated[
        str, typer.Option(help="auto, torch, onnx, or tensorrt (.onnx files on a GPU that has it).")
    ] = "auto",
    layout: Annotated[
        str, typer.Option(help="auto, ome, ome-strict, or generic (for GIS). auto: by the slide.")
    ] = "auto",
    palette: Annotated[
        bool | None,
        typer.Option("--palette/--no-palette", help="Colours in the mask. Default: by layout."),
    ] = None,
    probs: Annotated[Path | None, typer.Option(help="Also write the class probabilities, a TIFF.")] = None,
    probs_dtype: Annotated[str, typer.Option(help="uint8 (probability times 255) or float16.")] = "uint8",
    overlay: Annotated[
        Path | None, typer.Option(help="Also write a PNG of the slide with the mask in colour.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Also write the table of tiles that a model classifies, a CSV.")
    ] = None,
    heatmap: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS=FILE",
            help="Also write how probable a class is: a .tif, or a .png over the slide. More than once.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing outputs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run report.")] = False,
    input_range: InputRangeOption = None,
    input_size: InputSizeOption = None,
    input_channels: InputChannelsOption = None,
    layout_in: LayoutInOption = None,
    classes: ClassesOption = None,
    activation: ActivationOption = None,
    task: TaskOption = None,
    model_mpp: ModelMppOption = None,
    output_stride: OutputStrideOption = None,
    threshold: ThresholdOption = None,
    positions: PositionsOption = None,
    trust_model: TrustModelOption = False,
) -> None:
    """Predict a slide and write its mask as a pyramidal TIFF.

    A model of volumes sees all planes of a stack and writes a stack. A run that was interrupted continues
    (of a volume: starts again) when the same command is given again. OUT.json beside the
    mask says what was done.
    """
    settings: dict[str, Any] = {
        "engine": engine,
        "background": background,
        "scratch": scratch,
        "store_dtype": store_dtype,
        "certify": certify,
        "tta": tta,
        "tile": tile,
        "overlap": _parse_overlap(overlap),
        "blend": blend,
        "batch": batch,
        "block": _parse_block(block),
        "max_ram_bytes": None if max_ram is None else parse_bytes(max_ram),
        "level": level,
        "mpp": mpp,
        "layout": layout,
        "palette": palette,
        "probs_dtype": probs_dtype,
    }
    selection: dict[str, Any] = {"channels": _parse_channels(channels), "z": z, "mpp_override": mpp_override}
    check_choice("--backend", backend, Backend)
    hints = model_hints(
        input_range=input_range,
        input_size=input_size,
        input_channels=input_channels,
        layout_in=layout_in,
        classes=classes,
        activation=activation,
        task=task,
        model_mpp=model_mpp,
        output_stride=output_stride,
        threshold=threshold,
        positions=positions,
    )
    # All that can be refused is refused before torch is loaded; the pipeline checks again.
    PredictSettings(**settings, **selection)
    check_scratch(scratch)
    files: dict[str, Any] = {"probs": probs, "overlay": overlay, "heatmaps": _parse_heatmaps(heatmap or [])}
    check_outputs(out, inputs=[slide, Path(model)], table=csv, force=force, **files)
    show_messages()
    with open_slide(slide, **selection) as opened:
        for text in opened.warnings:
            # Whether one plane is chosen depends on the model; the pipeline says so.
            if text != opened.chose_plane:
                logging.getLogger("axial").warning("%s: %s", slide, text)
        for name, value in WAITING.items():
            os.environ.setdefault(name, value)
        with imports():
            from axialcli import pipeline
            from axialcli.engine.memory import keep_freed_memory

        keep_freed_memory()

        with _saying_what_continues(out, scratch), progress_bar("predicting") as bar:
            report = pipeline.predict(
                opened,
                out,
                model=model,
                device=device,  # type: ignore[arg-type] # checked by load_model
                dtype=dtype,  # type: ignore[arg-type]
                backend=backend,  # type: ignore[arg-type]
                hints=hints,
                trust_model=trust_model,
                csv=csv,
                force=force,
                progress=lambda state: bar.update(state.done_px / state.total_px, state.done_px / 1e6),
                **files,
                **settings,
            )
    say(json.dumps(report, indent=1) if as_json else _summary(report))


@contextmanager
def _saying_what_continues(out: Path, scratch: Path | None) -> Iterator[None]:
    """Of a run that was stopped, whether it has left work to go on with; a volume leaves none."""
    try:
        yield
    except Stopped as stop:
        left = [
            partial_folder(out),
            *([] if scratch is None else [scratch_folder(scratch, str(out.resolve()))]),
        ]
        if any(folder.exists() for folder in left):
            stop.text += "; the same command continues the run"
        raise


def _parse_channels(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--channels is '{text}': write numbers such as 0,1,2") from None


def _parse_block(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise UsageError(f"--block is '{text}': write DxHxW such as 32x256x256")
    depth, height, width = map(int, match.groups())
    return depth, height, width


def _parse_overlap(text: str | None) -> int | str | None:
    if text is None or text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--overlap is '{text}': give a number of pixels, or auto") from None


def _parse_heatmaps(texts: list[str]) -> list[tuple[str, Path]]:
    parts = [text.rpartition("=") for text in texts]
    for text, (name, _, file) in zip(texts, parts, strict=True):
        if not name or not file:
            raise UsageError(f"--heatmap is '{text}': write CLASS=FILE, such as forest=forest.png")
    return [(name, Path(file)) for name, _, file in parts]


def _summary(report: dict[str, Any]) -> str:
    """The mask's path and size, a line per class, of many those that occur, and what was certified."""
    *depth, height, width = report["output"]["size"]
    size = f"{width} x {height} x {depth[0]} voxels" if depth else f"{width} x {height} pixels"
    lines = [f"{printable(report['output']['path'])}: {size}, model {report['model']['name']}"]
    if depth:
        return "\n".join([*lines, *map(_class_volume, report["classes"])])
    if answer := report["answer"]:
        share = answer["probabilities"][answer["class"]]
        return f"{lines[0]}\n  {printable(answer['class'])}, probability {share:.4f}"
    tiles = report["model"]["task"] == "classification"
    shown, more = classes_shown(report["classes"], lambda entry: int(entry["pixels"]), report["class_count"])
    areas_um2 = [entry["area_um2"] for entry in report["classes"] if entry["area_um2"] is not None]
    for entry in shown:
        number = f"{entry['pixels']:,} tiles, " if tiles else ""
        area = "" if entry["area_um2"] is None else f", {_area(entry['area_um2'], max(areas_um2))}"
        lines.append(f"  {printable(entry['name'])}: {number}{100 * entry['share']:.2f} %{area}")
    if more:
        lines.append(f"  and {more} more classes; {printable(report['output']['path'])}.json lists them")
    if found := report["certificate"]:
        lines.append(
            f"  certificate: in {found['windows']} windows logits differ by up to "
            f"{found['largest_logit_difference']:.2g}, {100 * found['differing_pixels_share']:.2g} % "
            "of the pixels have another class"
        )
    return "\n".join(lines)


def _area(um2: float, largest_um2: float) -> str:
    """An area, in the unit that suits the largest of its picture: a microscope's, or an aeroplane's."""
    if largest_um2 < 1e12:
        return f"{um2 / 1e6:.4f} mm2"
    return f"{um2 / 1e12:.1f} m2" if largest_um2 < 1e18 else f"{um2 / 1e18:.4f} km2"


def _class_volume(entry: dict[str, Any]) -> str:
    volume = "" if entry["volume_um3"] is None else f", {entry['volume_um3'] / 1e9:.6g} mm3"
    return f"  {printable(entry['name'])}: {100 * entry['share']:.2f} %{volume}"
