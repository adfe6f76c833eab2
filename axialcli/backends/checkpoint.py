"""Checkpoints of public code: the weights in a pickle, and the description that their family gives them."""

from __future__ import annotations

import argparse
import math
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from axialcli.backends.class_entries import class_entries
from axialcli.backends.files import unreadable
from axialcli.backends.foreign_words import Words, whole_description
from axialcli.backends.spec import FORMAT, ModelSpec
from axialcli.errors import ModelError, UsageError
from axialcli.hints import FLAGS, Beyond, ModelHints
from axialcli.nn.families import Found, recognise

PICKLES = (".pt", ".pth", ".pth.tar", ".pt.tar", ".bin", ".ckpt")
"""How files of torch.save are called."""

WRAPPERS = ("state_dict_ema", "state_dict", "model_state_dict", "net", "model")
"""Under which keys training scripts save the weights; averaged ones, which are what was measured, first."""

PREFIX = "module."
"""What DataParallel puts before every key."""

TAKEN = {"range", "mean", "std", "classes", "colours", "mpp", "threshold", "positions"}
"""The hints that a family leaves open."""


def is_pickle(path: Path) -> bool:
    return path.name.endswith(PICKLES)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a file of torch.save, alone or in what a training script saves around them.

    Tensors and plain values are read, and an argparse.Namespace as what it is, values by name; code is not.
    Raises ModelError.
    """
    _check_container(path)
    try:
        # What torch says about a damaged or odd file is said below, in one line.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path}: refused, it carries code and not only weights") from error
    except Exception as error:  # a damaged file makes torch.load raise anything at all
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:80]
        raise ModelError(f"{path}: not a whole PyTorch file ({reason})") from error
    within = [saved[key] for key in WRAPPERS if key in saved] if isinstance(saved, dict) else []
    for candidate in (saved, *within):
        if _is_weights(candidate):
            check_plain(candidate, path)
            return without_prefix(candidate)
    keys = ", ".join(map(str, list(saved)[:4])) if isinstance(saved, dict) else type(saved).__name__
    raise ModelError(f"{path}: holds something else than named weights ({keys:.80})")


def _check_container(path: Path) -> None:
    """Raises ModelError for what torch.save never writes: other files, and zips that are more than they take.

    Packed members would be unpacked into memory, however large they claim to be.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start[:1] == b"\x80":
            return
        if start != b"PK\x03\x04":
            raise ModelError(f"{path}: not a PyTorch file")
        with zipfile.ZipFile(path) as archive:
            packed = any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist())
            claimed = sum(one.file_size for one in archive.infolist())
    except OSError as error:
        raise unreadable(path, error) from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        # The second is what zipfile raises for a packing that it does not know.
        raise ModelError(f"{path}: not a whole PyTorch file ({error!s:.80})") from error
    if packed or claimed > path.stat().st_size:
        raise ModelError(f"{path}: refused, its parts are packed, as torch.save never does")


def check_plain(weights: Mapping[str, Tensor], path: Path) -> None:
    """Raises ModelError for tensors that are not simply numbers in memory, such as views that repeat few."""
    for name, tensor in weights.items():
        plain = (
            not tensor.is_nested
            and tensor.layout == torch.strided
            and not tensor.is_quantized
            and tensor.device.type == "cpu"
            and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
        )
        if not plain:
            raise ModelError(f"{path}: {name:.80} is no plain tensor of numbers")


def without_prefix(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights by the names that the network itself gives them."""
    if all(name.startswith(PREFIX) for name in weights):
        return {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}
    return dict(weights)


def describe_checkpoint(
    path: Path, weights: Mapping[str, Tensor], hints: ModelHints
) -> tuple[ModelSpec, dict[str, Tensor]]:
    """What a checkpoint without a description is, told by its keys and shapes, and its weights as the network
    names them.

    Raises ModelError for a checkpoint of no family, UsageError for hints that contradict the family.
    """
    try:
        found = recognise(weights)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    if found is None:
        keys = ", ".join(sorted(weights)[:3])
        raise ModelError(
            f"{path}: says nothing about its model, there is no {path.name}.json beside it, and its keys are "
            f"those of no family that axial knows ({keys:.80} …)"
        )
    _check_hints(path, found, hints)
    notes = [f"read as {found.family}", *found.notes]
    notes += [note for name, note in found.unless.items() if not _given(hints, name)]
    words = Words(str(path), None, {}, hints)
    mean, std = (list(words.get("input", key) or getattr(found, key)) for key in ("mean", "std"))
    facts: dict[str, Any] = {
        "format": FORMAT,
        "name": _name(path),
        "task": found.task,
        "architecture": {"name": found.architecture, **found.config},
        "input": {
            "channels": ["red", "green", "blue"],
            "mean": mean * 3 if len(mean) == 1 else mean,
            "std": std * 3 if len(std) == 1 else std,
            "size": None if found.size is None else list(found.size),
            "multiple": found.multiple,
            "ask_mpp": found.ask_mpp and hints.mpp is None,
        },
        "output": {
            "activation": found.activation,
            "threshold": found.threshold if hints.threshold is None else hints.threshold,
            "stride": 1,
        },
        "classes": class_entries(words, found.classes),
        "network_stride": math.gcd(found.network_stride, *(found.size or ())),
        "notes": notes,
    }
    spec = whole_description(words.with_facts(facts), str(path))
    if hints.positions is not None:
        # Tiles of another size begin where the network's own strides do.
        spec = replace(reaching(spec, hints.positions), network_stride=found.network_stride)
    return spec, dict(found.weights)


def reaching(spec: ModelSpec, positions: Beyond) -> ModelSpec:
    """The description of a network whose positions reach beyond the size that it was trained at."""
    own = "its own size" if spec.input.size is None else "{} x {} pixels".format(*spec.input.size)
    note = f"positions beyond {own} by '{positions}': quality there is not proven"
    return replace(
        spec,
        config={**spec.config, "beyond": positions},
        input=replace(spec.input, size=None),
        notes=(*spec.notes, note),
    )


def translated(spec: ModelSpec, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as the described network names them: of a family's own checkpoint what is made of it."""
    try:
        found = recognise(weights)
    except ModelError:
        found = None
    return dict(found.weights if found is not None and found.architecture == spec.architecture else weights)


def _name(path: Path) -> str:
    ending = next(
        (one for one in sorted(PICKLES, key=len, reverse=True) if path.name.endswith(one)), path.suffix
    )
    return "".join(c if c.isprintable() else "?" for c in path.name.removesuffix(ending))[:200]


def _given(hints: ModelHints, name: str) -> bool:
    """Whether the user has said it; mean and std are a range in other words."""
    names = ("range", "mean") if name == "range" else (name,)
    return any(getattr(hints, one) is not None for one in names)


def _check_hints(path: Path, found: Found, hints: ModelHints) -> None:
    """Raises UsageError for hints that the family leaves no room for."""
    given = [name for name in FLAGS if getattr(hints, name) is not None and name not in TAKEN]
    if given:
        flags = ", ".join(dict.fromkeys(FLAGS[name] for name in given))
        raise UsageError(f"{path}: leave out {flags}, the weights are those of {found.family}")
    count = hints.classes if isinstance(hints.classes, int) else len(hints.classes or ())
    if count and count != found.classes:
        raise UsageError(f"{path}: --classes gives {count}, {found.family} answers {found.classes}")
    if hints.threshold is not None and found.classes != 2:
        raise UsageError(f"{path}: --threshold needs two classes, {found.family} answers {found.classes}")
    for name in ("mean", "std"):
        values = getattr(hints, name)
        if values is not None and len(values) not in (1, 3):
            raise UsageError(f"{path}: --input-range gives {len(values)} values, there are 3 channels")
    if hints.positions is not None and hints.positions not in found.beyond:
        takes = f"takes {', '.join(found.beyond)}" if found.beyond else "has no positions that could reach on"
        raise UsageError(f"{path}: --positions is '{hints.positions}', but {found.family} {takes}")


def _is_weights(value: object) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(entry, Tensor) for name, entry in value.items())
    )
