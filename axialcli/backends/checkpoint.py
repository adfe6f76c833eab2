"""Checkpoints of public code: the weights in a pickle, and the description that their family gives them."""

from __future__ import annotations

import argparse
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from axialcli.backends.class_entries import class_entries
from axialcli.backends.foreign_words import Words, whole_description
from axialcli.backends.spec import FORMAT, ModelSpec
from axialcli.errors import ModelError, UsageError
from axialcli.hints import FLAGS, ModelHints
from axialcli.nn.families import Found, recognise

PICKLES = (".pt", ".pth", ".pth.tar", ".pt.tar", ".bin", ".ckpt")
"""How files of torch.save are called."""

WRAPPERS = ("state_dict_ema", "state_dict", "net", "model")
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
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path}: refused, it carries code and not only weights") from error
    except Exception as error:  # a damaged file makes torch.load raise anything at all
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:80]
        raise ModelError(f"{path}: not a whole PyTorch file ({reason})") from error
    within = [saved[key] for key in WRAPPERS if key in saved] if isinstance(saved, dict) else []
    for candidate in (saved, *within):
        if _is_weights(candidate):
            return without_prefix(candidate)
    raise ModelError(f"{path}: holds something else than named weights")


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
    config, size, notes = dict(found.config), found.size, [f"read as {found.family}", *found.notes]
    if hints.positions is not None:
        config["beyond"], size = hints.positions, None
        own = "its own size" if found.size is None else "{} x {} pixels".format(*found.size)
        notes.append(f"positions beyond {own} by '{hints.positions}': quality there is not proven")
    words = Words(str(path), None, {}, hints)
    mean, std = (list(words.get("input", key) or getattr(found, key)) for key in ("mean", "std"))
    facts: dict[str, Any] = {
        "format": FORMAT,
        "name": "".join(c if c.isprintable() else "?" for c in path.name.split(".")[0])[:200],
        "task": found.task,
        "architecture": {"name": found.architecture, **config},
        "input": {
            "channels": ["red", "green", "blue"],
            "mean": mean * 3 if len(mean) == 1 else mean,
            "std": std * 3 if len(std) == 1 else std,
            "size": None if size is None else list(size),
            "multiple": found.multiple,
        },
        "output": {
            "activation": found.activation,
            "threshold": found.threshold if hints.threshold is None else hints.threshold,
            "stride": 1,
        },
        "classes": class_entries(words, found.classes),
        "network_stride": found.network_stride if size is None else math.gcd(found.network_stride, *size),
        "notes": notes,
    }
    return whole_description(words.with_facts(facts), str(path)), dict(found.weights)


def _check_hints(path: Path, found: Found, hints: ModelHints) -> None:
    """Raises UsageError for hints that the family leaves no room for."""
    given = [name for name in FLAGS if getattr(hints, name) is not None and name not in TAKEN]
    if given:
        flags = ", ".join(dict.fromkeys(FLAGS[name] for name in given))
        raise UsageError(f"{path}: leave out {flags}, the weights are those of {found.family}")
    count = hints.classes if isinstance(hints.classes, int) else len(hints.classes or ())
    if count and count != found.classes:
        raise UsageError(f"{path}: --classes gives {count}, {found.family} answers {found.classes}")
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
