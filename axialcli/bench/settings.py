"""What `axial bench` is asked to measure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from axialcli.config import Device, Dtype, EngineName, check_choice
from axialcli.errors import UsageError

BenchBackend = Literal["torch", "compiled", "onnx"]

ENGINES: tuple[EngineName, ...] = ("stream", "tiles")
BACKENDS: tuple[BenchBackend, ...] = ("torch", "compiled", "onnx")

MIN_SIDE, MAX_SIDE = 64, 65536
"""Sides of a picture that is measured, in pixels."""

MIN_SECONDS, MAX_SECONDS = 1.0, 86_400.0


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """model: a name or a file. resolutions: sides of square pictures in pixels. engines, backends: which
    are measured; of the backends, "compiled" is torch.compile, and a stream runs on "torch" alone.
    seconds: the time for all of it. attention: measure kinds of attention instead of a model.

    Raises UsageError for values that make no sense.
    """

    model: str = "nuclei"
    resolutions: tuple[int, ...] = (1024, 2048, 4096)
    engines: tuple[EngineName, ...] = ENGINES
    backends: tuple[BenchBackend, ...] = BACKENDS
    device: Device = "auto"
    dtype: Dtype = "auto"
    seconds: float = 240.0
    attention: bool = False

    def __post_init__(self) -> None:
        check_choice("--device", self.device, Device)
        check_choice("--dtype", self.dtype, Dtype)
        for engine in self.engines:
            check_choice("--engine", engine, EngineName)
        for backend in self.backends:
            check_choice("--backend", backend, BenchBackend)
        for name, values in (
            ("--resolution", self.resolutions),
            ("--engine", self.engines),
            ("--backend", self.backends),
        ):
            if not values or len(set(values)) < len(values):
                raise UsageError(f"{name}: give one or several, each once")
        for side in self.resolutions:
            if not MIN_SIDE <= side <= MAX_SIDE:
                raise UsageError(f"--resolution is {side}: choose {MIN_SIDE} to {MAX_SIDE} pixels")
        if not self.pairs:
            raise UsageError("--engine stream runs on --backend torch alone: leave one of the two out")
        if not (math.isfinite(self.seconds) and MIN_SECONDS <= self.seconds <= MAX_SECONDS):
            raise UsageError(
                f"--seconds is {self.seconds:g}: choose {MIN_SECONDS:.0f} to {MAX_SECONDS:.0f} seconds"
            )

    @property
    def pairs(self) -> list[tuple[EngineName, BenchBackend]]:
        """The engines with the backends that they run on."""
        return [
            (engine, backend)
            for engine in self.engines
            for backend in self.backends
            if engine == "tiles" or backend == "torch"
        ]
