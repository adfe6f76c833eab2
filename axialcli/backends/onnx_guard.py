"""The guard: a foreign model is loaded and run in a child process before this process touches it."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from axialcli.backends import onnx_child
from axialcli.errors import ModelError

MAX_HEADER_BYTES = 1 << 16
MAX_ANSWER_BYTES = 2 << 30


@dataclass(frozen=True, kw_only=True)
class GuardLimits:
    """What a trial may take. load_s, run_s: seconds by the clock; cpu_s: of processors, in all.

    memory_bytes: address space, besides four times the model. threads: that compute.
    """

    load_s: float = 120.0
    run_s: float = 120.0
    cpu_s: int = 600
    memory_bytes: int = 6 << 30
    threads: int = 1


class Guard:
    """A model in a child process with limits on memory and time, which opens no file. A context manager.

    model: self-contained, as `OnnxFile.to_bytes` gives it. where: names the file in errors.
    """

    def __init__(self, model: bytes, where: str, limits: GuardLimits | None = None) -> None:
        self._model, self._where, self._limits = model, where, limits or GuardLimits()

    def __enter__(self) -> Guard:
        """Loads the model. Raises ModelError where it is refused, crashes, hangs or needs too much."""
        # Isolated from the folder that it is started in: no file lying there is imported.
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(Path(onnx_child.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OPENBLAS_NUM_THREADS": "1"},
        )
        limits = self._limits
        settings = {
            "memory_bytes": limits.memory_bytes + 4 * len(self._model),
            "cpu_s": limits.cpu_s,
            "threads": limits.threads,
        }
        try:
            header, _ = self._ask(settings, self._model, limits.load_s)
            if "error" in header:
                raise ModelError(f"{self._where}: ONNX Runtime refuses it ({header['error']!s:.90})")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def run(self, image: NDArray[Any]) -> NDArray[Any] | str:
        """The model's first output for one input, or the reason, in one line, why it has none.

        image: of the shape and type that the model takes. Raises ModelError where the run crashes or
        hangs; the guard is then of no further use.
        """
        image = np.ascontiguousarray(image)
        header, data = self._ask(
            {"dtype": image.dtype.str, "shape": image.shape}, image.tobytes(), self._limits.run_s
        )
        if "error" in header:
            return str(header["error"])
        return np.frombuffer(data, np.dtype(header["dtype"])).reshape(header["shape"])

    def _ask(self, header: Mapping[str, Any], data: bytes, allowed_s: float) -> tuple[dict[str, Any], bytes]:
        """Sends one message and waits for its answer. Raises ModelError where none comes."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with self._killed_after(allowed_s) as timer:
            try:
                onnx_child.send(self._child.stdin, dict(header), data)
                return _receive(self._child.stdout)
            except (EOFError, OSError, ValueError, KeyError, TypeError) as error:
                self._child.kill()
                code = self._child.wait()
                reason = _reason(code, None if timer.is_alive() else allowed_s)
                raise ModelError(f"{self._where}: refused, its trial run {reason}") from error

    @contextmanager
    def _killed_after(self, allowed_s: float) -> Iterator[Timer]:
        timer = Timer(allowed_s, self._child.kill)
        timer.daemon = True
        timer.start()
        try:
            yield timer
        finally:
            timer.cancel()

    def _end(self) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                _close(pipe)


def _close(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        # Closing writes what is left, to a child that is gone: nobody needs it.
        return


def _receive(source: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """An answer of the child, which may say anything: sizes are bounded, only numbers are arrays."""
    (length,) = struct.unpack("<Q", _exactly(source, 8, 8))
    header = json.loads(_exactly(source, length, MAX_HEADER_BYTES))
    data = _exactly(source, header["bytes"], MAX_ANSWER_BYTES)
    if "dtype" in header and np.dtype(header["dtype"]).kind not in "fiub":
        raise ValueError(f"an array of {header['dtype']!r:.40}")
    return header, data


def _exactly(source: IO[bytes], count: int, most: int) -> bytes:
    if not 0 <= count <= most:
        raise ValueError(f"a message of {count} bytes")
    data = source.read(count)
    if len(data) != count:
        raise EOFError
    return data


def _reason(code: int, allowed_s: float | None) -> str:
    """How a trial ended. allowed_s: the time that ran out, if it did."""
    if allowed_s is not None:
        return f"took more than {allowed_s:g} s"
    if code < 0:
        return f"crashed ({signal.strsignal(-code) or -code})"
    return f"ended with code {code}"
