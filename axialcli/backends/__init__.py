"""Backends: what runs a network. `load_model` is the only door."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from axialcli.backends.model import Model
from axialcli.backends.model_file import carries_code, file_hash, read_model, read_spec
from axialcli.backends.torch_model import TorchModel
from axialcli.backends.torchscript_model import TorchScriptModel, is_torchscript, read_torchscript
from axialcli.backends.wsinfer import load_wsinfer, wsinfer_files
from axialcli.backends.zoo import DEFAULT_MODEL, find_model
from axialcli.config import Backend, Device, Dtype, check_choice
from axialcli.errors import UsageError
from axialcli.hints import ModelHints

logger = logging.getLogger("axial")


def load_model(
    name_or_path: str | Path = DEFAULT_MODEL,
    *,
    backend: Backend = "auto",
    device: Device = "auto",
    dtype: Dtype = "auto",
    hints: ModelHints | None = None,
    trust: bool = False,
) -> Model:
    """A model of the zoo by its name, or a model file by its path, ready to predict.

    A path may also be the folder of a model of WSInfer. backend: auto, torch, onnx (what runs .onnx
    files) or tensorrt. device: auto takes cuda, then mps, then cpu. dtype: auto is float32; .onnx files
    compute in the one that they were made for. hints: what an .onnx file or a checkpoint from elsewhere
    does not say itself. trust: run the code that a TorchScript file carries.
    Raises ModelError where the file is missing, damaged, unsafe or not understood, UsageError for
    a device that is not there, and for hints that contradict the model.
    """
    check_choice("device", device, Device)
    check_choice("dtype", dtype, Dtype)
    check_choice("--backend", backend, Backend)
    hints = hints or ModelHints()
    number = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    path = find_model(name_or_path)
    is_onnx = path.suffix == ".onnx"
    if backend != "auto" and is_onnx != (backend in ("onnx", "tensorrt")):
        raise UsageError(f"--backend is '{backend}', which does not run {path}: leave it at auto")
    if trust and not carries_code(path):
        logger.warning("--trust-model: no effect, %s carries no code", path)
    if is_onnx:
        # Slow to import, and most models are of another kind.
        from axialcli.backends.onnx_load import load_onnx

        return load_onnx(path, device=device, dtype=dtype, tensorrt=backend == "tensorrt", hints=hints)
    if carries_code(path):
        hints.refuse(str(path))
    if wsinfer_files(path):
        return load_wsinfer(path, device=_device(device, dtype), dtype=number, trust=trust)
    if is_torchscript(path):
        data = read_torchscript(path, trust=trust)
        return TorchScriptModel(
            data,
            spec=read_spec(path),
            device=_device(device, dtype),
            dtype=number,
            sha256=file_hash(path),
            where=str(path),
        )
    spec, weights = read_model(path, hints)
    for note in spec.notes:
        logger.info("%s: %s", path, note)
    return TorchModel(
        spec=spec,
        weights=weights,
        device=_device(device, dtype),
        dtype=number,
        sha256=file_hash(path),
        where=str(path),
    )


def _device(name: Device, dtype: Dtype) -> torch.device:
    """The device of that name, ready for numbers of that kind."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kind = next(kind for kind, there in present.items() if there) if name == "auto" else name
    if not present[kind]:
        raise UsageError(f"there is no {kind} device here")
    if kind == "cuda" and dtype in ("auto", "float32"):
        # Convolutions of float32 are otherwise rounded to ten bits there, and engines would disagree.
        torch.backends.cudnn.allow_tf32 = False
    return torch.device(kind)


__all__ = ["DEFAULT_MODEL", "Model", "load_model"]
