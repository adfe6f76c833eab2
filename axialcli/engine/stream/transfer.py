"""Pixels on their way to the device and results on their way back, both beside the computation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Uploader:
    """Brings arrays to the device.

    On a GPU each copy starts at once, in the thread that asks for it, from pinned memory and on a
    stream of its own; elsewhere nothing has to move.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.beside: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self.beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start(self, array: NDArray[Any]) -> Upload:
        """The array on its way."""
        return Upload(array, self)


class Upload:
    """An array on its way to the device."""

    def __init__(self, array: NDArray[Any], uploader: Uploader) -> None:
        self._tensor = torch.from_numpy(array)
        self._copied: torch.cuda.Event | None = None
        if uploader.beside is not None:
            # Kept until the copy is done: pinned memory may be given to somebody else afterwards.
            self._pinned = self._tensor.pin_memory()
            with torch.cuda.stream(uploader.beside):
                self._tensor = self._pinned.to(uploader.device, non_blocking=True)
                self._copied = uploader.beside.record_event()

    def tensor(self) -> Tensor:
        """The array, for work that is queued from now on."""
        if self._copied is not None:
            stream = torch.cuda.current_stream(self._tensor.device)
            stream.wait_event(self._copied)
            self._tensor.record_stream(stream)
        return self._tensor


class Download:
    """A tensor on its way back; what is computed next does not wait for it."""

    def __init__(self, tensor: Tensor) -> None:
        self._copied: torch.cuda.Event | None = None
        if tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._copied = torch.cuda.current_stream(tensor.device).record_event()
        else:
            # A copy here too: the tensor's memory may be written over before anybody looks.
            self._host = tensor.cpu() if tensor.device.type != "cpu" else tensor.clone()

    def array(self) -> NDArray[Any]:
        """The numbers; waits until they are there."""
        if self._copied is not None:
            self._copied.synchronize()
        return np.asarray(self._host.numpy())
