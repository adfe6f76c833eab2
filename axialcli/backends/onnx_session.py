"""ONNX Runtime sessions: which processor runs them, their settings, and what their errors mean."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime as ort
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as state

from axialcli.backends.memory import ADVICE, speaks_of_memory
from axialcli.config import Device
from axialcli.errors import AllocationError, ModelError, UsageError

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

ERRORS = (
    state.EPFail,
    state.EngineError,
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.ModelLoaded,
    state.NoModel,
    state.NoSuchFile,
    state.NotImplemented,
    state.RuntimeException,
    RuntimeError,
    ValueError,
)
"""All that ONNX Runtime raises: its own, which have no common base, and Python's where arrays are bound."""

SILENT = 4
"""Of ONNX Runtime's levels of messages: errors are raised, and are not written over the progress bar too."""

logger = logging.getLogger("axial")


@contextlib.contextmanager
def ort_errors(where: str, doing: str) -> Iterator[None]:
    """Turns what ONNX Runtime raises into a ModelError, or an AllocationError where memory ran out.

    doing: what failed, behind the file's name.
    """
    try:
        yield
    except ERRORS as error:
        text = " ".join(str(error).split())
        if speaks_of_memory(text):
            raise AllocationError(f"out of memory: {ADVICE}") from error
        # What stands before is the node's place in the source of ONNX Runtime.
        reason = text.rpartition("Status Message: ")[2].rpartition(" : ")[2]
        raise ModelError(f"{where}: {doing} ({reason:.100})") from error


def choose_device(name: Device, *, tensorrt: bool) -> torch.device:
    """Where ONNX Runtime computes: auto is CUDA where it is really there, the CPU otherwise.

    Raises UsageError for a device that ONNX Runtime does not have here.
    """
    # The library lists what it was built with, whether there is such a device or not.
    there = torch.cuda.is_available()
    built = (TENSORRT if tensorrt else CUDA) in ort.get_available_providers()
    if name == "mps":
        raise UsageError("--device mps: ONNX models run on cpu or cuda")
    if tensorrt and (name == "cpu" or not there):
        raise UsageError("TensorRT needs a cuda device" + ("" if there else "; there is none here"))
    if name == "cuda" and not there:
        raise UsageError("there is no cuda device here")
    if name == "cpu" or not there:
        return torch.device("cpu")
    if not built:
        if name == "cuda" or tensorrt:
            raise UsageError(
                f"this onnxruntime has no {TENSORRT if tensorrt else CUDA}: install onnxruntime-gpu"
            )
        logger.warning("the GPU is not used: this onnxruntime has no CUDA; install onnxruntime-gpu")
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def first_provider(device: torch.device, *, tensorrt: bool) -> str:
    """The name of the provider that is meant to run a model on a device."""
    if device.type == "cpu":
        return CPU
    return TENSORRT if tensorrt else CUDA


def make_session(model: bytes, device: torch.device, *, tensorrt: bool, where: str) -> ort.InferenceSession:
    """A session for a checked, self-contained model.

    Raises ModelError where ONNX Runtime does not take it, AllocationError out of memory.
    """
    ort.set_default_logger_severity(SILENT)
    if device.type == "cuda":
        _preload()
    with ort_errors(where, "ONNX Runtime refuses it"):
        return ort.InferenceSession(
            model,
            _options(torch.get_num_threads()),
            providers=_providers(device, tensorrt=tensorrt),
            # Without these it prints and goes on in its own ways, or as the model wishes.
            enable_fallback=0,
            read_config_from_model=0,
        )


def engine_cache() -> Path:
    """The folder for TensorRT's engines, within the user's cache folder; made where it is missing."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(home) if Path(home).is_absolute() else Path.home() / ".cache"
    folder = base / "axial" / "tensorrt"
    # An engine is code: nobody else may write there.
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.use_deterministic_compute = True
    # A pattern is a second set of buffers, made in the second run of a shape: after memory was planned.
    options.enable_mem_pattern = False
    # Threads that wait must not spin: reading and compression share the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Else bytes that begin like ONNX Runtime's own format would be read by another parser.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


def _providers(device: torch.device, *, tensorrt: bool) -> list[tuple[str, dict[str, Any]]]:
    """Providers in order, with their options."""
    if device.type == "cpu":
        return [(CPU, {})]
    index = device.index or 0
    cuda = {
        "device_id": index,
        # TF32 has ten bits, and backends would disagree.
        "use_tf32": 0,
        # A search by trial differs from run to run, and every shape of tile would pay for its own.
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }
    chain: list[tuple[str, dict[str, Any]]] = [(CUDA, cuda), (CPU, {})]
    if tensorrt:
        folder = str(engine_cache())
        cached = {
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": folder,
        }
        chain.insert(0, (TENSORRT, {"device_id": index, **cached}))
    return chain


def _preload() -> None:
    """Loads CUDA's and cuDNN's libraries from torch's own wheels, where ONNX Runtime can do that."""
    preload = getattr(ort, "preload_dlls", None)
    if preload is None:
        return
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        preload()
    if said.getvalue():
        logger.debug("preloading for ONNX Runtime: %s", " ".join(said.getvalue().split()))
