"""Reading and writing model files: their weights, and the description in their metadata or beside them."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from axialcli.backends.files import is_readable, read_sidecar, unreadable
from axialcli.backends.spec import METADATA_KEY, ModelSpec
from axialcli.backends.torchscript_model import is_torchscript
from axialcli.backends.wsinfer import wsinfer_files, wsinfer_hash, wsinfer_spec
from axialcli.errors import ModelError
from axialcli.hints import ModelHints

UNREADABLE = (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError)
"""What safetensors raises for damaged files, and for kinds of numbers that torch does not have."""


def write_model(path: Path, spec: ModelSpec, weights: Mapping[str, Tensor]) -> None:
    """Writes a complete model file; weights are stored as float16, counters are left out."""
    stored = {
        name: tensor.detach().cpu().half().contiguous()
        for name, tensor in weights.items()
        if tensor.is_floating_point()
    }
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(save(stored, metadata={METADATA_KEY: spec.to_json()}))
    temporary.replace(path)


def read_model(path: Path) -> tuple[ModelSpec, dict[str, Tensor]]:
    """The description and the weights, in their stored dtype, of a .safetensors, .pt or .pth file.

    A .pt or .pth file holds tensors only and needs its description beside it, in `<file>.json`.
    Raises ModelError for anything else, and for a file that carries code.
    """
    _check_readable(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in (".pt", ".pth"):
        return _read_pickle(path)
    raise ModelError(
        f"{path}: not a kind of model that axial reads; give a .safetensors, .onnx, .pt or .pth file"
    )


def read_spec(path: Path, hints: ModelHints | None = None) -> ModelSpec:
    """The description alone, without trust in the file.

    hints: what an .onnx file from elsewhere does not say itself. Raises ModelError, UsageError for hints
    that contradict the model or that nothing needs.
    """
    _check_readable(path)
    hints = hints or ModelHints()
    if path.suffix == ".onnx":
        # Slow to import, and most models are of another kind.
        from axialcli.backends.onnx_load import describe_onnx

        return describe_onnx(path, hints)
    hints.refuse(str(path))
    if wsinfer_files(path):
        return wsinfer_spec(path)
    if path.suffix != ".safetensors":
        return _read_sidecar(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
    except UNREADABLE as error:
        raise ModelError(f"{path}: not a whole safetensors file ({error!s:.80})") from error
    return spec_of(path, metadata)


def carries_code(path: Path) -> bool:
    """Whether a model is TorchScript, whose code would be run. Raises ModelError where it cannot be read."""
    return wsinfer_files(path) is not None or is_torchscript(path)


def count_parameters(path: Path) -> int | None:
    """How many numbers the weights of a model file hold; None of TorchScript, where only code knows.

    Raises ModelError.
    """
    if carries_code(path):
        return None
    if path.suffix == ".onnx":
        from axialcli.backends.onnx_file import read_onnx

        return read_onnx(path).parameters()
    return sum(tensor.numel() for tensor in read_model(path)[1].values())


def file_hash(path: Path) -> str:
    """sha256 of the file, and of all other files that decide its numbers, in hexadecimal.

    Raises ModelError where it cannot be read.
    """
    if path.suffix == ".onnx":
        from axialcli.backends.onnx_file import onnx_hash

        return onnx_hash(path)
    if wsinfer_files(path):
        return wsinfer_hash(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def _check_readable(path: Path) -> None:
    # safetensors calls every file that it cannot open missing, so it is opened here once before.
    if not is_readable(path):
        raise ModelError(f"{path}: no such model file; 'axial models list' shows the names")


def _read_safetensors(path: Path) -> tuple[ModelSpec, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except UNREADABLE as error:
        raise ModelError(f"{path}: not a whole safetensors file ({error!s:.80})") from error
    return spec_of(path, metadata), weights


def spec_of(path: Path, metadata: Mapping[str, str] | None) -> ModelSpec:
    """The description in a file's metadata, or beside it in `<file>.json`. Raises ModelError."""
    if not metadata or METADATA_KEY not in metadata:
        return _read_sidecar(path)
    return ModelSpec.from_json(metadata[METADATA_KEY], str(path))


def _read_sidecar(path: Path) -> ModelSpec:
    sidecar = path.with_name(path.name + ".json")
    if not is_readable(sidecar):
        raise ModelError(f"{path}: says nothing about its model, and there is no {sidecar.name} beside it")
    try:
        text = read_sidecar(sidecar).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{sidecar}: the model's description is not text") from error
    return ModelSpec.from_json(text, str(sidecar))


def _read_pickle(path: Path) -> tuple[ModelSpec, dict[str, Tensor]]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path}: refused, it carries code and not only weights") from error
    except Exception as error:  # a damaged file makes torch.load raise anything at all
        raise ModelError(f"{path}: not a whole PyTorch file ({_first_line(error)})") from error
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise ModelError(f"{path}: holds something else than named weights")
    return _read_sidecar(path), weights


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:80]
