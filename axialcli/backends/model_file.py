"""Reading and writing model files: their weights, and the description in their metadata or beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from axialcli.backends.checkpoint import (
    PICKLES,
    check_plain,
    describe_checkpoint,
    is_pickle,
    reaching,
    read_weights,
    translated,
    without_prefix,
)
from axialcli.backends.files import is_readable, read_sidecar, unreadable
from axialcli.backends.spec import METADATA_KEY, ModelSpec
from axialcli.backends.torchscript_model import is_torchscript
from axialcli.backends.wsinfer import wsinfer_files, wsinfer_hash, wsinfer_spec
from axialcli.errors import ModelError
from axialcli.hints import ModelHints
from axialcli.nn import ARCHITECTURES

GATHERED = ("running_mean", "running_var", "num_batches_tracked")
"""How weights end that no training step changes."""

UNREADABLE = (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError)
"""What safetensors raises for damaged files, and for kinds of numbers that torch does not have."""


def model_bytes(spec: ModelSpec, weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float16) -> bytes:
    """A complete model file; weights are stored in `dtype`, counters are left out.

    Raises ModelError where a weight is too large for that dtype.
    """
    stored = {
        name: tensor.detach().cpu().to(dtype).contiguous()
        for name, tensor in weights.items()
        if tensor.is_floating_point()
    }
    for name, tensor in stored.items():
        if not tensor.isfinite().all():
            raise ModelError(f"{spec.name}: {name} has numbers that {dtype} does not hold; store float32")
    return save(stored, metadata={METADATA_KEY: spec.to_json()})


def write_model(path: Path, spec: ModelSpec, weights: Mapping[str, Tensor]) -> None:
    """Writes a complete model file, as `model_bytes` makes it."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(model_bytes(spec, weights))
    temporary.replace(path)


def read_model(path: Path, hints: ModelHints | None = None) -> tuple[ModelSpec, dict[str, Tensor]]:
    """The description and the weights, in their stored dtype, of a .safetensors file or one of torch.save.

    What a file says itself comes first, then its description beside it, in `<file>.json`; of weights with
    neither, the family is told by keys and shapes, and hints say the rest. Raises ModelError for anything
    else, and for a file that carries code; UsageError for hints that contradict it, or that nothing needs.
    """
    _check_readable(path)
    hints = hints or ModelHints()
    if path.suffix == ".safetensors":
        said, weights = _read_safetensors(path)
    elif is_pickle(path):
        said, weights = None, read_weights(path)
    else:
        raise ModelError(
            f"{path}: not a kind of model that axial reads; give a .safetensors or .onnx file, or weights of "
            f"torch.save ({', '.join(PICKLES)})"
        )
    if said is None and not is_readable(_sidecar(path)):
        return describe_checkpoint(path, without_prefix(weights), hints)
    spec = _with_hints(path, spec_of(path, said), hints)
    return spec, translated(spec, weights) if said is None else weights


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
    if carries_code(path):
        hints.refuse(str(path))
        return wsinfer_spec(path) if wsinfer_files(path) else _read_sidecar(path)
    said = None
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                said = _metadata(file.metadata())
        except UNREADABLE as error:
            raise ModelError(f"{path}: not a whole safetensors file ({error!s:.80})") from error
    if said is None and not is_readable(_sidecar(path)):
        return read_model(path, hints)[0]
    return _with_hints(path, spec_of(path, said), hints)


def _with_hints(path: Path, spec: ModelSpec, hints: ModelHints) -> ModelSpec:
    """A description with the one hint that it may leave open. Raises UsageError for others."""
    config, _ = ARCHITECTURES.get(spec.architecture, (None, None))
    if hints.positions is None or config is None or not hasattr(config, "beyond"):
        hints.refuse(str(path))
        return spec
    replace(hints, positions=None).refuse(str(path))
    return reaching(spec, hints.positions)


def carries_code(path: Path) -> bool:
    """Whether a model is TorchScript, whose code would be run. Raises ModelError where it cannot be read."""
    return wsinfer_files(path) is not None or is_torchscript(path)


def count_parameters(path: Path) -> int | None:
    """How many numbers of a model file were learned; None of TorchScript, where only code knows.

    Running statistics of norms do not count. Raises ModelError.
    """
    if carries_code(path):
        return None
    if path.suffix == ".onnx":
        from axialcli.backends.onnx_file import read_onnx

        return read_onnx(path).parameters()
    return sum(tensor.numel() for name, tensor in read_model(path)[1].items() if not name.endswith(GATHERED))


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


def _read_safetensors(path: Path) -> tuple[str | None, dict[str, Tensor]]:
    """The description in the file, if there is one, and the weights."""
    try:
        with safe_open(path, framework="pt") as file:
            said = _metadata(file.metadata())
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except UNREADABLE as error:
        raise ModelError(f"{path}: not a whole safetensors file ({error!s:.80})") from error
    check_plain(weights, path)
    return said, weights


def _metadata(metadata: Mapping[str, str] | None) -> str | None:
    return (metadata or {}).get(METADATA_KEY)


def spec_of(path: Path, said: str | None) -> ModelSpec:
    """The description that a file carries, or that is beside it in `<file>.json`. Raises ModelError."""
    return _read_sidecar(path) if said is None else ModelSpec.from_json(said, str(path))


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _read_sidecar(path: Path) -> ModelSpec:
    sidecar = _sidecar(path)
    if not is_readable(sidecar):
        raise ModelError(f"{path}: says nothing about its model, and there is no {sidecar.name} beside it")
    try:
        text = read_sidecar(sidecar).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{sidecar}: the model's description is not text") from error
    return ModelSpec.from_json(text, str(sidecar))
