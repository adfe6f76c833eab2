"""Test-time augmentation: a model that sees each picture in several forms, and answers the mean.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from axialcli.backends.model import Model
from axialcli.config import Augmentation
from axialcli.errors import UsageError

SCALES = (0.6, 0.8, 1.25)
"""Resolutions at which "full" sees a tile as well, in units of the one that is predicted at."""

Turn = tuple[int, bool]
"""Quarter turns, and whether mirrored after them."""


class AugmentedModel(Model):
    """The mean of what a model of pictures answers to several forms of each: logits, or what stands for them.

    turns: the eight turned and mirrored forms of a picture, or the four that keep the shape of a model of one
    size that is no square. scales: beside the picture's own. No receptive field is stated: it grows
    with smaller scales, and forms lie differently on the network's grid.
    """

    def __init__(self, model: Model, scales: tuple[float, ...] = ()) -> None:
        super().__init__(
            spec=replace(model.spec, receptive_field_px=None),
            device=model.device,
            dtype=model.dtype,
            sha256=model.sha256,
        )
        self.backend, self._model, self._scales = model.backend, model, scales
        size = self.spec.input.size
        quarters = (0, 1, 2, 3) if size is None or size[0] == size[1] else (0, 2)
        self._turns: list[Turn] = [(count, mirrored) for count in quarters for mirrored in (False, True)]

    @property
    def hidden(self) -> str:
        return "test-time augmentation sees each tile several times"

    def run(self, images_BCHW: Tensor) -> Tensor:
        own = self._mean_of_turns(images_BCHW)
        total = own.float()
        for scale in self._scales:
            answer = self._mean_of_turns(self._resized(images_BCHW, scale)).float()
            if answer.ndim > 2:
                answer = F.interpolate(answer, own.shape[2:], mode="bilinear", align_corners=False)
            total = total + answer
        return total / (1 + len(self._scales))

    def _mean_of_turns(self, images_BCHW: Tensor) -> Tensor:
        answers = [self._turned_back(turn, self._model.run(seen)) for turn, seen in self._forms(images_BCHW)]
        return torch.stack(answers).mean(0)

    def _forms(self, images_BCHW: Tensor) -> Iterator[tuple[Turn, Tensor]]:
        for turn in self._turns:
            count, mirrored = turn
            seen = torch.rot90(images_BCHW, count, (2, 3))
            seen = seen.flip(3) if mirrored else seen
            yield turn, seen.contiguous(memory_format=self.memory_format)

    def _turned_back(self, turn: Turn, answer: Tensor) -> Tensor:
        """An answer [B, K, H, W] as it lies on the picture; that of a classifier, [B, K], as it is."""
        count, mirrored = turn
        if answer.ndim == 2:
            return answer
        return torch.rot90(answer.flip(3) if mirrored else answer, -count, (2, 3))

    def _resized(self, images_BCHW: Tensor, scale: float) -> Tensor:
        unit = math.lcm(self.spec.input.multiple, self.spec.output.stride)
        size = [max(1, round(side * scale / unit)) * unit for side in images_BCHW.shape[2:]]
        # Not every device resizes half floats.
        resized = F.interpolate(
            images_BCHW.float(), size, mode="bicubic", align_corners=False, antialias=True
        )
        return resized.to(images_BCHW.dtype)

    def runtime(self) -> dict[str, str | int]:
        return self._model.runtime()

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "tta": {"turns": len(self._turns), "scales": [1.0, *self._scales]}}


def augmented(model: Model, tta: Augmentation) -> Model:
    """The model with test-time augmentation; the model itself where it is "off".

    Raises UsageError for "full" where a model takes one size only.
    """
    if tta == "off":
        return model
    name, size = model.spec.name, model.spec.input.size
    if tta == "full" and size is not None:
        raise UsageError(
            f"--tta full needs other sizes, '{name}' takes {size[0]} x {size[1]} only: use --tta turns"
        )
    return AugmentedModel(model, SCALES if tta == "full" else ())
