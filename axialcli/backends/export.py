"""Out of PyTorch: a model of our own as one self-contained .onnx file, which has proved itself.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import onnx
import torch
from torch import Tensor, nn

from axialcli.backends.model import FULL_SCALE
from axialcli.backends.onnx_answer import AnswerForm
from axialcli.backends.onnx_model import OnnxModel
from axialcli.backends.onnx_session import choose_device
from axialcli.backends.parity import PARITY_KEY, Parity, compare, trial_images
from axialcli.backends.spec import METADATA_KEY, ModelSpec
from axialcli.backends.torch_model import TorchModel
from axialcli.errors import ModelError, UsageError
from axialcli.geometry import Size

OPSETS = range(18, 24)
"""Operator sets that the exporter writes."""

DEFAULT_OPSET = 20
"""The first with GELU as an operator of its own."""

TRACED_ON = (2, 56, 72)
"""Batch, height and width that a network is traced on: all different, none of them 1."""

MOST = 65_536
"""The largest height and width that the file promises to take."""

MAX_BYTES = 2**31 - 1
"""A protobuf message, and so a self-contained file, is smaller than 2 GiB."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An .onnx file. data: its bytes. parities: how it compared with torch, shape by shape."""

    data: bytes
    spec: ModelSpec
    parities: tuple[Parity, ...]


def export(
    model: TorchModel,
    *,
    opset: int = DEFAULT_OPSET,
    dtype: Literal["float32", "float16"] = "float32",
    static: Size | None = None,
    pixels: bool = False,
) -> Exported:
    """The model as an .onnx file of the ONNX operator set `opset`.

    model: on the CPU in float32. dtype: of the weights, and of the file's input and output. static: the
    one height and width that the file takes; None leaves them, like the batch, dynamic. pixels: the
    file takes pixel values (0..255) and normalises them itself; otherwise normalised ones.

    What the model file says is in the file's metadata, so that it is a complete model. Before it is
    handed out it is compared with torch on every execution provider that is there; see `compare`. Raises
    ModelError where a network cannot be exported or the two differ, UsageError for an unknown opset.
    """
    if opset not in OPSETS:
        raise UsageError(f"--opset is {opset}: choose {OPSETS.start} to {OPSETS.stop - 1}")
    if model.spec.input.takes_volumes:
        raise ModelError(f"model '{model.spec.name}' takes volumes: it is run by torch alone, not exported")
    number = torch.float16 if dtype == "float16" else torch.float32
    spec = _spec(model.spec, static=static, pixels=pixels)
    network = _Graph(model, pixels=pixels).to(number)
    proto = _traced(network, spec, opset=opset, dtype=number)
    _describe(proto, {METADATA_KEY: spec.to_json()})
    parities = tuple(
        parity
        for candidate in _candidates(_serialised(proto), spec)
        for parity in compare(model, candidate, trial_images(spec), half=dtype == "float16")
    )
    _describe(proto, {PARITY_KEY: json.dumps([parity.describe() for parity in parities])})
    return Exported(data=_serialised(proto), spec=spec, parities=parities)


class _Graph(nn.Module):
    """The network, behind the normalisation where the file takes pixel values."""

    scale_C11: Tensor
    shift_C11: Tensor

    def __init__(self, model: TorchModel, *, pixels: bool) -> None:
        super().__init__()
        # A copy: numbers of another kind are made of it in place.
        self.network, self.pixels = copy.deepcopy(model.network), pixels
        mean, std = (torch.tensor(v)[:, None, None] for v in (model.spec.input.mean, model.spec.input.std))
        self.register_buffer("scale_C11", 1 / (std * FULL_SCALE[torch.float32]))
        self.register_buffer("shift_C11", -mean / std)

    def forward(self, image: Tensor) -> Tensor:
        if self.pixels:
            image = image * self.scale_C11 + self.shift_C11
        return self.network(image)  # type: ignore[no-any-return]


def _spec(spec: ModelSpec, *, static: Size | None, pixels: bool) -> ModelSpec:
    """What the exported file says of itself."""
    source = spec.input
    if pixels:
        channels = len(source.channels)
        source = replace(source, mean=(0.0,) * channels, std=(1 / FULL_SCALE[torch.float32],) * channels)
    if static is not None:
        source = replace(source, size=(static.height, static.width))
    return replace(spec, input=source)


def _traced(network: nn.Module, spec: ModelSpec, *, opset: int, dtype: torch.dtype) -> onnx.ModelProto:
    batch, height, width = TRACED_ON
    dynamic: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=MOST)}
    if spec.input.size is None:
        dynamic |= {
            2: torch.export.Dim("height", min=1, max=MOST),
            3: torch.export.Dim("width", min=1, max=MOST),
        }
    else:
        height, width = spec.input.size
    image_BCHW = torch.zeros(batch, len(spec.input.channels), height, width, dtype=dtype)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                network.eval(),
                (image_BCHW,),
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes=(dynamic,),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError, NotImplementedError) as error:
        # What the exporter wraps, and what it lets through of a network's own code and of torch.export.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"model '{spec.name}' cannot be exported: {reason:.120}") from error
    assert program is not None
    proto = program.model_proto
    sides = proto.graph.input[0].type.tensor_type.shape.dim
    # A size that a tracer took for a constant would fail later, on somebody else's picture.
    if fixed := [axis for axis in dynamic if not sides[axis].dim_param]:
        raise ModelError(
            f"model '{spec.name}' cannot be exported: axes {fixed} of its input became constants"
        )
    _strip(proto)
    return proto


def _strip(proto: onnx.ModelProto) -> None:
    """Takes out what the exporter notes of each node, such as where its code lies on this machine."""
    del proto.metadata_props[:], proto.graph.metadata_props[:]
    parts = (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output)
    for part in (*parts, *proto.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def _candidates(data: bytes, spec: ModelSpec) -> Iterator[OnnxModel]:
    """The exported model on every execution provider that is there."""
    channels = 1 if spec.output.activation == "sigmoid" else len(spec.classes)
    form = AnswerForm(spec=spec, channels=channels, axis=1, where="the export")
    for device in dict.fromkeys((torch.device("cpu"), choose_device("auto", tensorrt=False))):
        yield OnnxModel(model=data, form=form, device=device, sha256="")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks about packages that it does not need, and its pages on what fails."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        logging.disable(before)


def _describe(proto: onnx.ModelProto, texts: dict[str, str]) -> None:
    for key, value in texts.items():
        proto.metadata_props.add(key=key, value=value)


def _serialised(proto: onnx.ModelProto) -> bytes:
    if proto.ByteSize() > MAX_BYTES:
        raise ModelError(
            f"the model takes {proto.ByteSize() / 1e9:.1f} GB; an .onnx file holds less than 2.1"
        )
    return bytes(proto.SerializeToString())
