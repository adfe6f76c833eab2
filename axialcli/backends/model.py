"""Model: images in, probabilities out, whatever runs the network.

Shapes: B batch, C channels, H height, W width, K classes. A model of volumes has the depth D before H,
wherever H is named.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from axialcli.backends.memory import memory_is_a_limit
from axialcli.backends.spec import ModelSpec
from axialcli.errors import ModelError
from axialcli.geometry import label_dtype

FULL_SCALE = {torch.uint8: 255.0, torch.uint16: 65535.0, torch.float32: 255.0, torch.float64: 255.0}


REPORTED = ("task", "architecture", "input", "output", "network_stride", "notes")
"""What a report says of a model's description."""


class Model(ABC):
    """A network with everything that has to happen before and behind it.

    spec: what the model file says. sha256: of that file. backend, device, dtype: what runs it.
    """

    backend: str
    network: nn.Module | None = None
    """The network itself, where its operators can be followed one by one."""

    memory_format = torch.channels_last
    """How the numbers lie that `normalise` makes."""

    def __init__(self, *, spec: ModelSpec, device: torch.device, dtype: torch.dtype, sha256: str) -> None:
        self.spec, self.device, self.dtype, self.sha256 = spec, device, dtype, sha256
        mean, std = (torch.tensor(v, dtype=torch.float32) for v in (spec.input.mean, spec.input.std))
        self._scale_C = (1 / std).to(device)
        self._shift_C = (-mean / std).to(device)
        if spec.input.takes_volumes:
            self.memory_format = torch.channels_last_3d

    @abstractmethod
    def run(self, images_BCHW: Tensor) -> Tensor:
        """The network alone: normalised images in the model's dtype and device -> logits.

        Where the model's activation is "none" these are probabilities already; where it is "labels",
        1.0 for the label's class and 0.0 for all others.
        """

    @overload
    def predict(self, images_BCHW: NDArray[np.generic], *, logits: bool = ...) -> NDArray[np.float32]: ...
    @overload
    def predict(self, images_BCHW: Tensor, *, logits: bool = ...) -> Tensor: ...

    def predict(
        self, images_BCHW: NDArray[np.generic] | Tensor, *, logits: bool = False
    ) -> NDArray[np.float32] | Tensor:
        """Probabilities, float32: [B, K, H, W] of a segmentation model, [B, K] of a classifier.

        images_BCHW: pixel values as they were read, uint8, uint16 or float (0..255; NaN and infinities
        count as 0), arrays in any strides and byte order. One channel is replicated for a model that
        wants three. A sigmoid model has one logit and two classes. logits: return the logits instead.
        Arrays give an array back, tensors a tensor on the model's device. Raises ModelError for wrong
        channels or dtype, LimitError out of memory.
        """
        if isinstance(images_BCHW, np.ndarray):
            return self.predict(_tensor(images_BCHW), logits=logits).cpu().numpy()
        with memory_is_a_limit(), torch.inference_mode():
            logits_BKHW = self.run(self.normalise(images_BCHW)).float()
            return logits_BKHW if logits else self.activate(logits_BKHW)

    def runtime(self) -> dict[str, str | int]:
        """What else decides the last bits of the numbers: the library's version, its threads."""
        return {"torch": str(torch.__version__), "threads": torch.get_num_threads()}

    def describe(self) -> dict[str, Any]:
        """For the report: which model this is, what runs it, and how its pixels and numbers were taken."""
        said = json.loads(self.spec.to_json())
        return {
            "name": self.spec.name,
            "sha256": self.sha256,
            "backend": self.backend,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            **{key: said[key] for key in REPORTED},
        }

    def activate(self, logits_BKHW: Tensor) -> Tensor:
        """Probabilities of logits, float32 [B, K, H, W] or [B, K]; one number makes two classes."""
        activation = self.spec.output.activation
        if activation == "softmax":
            return logits_BKHW.softmax(1)
        if activation == "labels" or (activation == "none" and logits_BKHW.shape[1] > 1):
            return logits_BKHW
        p_BKHW = logits_BKHW if activation == "none" else logits_BKHW.sigmoid()
        return torch.cat((1 - p_BKHW, p_BKHW), 1)

    def decide(self, probs_KHW: Tensor) -> Tensor:
        """The class of each pixel by the model's decision rule; ties go to the lower class.

        probs_KHW: [K, H, W] or [K, H, W, S], of a volume one plane at a time, or [K] of a picture that is one
        tile. Returns the same without K, in the mask's dtype: uint8, or uint16 where there are more than 256
        classes.
        """
        dtype: torch.dtype = getattr(torch, label_dtype(len(self.spec.classes)).name)
        if self.spec.output.threshold is not None:
            return (probs_KHW[1] >= self.spec.output.threshold).to(dtype)
        if len(probs_KHW) == 2:
            return (probs_KHW[1] > probs_KHW[0]).to(dtype)
        if probs_KHW.ndim == 1:
            return probs_KHW.argmax(0).to(dtype)
        if probs_KHW.stride(0) == 1:
            # argmax answers in int64: a few rows at a time, or it would outweigh the probabilities.
            starts = range(0, probs_KHW.shape[1], 32)
            return torch.cat([probs_KHW[:, y : y + 32].argmax(0).to(dtype) for y in starts])
        # Where a class is a plane of its own, argmax jumps from plane to plane for each pixel; to go class by
        # class takes a quarter of the time. torch fills no uint16.
        counted = torch.uint8 if dtype == torch.uint8 else torch.int32
        labels_HW = torch.zeros(probs_KHW.shape[1:], dtype=counted, device=probs_KHW.device)
        most_HW = probs_KHW[0]
        for label in range(1, len(probs_KHW)):
            labels_HW.masked_fill_(probs_KHW[label] > most_HW, label)
            most_HW = torch.maximum(most_HW, probs_KHW[label])
        return labels_HW.to(dtype)

    def decide_logits(self, logits_BKHW: Tensor) -> Tensor:
        """The class of each pixel of one picture, as `decide` finds it from the probabilities, outside ties.

        logits_BKHW: finite, float32 [1, K, H, W] or [1, K, H, W, S]. No probability is computed where the
        highest logit decides.
        """
        if self.spec.output.activation == "softmax" and self.spec.output.threshold is None:
            return self.decide(logits_BKHW[0])
        return self.decide(self.activate(logits_BKHW)[0])

    def normalise(self, images_BCHW: Tensor) -> Tensor:
        """Pixel values as `predict` takes them -> what the network sees, in the model's dtype and device.

        Grey is replicated for a model of three channels. Raises ModelError for wrong channels or dtype.
        """
        axes = 3 if self.spec.input.takes_volumes else 2
        if images_BCHW.ndim != axes + 2:
            raise ModelError(
                f"model '{self.spec.name}' takes {'volumes' if axes == 3 else 'pictures'}, "
                f"and not arrays of {images_BCHW.ndim} axes"
            )
        wanted, given = len(self.spec.input.channels), images_BCHW.shape[1]
        if given not in (wanted, 1) or (given == 1 and wanted not in (1, 3)):
            raise ModelError(
                f"model '{self.spec.name}' wants {wanted} channels ({', '.join(self.spec.input.channels)}), "
                f"the picture has {given}: choose them with --channels"
            )
        if images_BCHW.dtype not in FULL_SCALE:
            raise ModelError(f"pixels of type {images_BCHW.dtype} are not supported")
        scale_C = self._scale_C / FULL_SCALE[images_BCHW.dtype]
        images_BCHW = images_BCHW.to(self.device, non_blocking=True)
        if images_BCHW.dtype == torch.uint16:
            images_BCHW = images_BCHW.to(torch.int32)
        values_BCHW = images_BCHW.to(torch.float32, memory_format=self.memory_format)
        if images_BCHW.is_floating_point():
            values_BCHW = values_BCHW.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        values_BCHW = _scaled(values_BCHW, scale_C, self._shift_C)
        return values_BCHW.to(self.dtype, memory_format=self.memory_format)


def _scaled(values_BCHW: Tensor, scale_C: Tensor, shift_C: Tensor) -> Tensor:
    """values * scale + shift, channel by channel; may write over the values."""
    values_BHWC = values_BCHW.movedim(1, -1)
    if values_BHWC.is_contiguous() and values_BHWC.shape[-1] == len(scale_C):
        # A row at a time: broadcast along so few channels, torch computes number by number.
        width = values_BHWC.shape[-2]
        values_BHWC.flatten(0, -3).flatten(1).mul_(scale_C.repeat(width)).add_(shift_C.repeat(width))
        return values_BCHW
    ones = [1] * (values_BCHW.ndim - 2)
    return (values_BCHW * scale_C.view(-1, *ones)).add_(shift_C.view(-1, *ones))


def _tensor(images_BCHW: NDArray[np.generic]) -> Tensor:
    """The same pixels as a tensor, copied only where torch cannot share them."""
    if images_BCHW.dtype.kind not in "buif":
        raise ModelError(f"pixels of type {images_BCHW.dtype} are not supported")
    whole_steps = all(s >= 0 and s % images_BCHW.itemsize == 0 for s in images_BCHW.strides)
    if not (whole_steps and images_BCHW.dtype.isnative and images_BCHW.flags.writeable):
        images_BCHW = np.array(images_BCHW, dtype=images_BCHW.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(images_BCHW)
