"""Backends: what runs a network. `load_model` is the only door."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from axialcli.backends.model import Model
from axialcli.backends.model_file import file_hash, read_model
from axialcli.backends.torch_model import TorchModel
from axialcli.backends.zoo import DEFAULT_MODEL, find_model
from axialcli.config import Device, Dtype, check_choice
from axialcli.errors import UsageError

Backend = Literal["auto", "torch", "onnx", "tensorrt"]


def load_model(
    name_or_path: str | Path = DEFAULT_MODEL,
    *,
    backend: Backend = "auto",
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> Model:
    """A model of the zoo by its name, or a model file by its path, ready to predict.

    backend: auto, torch, onnx (what runs .onnx files) or tensorrt. device: auto takes cuda, then mps,
    then cpu. dtype: auto is float32; .onnx files compute in the one that they were made for.
    Raises ModelError where the file is missing, damaged, unsafe or not understood, UsageError for
    a device that is not there.
    """
    check_choice("device", device, Device)
    check_choice("dtype", dtype, Dtype)
    check_choice("backend", backend, Backend)
    path = find_model(name_or_path)
    if (path.suffix == ".onnx") != (backend in ("onnx", "tensorrt")) and backend != "auto":
        raise UsageError(f"backend is '{backend}', which does not run {path.name}: leave it at auto")
    if path.suffix == ".onnx":
        # Slow to import, and most models are of another kind.
        from axialcli.backends.onnx_load import load_onnx

        return load_onnx(path, device=device, dtype=dtype, tensorrt=backend == "tensorrt")
    spec, weights = read_model(path)
    chosen = _device(device)
    if chosen.type == "cuda" and dtype in ("auto", "float32"):
        # Convolutions of float32 are otherwise rounded to ten bits there, and engines would disagree.
        torch.backends.cudnn.allow_tf32 = False
    return TorchModel(
        spec=spec,
        weights=weights,
        device=chosen,
        dtype=torch.float32 if dtype == "auto" else getattr(torch, dtype),
        sha256=file_hash(path),
        where=str(path),
    )


def _device(name: Device) -> torch.device:
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    if not present[name]:
        raise UsageError(f"there is no {name} device here")
    return torch.device(name)


__all__ = ["DEFAULT_MODEL", "Model", "load_model"]
