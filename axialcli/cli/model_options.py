"""The options that describe a foreign model, for every command that takes one."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from axialcli.errors import UsageError
from axialcli.hints import ModelHints

MODEL_HELP = (
    "A name from 'axial models list', a model file (.safetensors, .onnx), a checkpoint of a network that "
    "axial knows (.pth, .pt), or the folder of a model of WSInfer."
)

PANEL = "Models from elsewhere (what their files do not say)"

InputRangeOption = Annotated[
    str | None,
    typer.Option(
        "--input-range",
        rich_help_panel=PANEL,
        help="What the network sees: 0-1, 0-255, imagenet, or MEAN:STD such as 0.5:0.25 or "
        "0.7,0.5,0.6:0.2,0.3,0.2 (of pixels in 0-1).",
    ),
]
InputSizeOption = Annotated[
    str | None,
    typer.Option(
        "--input-size",
        rich_help_panel=PANEL,
        help="The only size it takes, HxW such as 224x224; or multiples of a number, such as x32.",
    ),
]
LayoutInOption = Annotated[
    str | None,
    typer.Option("--layout-in", rich_help_panel=PANEL, help="Order of its axes: NCHW or NHWC."),
]
InputChannelsOption = Annotated[
    int | None, typer.Option("--input-channels", rich_help_panel=PANEL, help="How many channels it takes.")
]
ClassesOption = Annotated[
    str | None,
    typer.Option(
        "--classes",
        rich_help_panel=PANEL,
        help="Names of the classes from 0 on, with colours if you like: glass,tumour=#ff0000; or how many.",
    ),
]
ActivationOption = Annotated[
    str | None,
    typer.Option(
        "--activation",
        rich_help_panel=PANEL,
        help="What makes probabilities of its answer: softmax, sigmoid, none (it is one), or labels.",
    ),
]
TaskOption = Annotated[
    str | None, typer.Option("--task", rich_help_panel=PANEL, help="segmentation or classification.")
]
ModelMppOption = Annotated[
    float | None,
    typer.Option("--model-mpp", rich_help_panel=PANEL, help="Microns per pixel that it was made for."),
]
OutputStrideOption = Annotated[
    int | None,
    typer.Option("--output-stride", rich_help_panel=PANEL, help="Pixels per output pixel."),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option("--threshold", rich_help_panel=PANEL, help="Class 1 from this probability on, 0 to 1."),
]
PositionsOption = Annotated[
    str | None,
    typer.Option(
        "--positions",
        rich_help_panel=PANEL,
        help="How learned positions reach beyond the size that a network was trained at: local (no token "
        "sees farther), clip (what is farther counts as the farthest) or interpolate. Default: its own "
        "size, in tiles.",
    ),
]
TrustModelOption = Annotated[
    bool,
    typer.Option(
        "--trust-model",
        rich_help_panel=PANEL,
        help="Run the code that a TorchScript file carries: only for files whose maker you trust.",
    ),
]


def model_hints(
    *,
    input_range: str | None = None,
    input_size: str | None = None,
    layout_in: str | None = None,
    input_channels: int | None = None,
    classes: str | None = None,
    activation: str | None = None,
    task: str | None = None,
    model_mpp: float | None = None,
    output_stride: int | None = None,
    threshold: float | None = None,
    positions: str | None = None,
) -> ModelHints:
    """The options as one value. Raises UsageError for what cannot be meant."""
    return ModelHints(
        **_parse_range(input_range),
        **_parse_size(input_size),
        **_parse_classes(classes),
        layout=layout_in,  # type: ignore[arg-type] # checked by ModelHints, as the next three
        activation=activation,  # type: ignore[arg-type]
        task=task,  # type: ignore[arg-type]
        positions=positions,  # type: ignore[arg-type]
        channels=input_channels,
        mpp=model_mpp,
        stride=output_stride,
        threshold=threshold,
    )


def _parse_range(text: str | None) -> dict[str, Any]:
    if text is None or ":" not in text:
        return {"range": text}
    mean, _, std = text.partition(":")
    try:
        return {"mean": _numbers(mean), "std": _numbers(std)}
    except ValueError:
        raise UsageError(
            f"--input-range is '{text}': write MEAN:STD with numbers, such as 0.5:0.25"
        ) from None


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _parse_size(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    match = re.fullmatch(r"(\d{1,5})?x(\d{1,5})", text)
    if match is None:
        raise UsageError(f"--input-size is '{text}': write HxW such as 224x224, or a multiple such as x32")
    if match[1] is None:
        return {"multiple": int(match[2])}
    return {"size": (int(match[1]), int(match[2]))}


def _parse_classes(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    if re.fullmatch(r"\d{1,5}", text):
        return {"classes": int(text)}
    entries = [entry.partition("=") for entry in text.split(",")]
    colours = tuple(_parse_colour(colour) if sign else None for _, sign, colour in entries)
    names = tuple(name.strip() for name, _, _ in entries)
    return {"classes": names, "colours": colours if any(colours) else None}


def _parse_colour(text: str) -> tuple[int, int, int]:
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise UsageError(f"--classes has the colour '{text}': write it like #ff0000")
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue
