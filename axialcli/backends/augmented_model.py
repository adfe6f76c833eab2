"""Test-time augmentation: a model that sees each picture in several forms, and answers the mean.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from axialcli.backends.model import Model
from axialcli.config import Augmentation
from axialcli.errors import UsageError

SCALES = (0.6, 0.8, 1.25)
"""Resolutions at which "full" sees a tile as well, in units of the one that is predicted at."""

logger = logging.getLogger("axial")


class AugmentedModel(Model):
    """The mean of what a model of pictures answers to several forms of each: logits, or what stands for them.

    model: what is asked. scales: beside the picture's own, for a model that segments pictures of any size.
    The forms are the eight turned and mirrored ones; of a model of one size that is no square the four that
    fit.
    """

    def __init__(self, model: Model, scales: tuple[float, ...] = ()) -> None:
        super().__init__(spec=model.spec, device=model.device, dtype=model.dtype, sha256=model.sha256)
        self.backend, self.memory_format = model.backend, model.memory_format
        self._model, self._scales = model, scales
        size = self.spec.input.size
        quarters = (0, 1, 2, 3) if size is None or size[0] == size[1] else (0, 2)
        self._turns = [(count, mirrored) for count in quarters for mirrored in (False, True)]

    def run(self, images_BCHW: Tensor) -> Tensor:
        """Normalised images -> the mean of answers, float32 [B, K, H, W], of a classifier [B, K]."""
        total = self._mean_of_turns(images_BCHW)
        own = total.shape[2:]
        for scale in self._scales:
            answer = self._at(scale, images_BCHW)
            total += F.interpolate(answer, own, mode="bilinear", align_corners=False)
        return total / (1 + len(self._scales))

    def _mean_of_turns(self, images_BCHW: Tensor) -> Tensor:
        total: Tensor | None = None
        for count, mirrored in self._turns:
            seen = torch.rot90(images_BCHW, count, (2, 3))
            seen = (seen.flip(3) if mirrored else seen).contiguous(memory_format=self.memory_format)
            answer = self._model.run(seen).float()
            if answer.ndim > 2:
                answer = torch.rot90(answer.flip(3) if mirrored else answer, -count, (2, 3))
            # The first is copied, for a model may keep what it has answered.
            total = answer.clone() if total is None else total.add_(answer)
        assert total is not None
        return total / len(self._turns)

    def _at(self, scale: float, images_BCHW: Tensor) -> Tensor:
        """The mean for a picture at another resolution: filled up to what the model takes, and cut again."""
        stride, multiple = self.spec.output.stride, self.spec.input.multiple
        height, width = (max(1, round(side * scale / stride)) * stride for side in images_BCHW.shape[2:])
        # Not every device resizes half floats.
        resized_BCHW = F.interpolate(
            images_BCHW.float(), (height, width), mode="bicubic", align_corners=False, antialias=True
        )
        filled_BCHW = F.pad(resized_BCHW, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        answer = self._mean_of_turns(filled_BCHW.to(images_BCHW.dtype))
        return answer[:, :, : height // stride, : width // stride]

    def runtime(self) -> dict[str, str | int]:
        return self._model.runtime()

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "tta": {"forms": len(self._turns), "scales": [1.0, *self._scales]}}


def augmented(model: Model, tta: Augmentation, mpp: float | None) -> Model:
    """The model with test-time augmentation; the model itself where it is "off".

    mpp: microns per pixel that are predicted at, where known; scales at which a model would see others than
    it says that it is made for are left out, with a warning. Raises UsageError for "full" where a model
    classifies, or takes one size only.
    """
    if tta == "off":
        return model
    if tta == "turns":
        return AugmentedModel(model)
    name, size = model.spec.name, model.spec.input.size
    if model.spec.task == "classification":
        raise UsageError(f"--tta full is for models that segment, '{name}' classifies: use --tta turns")
    if size is not None:
        raise UsageError(
            f"--tta full needs other sizes, '{name}' takes {size[0]} x {size[1]} only: use --tta turns"
        )
    wanted = model.spec.input
    scales: tuple[float, ...] = SCALES
    if mpp is not None and wanted.mpp_range is not None:
        scales = tuple(scale for scale in SCALES if wanted.takes_mpp(mpp / scale))
    if left_out := [f"{scale:g}" for scale in SCALES if scale not in scales]:
        logger.warning(
            "--tta full: without %s times the resolution, %s is made for %g to %g microns per pixel",
            " and ".join(left_out),
            name,
            *(wanted.mpp_range or ()),
        )
    return AugmentedModel(model, scales)
