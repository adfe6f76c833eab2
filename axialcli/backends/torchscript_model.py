"""The TorchScript backend: runs a network that carries its own code, for those who trust it.

Shapes: B batch, C channels, K classes, H height, W width.
"""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from axialcli.backends.files import is_readable, read_limited, unreadable
from axialcli.backends.memory import memory_is_a_limit
from axialcli.backends.model import Model
from axialcli.backends.spec import MAX_SIZE, ModelSpec
from axialcli.errors import ModelError

PROBE = 64
"""Least side of the picture that a network of any size is tried on, in pixels."""

MAX_BYTES = 16 << 30


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive, told without running or unpickling anything of it.

    Raises ModelError where it cannot be read.
    """
    if not is_readable(path):
        return False
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                return False
            with zipfile.ZipFile(file) as archive:
                # Plain weights have neither code nor constants.
                return any(name.split("/")[1:] == ["constants.pkl"] for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        # What zipfile raises for archives that are damaged or of another kind: PyTorch writes no such ones.
        return False
    except OSError as error:
        raise unreadable(path, error) from error


def read_torchscript(path: Path, *, trust: bool) -> bytes:
    """The bytes of a TorchScript file. Raises ModelError without trust, and where it cannot be read."""
    if not is_readable(path):
        raise ModelError(f"{path}: no such model file")
    if not trust:
        raise ModelError(
            f"{path}: refused, a TorchScript file carries code that would be run; "
            "give --trust-model if you trust whoever made it"
        )
    return read_limited(path, MAX_BYTES, too_large=f"larger than {MAX_BYTES >> 30} GiB")


class TorchScriptModel(Model):
    """A network of TorchScript.

    Where the description's architecture has `resize`, height and width, pictures are brought to that
    size before the network sees them: bilinear with antialiasing, as torchvision's Resize does it, but
    without rounding to whole grey levels in between as Pillow would; results differ by at most one level.
    """

    backend = "torchscript"

    def __init__(
        self,
        data: bytes,
        *,
        spec: ModelSpec,
        device: torch.device,
        dtype: torch.dtype,
        sha256: str,
        where: str,
    ) -> None:
        """data: of a trusted file: its code is run from here on. where: names it in errors.

        Raises ModelError where it is damaged or its answer does not fit the description, LimitError out
        of memory.
        """
        super().__init__(spec=spec, device=device, dtype=dtype, sha256=sha256)
        if spec.input.layout != "NCHW" or spec.output.activation == "labels":
            raise ModelError(f"{where}: TorchScript networks take NCHW and answer logits or probabilities")
        self._where, self._resize = where, _read_resize(spec, where)
        with memory_is_a_limit():
            self._module = _load(data, where).to(device, dtype)
        self._check()

    def run(self, images_BCHW: Tensor) -> Tensor:
        """Normalised images in the model's dtype and device -> logits [B, K, H, W], of a classifier [B, K].

        Raises ModelError where the answer is no tensor.
        """
        if self._resize is not None:
            # Not every device resizes half floats.
            resized_BCHW = F.interpolate(
                images_BCHW.float(), self._resize, mode="bilinear", align_corners=False, antialias=True
            )
            images_BCHW = resized_BCHW.to(self.dtype)
        # The optimiser rewrites the network after its first runs, and the last bits with it.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined] # documented, not listed
            answer = self._module(images_BCHW)
        if not isinstance(answer, Tensor):
            raise ModelError(f"{self._where}: the network answers a {type(answer).__name__}, not a tensor")
        if self.spec.task == "classification":
            return answer.reshape(len(images_BCHW), -1)
        return answer

    def _check(self) -> None:
        """Runs the network once, on a blank picture. Raises ModelError unless it answers as described."""
        spec = self.spec
        step = math.lcm(spec.input.multiple, spec.output.stride)
        side = -(-PROBE // step) * step
        height, width = spec.input.size or (side, side)
        images_BCHW = torch.zeros(
            (1, len(spec.input.channels), height, width), device=self.device, dtype=self.dtype
        )
        try:
            with memory_is_a_limit(), torch.inference_mode():
                answer = self.run(images_BCHW).float()
        except RuntimeError as error:
            raise ModelError(
                f"{self._where}: the network does not take {list(images_BCHW.shape)} ({_last_line(error)})"
            ) from error
        # One probability is that of class 1 alone.
        alone = spec.output.activation == "none" and len(spec.classes) == 2
        counts = [1] if spec.output.activation == "sigmoid" else [len(spec.classes), *[1] * alone]
        stride = spec.output.stride
        dense = spec.task == "segmentation"
        wanted = [[1, n, height // stride, width // stride] if dense else [1, n] for n in counts]
        if list(answer.shape) not in wanted:
            raise ModelError(
                f"{self._where}: the network answers {list(answer.shape)}, its description says {wanted[0]}"
            )
        if not answer.isfinite().all():
            raise ModelError(f"{self._where}: the network answers NaN or infinity to a blank picture")


def _load(data: bytes, where: str) -> Any:
    try:
        with warnings.catch_warnings():
            # torch recommends other formats to those who make models; these were made long ago.
            warnings.filterwarnings("ignore", r"`torch\.jit\.load` is", DeprecationWarning)
            module = torch.jit.load(io.BytesIO(data), map_location="cpu")  # type: ignore[no-untyped-call]
            return module.eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"{where}: not a whole TorchScript file ({_last_line(error)})") from error


def _read_resize(spec: ModelSpec, where: str) -> tuple[int, int] | None:
    said = spec.config.get("resize")
    if said is None:
        return None
    if (
        not isinstance(said, list)
        or len(said) != 2
        or not all(isinstance(side, int) and 1 <= side <= MAX_SIZE for side in said)
    ):
        raise ModelError(f"{where}: resize is {said!r:.40}, not a height and a width")
    if spec.task != "classification":
        raise ModelError(f"{where}: only pictures of a classifier can be resized")
    return said[0], said[1]


def _last_line(error: Exception) -> str:
    """TorchScript's errors begin with its own traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:80]
