"""The ONNX backend: runs a checked model in ONNX Runtime, on the device that the tiles are on.

Shapes: B batch, C channels, N channels of the answer, H height, W width.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from axialcli.backends.model import Model
from axialcli.backends.onnx_answer import AnswerForm
from axialcli.backends.onnx_session import CPU, first_provider, make_session, ort_errors
from axialcli.errors import ModelError

ELEMENTS = {
    "tensor(float)": (torch.float32, np.float32),
    "tensor(float16)": (torch.float16, np.float16),
    "tensor(uint8)": (torch.uint8, np.uint8),
}
"""The types of input that are run, as ONNX Runtime names them."""

logger = logging.getLogger("axial")


class OnnxModel(Model):
    """A network as an ONNX graph.

    A graph with float32 or float16 input sees normalised values. A graph with uint8 input does its own
    normalisation: it sees the pixels as they were read, 0..255, whatever mean and std the description
    has. A graph of a fixed batch is run as often as it takes, the last batch filled up.
    """

    backend = "onnx"

    def __init__(
        self, *, model: bytes, form: AnswerForm, device: torch.device, tensorrt: bool = False, sha256: str
    ) -> None:
        """model: self-contained and tried already. form: what it answers, with its description.

        Raises ModelError where ONNX Runtime does not take it, LimitError out of memory.
        """
        self.where, self._form = form.where, form
        self._session = make_session(model, device, tensorrt=tensorrt, where=self.where)
        self._provider: str = self._session.get_providers()[0]
        wanted = first_provider(device, tensorrt=tensorrt)
        if self._provider != wanted:
            # It leaves out what it cannot load, and would say so on stderr alone.
            logger.warning("%s: ONNX Runtime cannot load %s; %s runs it", self.where, wanted, self._provider)
        if self._provider == CPU:
            device = torch.device("cpu")
        image = self._session.get_inputs()[0]
        self._input, self._output = image.name, self._session.get_outputs()[0].name
        self._element, self._numpy = ELEMENTS[image.type]
        first = image.shape[0] if image.shape else None
        # Some graphs name their batch as if it were free, and take one size of it all the same.
        self._batch: int | None = (
            first if isinstance(first, int) and first > 0 else form.spec.config.get("batch")
        )
        floats = self._element if self._element.is_floating_point else torch.float32
        super().__init__(spec=form.spec, device=device, dtype=floats, sha256=sha256)
        if self.spec.input.layout == "NCHW":
            self.memory_format = torch.contiguous_format

    def run(self, images_BCHW: Tensor) -> Tensor:
        """Normalised images in the model's dtype and device -> logits [B, N, H, W], of a classifier [B, N].

        A network that answers probabilities gives those; one that answers labels 1.0 for the label's
        class. Raises ModelError where the network does not take the size, LimitError out of memory.
        """
        size = (images_BCHW.shape[2], images_BCHW.shape[3])
        if self._element == torch.uint8:
            images_BCHW = self._pixels(images_BCHW)
        if self.spec.input.layout == "NHWC":
            images_BCHW = images_BCHW.permute(0, 2, 3, 1)
        images = images_BCHW.contiguous()
        step = self._batch or len(images)
        parts = [self._infer(images[at : at + step]) for at in range(0, len(images), step)]
        logits = [self._form.to_logits(part, size) for part in parts]
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    def runtime(self) -> dict[str, str | int]:
        """What else decides the last bits of the numbers: the libraries' versions, threads, the provider."""
        return {
            **super().runtime(),
            "onnxruntime": str(ort.__version__),
            "provider": self._provider,
            "threads": int(self._session.get_session_options().intra_op_num_threads),
        }

    def _pixels(self, images_BCHW: Tensor) -> Tensor:
        """Undoes the normalisation: uint8 in 0..255, exactly the pixels where they were uint8."""
        source = self.spec.input
        std_C, mean_C = (
            images_BCHW.new_tensor(v, dtype=torch.float32)[:, None, None] for v in (source.std, source.mean)
        )
        return images_BCHW.float().mul(std_C).add_(mean_C).mul_(255).round_().clamp_(0, 255).to(torch.uint8)

    def _infer(self, images: Tensor) -> Tensor:
        """One run, without a copy on either side."""
        given = len(images)
        if self._batch is not None and given < self._batch:
            images = torch.cat([images, images[-1:].expand(self._batch - given, -1, -1, -1)])
        binding = self._session.io_binding()
        kind, index = self.device.type, self.device.index or 0
        if kind == "cuda":
            # ONNX Runtime has a stream of its own, which does not wait for torch's.
            torch.cuda.current_stream(self.device).synchronize()
        with ort_errors(self.where, f"does not take pictures of {_shape(images)}"):
            binding.bind_input(self._input, kind, index, self._numpy, tuple(images.shape), images.data_ptr())
            binding.bind_output(self._output, kind, index)
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        return _tensor(binding.get_outputs()[0], self.where)[:given]


def _tensor(value: Any, where: str) -> Tensor:
    """ONNX Runtime's numbers as a tensor that shares them."""
    if not value.is_tensor():
        raise ModelError(f"{where}: does not answer one array of numbers")
    return from_dlpack(value)


def _shape(images: Tensor) -> str:
    return "[" + ", ".join(map(str, images.shape)) + "]"
