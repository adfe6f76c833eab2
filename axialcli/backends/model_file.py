"""Reading and writing model files: weights in safetensors, the description in its metadata."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from axialcli.backends.spec import METADATA_KEY, ModelSpec
from axialcli.errors import ModelError

MAX_SIDECAR_BYTES = 16 << 20


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
    if not path.is_file():
        raise ModelError(f"{path}: no such model file; 'axial models list' shows the names")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in (".pt", ".pth"):
        return _read_pickle(path)
    raise ModelError(f"{path}: not a kind of model that axial reads; give a .safetensors, .pt or .pth file")


def read_spec(path: Path) -> ModelSpec:
    """The description alone. Raises ModelError."""
    if path.suffix != ".safetensors":
        return _read_sidecar(path)
    try:
        with safe_open(path, framework="pt") as file:
            return _spec_of(path, file.metadata())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a whole safetensors file ({error!s:.80})") from error


def file_hash(path: Path) -> str:
    """sha256 of the file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_safetensors(path: Path) -> tuple[ModelSpec, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            spec = _spec_of(path, file.metadata())
            return spec, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a whole safetensors file ({error!s:.80})") from error


def _spec_of(path: Path, metadata: Mapping[str, str] | None) -> ModelSpec:
    if not metadata or METADATA_KEY not in metadata:
        return _read_sidecar(path)
    return ModelSpec.from_json(metadata[METADATA_KEY], str(path))


def _read_sidecar(path: Path) -> ModelSpec:
    sidecar = path.with_name(path.name + ".json")
    if not sidecar.is_file():
        raise ModelError(f"{path}: says nothing about its model, and there is no {sidecar.name} beside it")
    if sidecar.stat().st_size > MAX_SIDECAR_BYTES:
        raise ModelError(f"{sidecar}: larger than any model's description")
    try:
        return ModelSpec.from_json(sidecar.read_text(encoding="utf-8"), str(sidecar))
    except UnicodeDecodeError as error:
        raise ModelError(f"{sidecar}: the model's description is not text") from error


def _read_pickle(path: Path) -> tuple[ModelSpec, dict[str, Tensor]]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path}: refused, it carries code and not only weights") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: not a whole PyTorch file ({error!s:.80})") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ModelError(f"{path}: holds something else than named weights")
    return _read_sidecar(path), weights
