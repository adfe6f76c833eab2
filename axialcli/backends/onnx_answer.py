"""What an ONNX network answers, brought into the one form that `Model` knows.

Shapes: B batch, K classes, N channels of the answer, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from axialcli.backends.spec import ModelSpec
from axialcli.errors import ModelError

SLACK = 1e-2
"""How far beyond 0 and 1 a rounded probability may lie, in float16."""


@dataclass(frozen=True, kw_only=True)
class AnswerForm:
    """How the numbers of a network lie.

    channels: N. axis: of the channels, 1 or 3; None where the answer of pixels has no such axis, or
    is one of whole pictures. where: names the file in errors.
    """

    spec: ModelSpec
    channels: int
    axis: int | None
    where: str

    def to_logits(self, output: Tensor, size: tuple[int, int]) -> Tensor:
        """A network's answer -> logits or probabilities [B, N, H, W], of a classifier [B, N].

        Labels become 1.0 for their class and 0.0 for all others, float32. size: H, W of the input,
        multiples of the output's stride. Raises ModelError for another shape, and for labels that are
        no class.
        """
        if self.spec.task == "classification":
            logits = output.reshape(len(output), -1)
            fits = logits.shape[1] == self.channels
        else:
            logits = output[:, None] if output.ndim == 3 else output
            logits = logits.permute(0, 3, 1, 2) if self.axis == 3 else logits
            stride = self.spec.output.stride
            fits = logits.shape[1:] == (self.channels, size[0] // stride, size[1] // stride)
        if not fits:
            raise ModelError(
                f"{self.where}: answers {list(output.shape)} to {size[0]} x {size[1]} pixels, "
                "unlike its description"
            )
        return self._one_hot(logits[:, 0]) if self.spec.output.activation == "labels" else logits

    def _one_hot(self, labels: Tensor) -> Tensor:
        """Class numbers [B, ...] -> [B, K, ...], float32."""
        classes = len(self.spec.classes)
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ModelError(
                f"{self.where}: answers the labels {int(labels.min())} to {int(labels.max())}, "
                f"its description has {classes} classes from 0"
            )
        numbers = torch.arange(classes, device=labels.device).view(-1, *[1] * (labels.ndim - 1))
        return (labels[:, None] == numbers).to(torch.float32)


def read_form(output: NDArray[Any], spec: ModelSpec, size: tuple[int, int], where: str) -> AnswerForm:
    """The form of the answer to a picture of noise, compared with the description.

    output: of a batch of one. size: H, W of the picture. Raises ModelError unless shape and numbers are
    what the description says: one number per class, or one in all for sigmoid, labels and the
    probability of class 1 alone; finite; probabilities from 0 to 1.
    """
    candidates = list(_candidates(spec, size))
    shape = output.shape
    if spec.task == "classification":
        # Pooled answers keep axes of one: [1, K, 1, 1] is [1, K].
        shape = (*shape[:1], *([side for side in shape[1:] if side != 1] or [1]))
    for wanted, channels, axis in candidates:
        if shape == wanted:
            _check_numbers(output, spec, where)
            return AnswerForm(spec=spec, channels=channels, axis=axis, where=where)
    raise ModelError(
        f"{where}: answers {list(output.shape)} to {size[0]} x {size[1]} pixels, its description "
        f"({len(spec.classes)} classes, {spec.output.activation}, stride {spec.output.stride}) needs "
        f"{list(candidates[0][0])}"
    )


def _candidates(spec: ModelSpec, size: tuple[int, int]) -> Iterator[tuple[tuple[int, ...], int, int | None]]:
    """The shapes that a description allows for a batch of one, each with its channels and their axis.

    The first is the usual one.
    """
    numbers = {"softmax": [len(spec.classes)], "none": [len(spec.classes)]}.get(spec.output.activation, [1])
    if spec.output.activation == "none" and len(spec.classes) == 2:
        numbers.append(1)
    if spec.task == "classification":
        yield from (((1, n), n, None) for n in numbers)
        return
    pixels = (size[0] // spec.output.stride, size[1] // spec.output.stride)
    # The layout's own order comes first: a picture may be as wide as there are classes.
    for axis in (3, 1) if spec.input.layout == "NHWC" else (1, 3):
        yield from (((1, n, *pixels) if axis == 1 else (1, *pixels, n), n, axis) for n in numbers)
    if 1 in numbers:
        yield (1, *pixels), 1, None


def _check_numbers(output: NDArray[Any], spec: ModelSpec, where: str) -> None:
    if not np.isfinite(output).all():
        raise ModelError(f"{where}: the network answers NaN or infinity to a picture of noise")
    if spec.output.activation == "none" and (output.min() < -SLACK or output.max() > 1 + SLACK):
        raise ModelError(
            f"{where}: its description says that it answers probabilities (activation none), "
            f"but there are numbers from {output.min():g} to {output.max():g}"
        )
    if spec.output.activation == "labels" and (output != np.round(output)).any():
        raise ModelError(
            f"{where}: its description says that it answers labels, but they are no whole numbers"
        )
