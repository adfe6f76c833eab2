"""From an ONNX file to a model that predicts: read, described, tried in a guard, and only then loaded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from axialcli.backends.foreign import describe_foreign
from axialcli.backends.model_file import spec_of
from axialcli.backends.onnx_answer import AnswerForm, read_form
from axialcli.backends.onnx_check import PIXELS, TAKES_VOLUMES, image_input
from axialcli.backends.onnx_file import OnnxFile, read_onnx
from axialcli.backends.onnx_guard import Guard, GuardLimits
from axialcli.backends.onnx_model import OnnxModel
from axialcli.backends.onnx_session import choose_device
from axialcli.backends.probe import noise
from axialcli.backends.spec import METADATA_KEY, ModelSpec
from axialcli.config import Device, Dtype
from axialcli.errors import ModelError, UsageError
from axialcli.hints import FLAGS, ModelHints

PROBE = 64
"""Least side of the picture that a new network is tried on, in pixels."""

MAX_TRIED = 1 << 26
"""Numbers of such a picture at most, 4096 x 4096 of four channels: descriptions can ask for anything."""

MAX_BATCH = 4096


def load_onnx(
    path: Path,
    *,
    device: Device = "auto",
    dtype: Dtype = "auto",
    tensorrt: bool = False,
    hints: ModelHints | None = None,
) -> OnnxModel:
    """An ONNX file, ready to predict. tensorrt: use that provider before CUDA. hints: see `describe_onnx`.

    Raises ModelError where the file is damaged, unsafe, or not what its description says; UsageError
    for a device that is not there and a dtype that the file does not compute in.
    """
    chosen = choose_device(device, tensorrt=tensorrt)
    file = read_onnx(path)
    computed = "float32" if _element(file) == "uint8" else _element(file)
    if dtype not in ("auto", computed):
        raise UsageError(
            f"--dtype is {dtype}: {path} computes in {computed}; leave the option out, or export another file"
        )
    model = file.to_bytes()
    with _guard(model, path) as guard:
        spec = _describe(file, guard, hints or ModelHints())
        if spec.input.takes_volumes:
            raise ModelError(f"{path}: {TAKES_VOLUMES}")
        form = _try(guard, file, spec)
    return OnnxModel(model=model, form=form, device=chosen, tensorrt=tensorrt, sha256=file.sha256)


def describe_onnx(path: Path, hints: ModelHints | None = None) -> ModelSpec:
    """The description that an ONNX file carries, or else what lies beside it in `<file>.json`, what the
    hints say, and what its graph shows when it is tried. Raises ModelError and UsageError."""
    file = read_onnx(path)
    with _guard(file.to_bytes(), path) as guard:
        return _describe(file, guard, hints or ModelHints())


def _guard(model: bytes, path: Path) -> Guard:
    return Guard(model, str(path), GuardLimits(threads=torch.get_num_threads()))


def _element(file: OnnxFile) -> str:
    """The type of the pixels that a file takes, as numpy names it."""
    return PIXELS[image_input(file.model, str(file.path)).type.tensor_type.elem_type]


def _describe(file: OnnxFile, guard: Guard, hints: ModelHints) -> ModelSpec:
    metadata = file.metadata()
    if METADATA_KEY in metadata:
        hints.refuse(str(file.path))
        return spec_of(file.path, metadata[METADATA_KEY])
    if hints.positions is not None:
        raise UsageError(f"{file.path}: leave out {FLAGS['positions']}, a graph has its positions built in")
    element = _element(file)

    def probe(shape: tuple[int, ...]) -> NDArray[Any] | str:
        if math.prod(shape) > MAX_TRIED:
            return f"not tried, {list(shape)} is too large"
        return guard.run(noise(shape, element))

    return describe_foreign(file.path, file.model, probe, hints)


def _try(guard: Guard, file: OnnxFile, spec: ModelSpec) -> AnswerForm:
    """Runs the model once, on a picture of noise, and compares what comes out with the description."""
    where = str(file.path)
    first = image_input(file.model, where).type.tensor_type.shape.dim[:1]
    batch = first[0].dim_value if first else 0
    step = math.lcm(spec.input.multiple, spec.output.stride)
    side = -(-PROBE // step) * step
    height, width = spec.input.size or (side, side)
    if height * width * len(spec.input.channels) > MAX_TRIED:
        raise ModelError(
            f"{where}: its description asks for pictures of {height} x {width} pixels and "
            f"{len(spec.input.channels)} channels at least, which is too large"
        )
    alone = spec.config.get("batch")
    if alone is not None and not (isinstance(alone, int) and 1 <= alone <= MAX_BATCH):
        raise ModelError(
            f"{where}: its description has the batch {alone!r:.40}; it goes from 1 to {MAX_BATCH}"
        )
    image = _seen_noise(spec, height, width, _element(file))
    output = guard.run(np.repeat(image, batch or 1, axis=0))
    if isinstance(output, str):
        raise ModelError(
            f"{where}: does not take a picture of {list(image.shape[1:])}, "
            f"which its description promises ({output:.90})"
        )
    if not output.ndim or len(output) != (batch or 1):
        raise ModelError(f"{where}: answers {list(output.shape)} to a batch of {batch or 1}")
    return read_form(output[:1], spec, (height, width), where)


def _seen_noise(spec: ModelSpec, height: int, width: int, element: str) -> NDArray[Any]:
    """The same picture each time, as the network sees it: [1, C, H, W] or [1, H, W, C].

    A blank one would not do: without biases every network answers 0 to it, which is finite and a probability.
    """
    pixels_BHWC = noise((1, height, width, len(spec.input.channels)), "uint8")
    seen_BHWC = pixels_BHWC
    if element != "uint8":
        seen_BHWC = ((pixels_BHWC / 255 - spec.input.mean) / spec.input.std).astype(element)
    return seen_BHWC if spec.input.layout == "NHWC" else seen_BHWC.transpose(0, 3, 1, 2)
