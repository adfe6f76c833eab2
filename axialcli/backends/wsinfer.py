"""WSInfer's models: a folder with `config.json` and `torchscript_model.pt`, read as they are.

The format is version 1.0 of the WSInfer zoo's `model-config.schema.json`. There a patch of
`patch_size_pixels` at `spacing_um_px` goes through torchvision's Resize, ToTensor and Normalize; logits
of several classes through softmax, a single one through sigmoid.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from axialcli.backends.class_entries import class_entries
from axialcli.backends.files import is_folder, is_readable, read_limited, unreadable
from axialcli.backends.foreign_words import Words, is_number, whole_description
from axialcli.backends.spec import FORMAT, MAX_SIZE, ModelSpec
from axialcli.backends.torchscript_model import TorchScriptModel, read_torchscript
from axialcli.errors import ModelError
from axialcli.hints import ModelHints

CONFIG, NETWORK = "config.json", "torchscript_model.pt"
SPEC_VERSION = "1.0"
MAX_CONFIG_BYTES = 1 << 20

NEEDED = (
    *("spec_version", "architecture", "num_classes", "class_names"),
    *("patch_size_pixels", "spacing_um_px", "transform"),
)
WITHOUT_EFFECT = ("name", "description", "license", "licence", "$schema")
"""Keys beyond the schema that change no number."""

BILINEAR = (None, 2, "bilinear")
"""Ways to say so to torchvision; 2 is Pillow's number."""

logger = logging.getLogger("axial")


def wsinfer_files(path: Path) -> tuple[Path, Path] | None:
    """The configuration and the network of the model that a path means; None where it means another kind.

    path: the folder, or one of its two files.
    """
    folder = path if is_folder(path) else path.parent
    if folder != path and path.name not in (CONFIG, NETWORK):
        return None
    if not is_readable(folder / CONFIG):
        return None
    return folder / CONFIG, folder / NETWORK


def load_wsinfer(path: Path, *, device: torch.device, dtype: torch.dtype, trust: bool) -> TorchScriptModel:
    """A model of WSInfer, ready to predict.

    path: as `wsinfer_files` takes it. trust: run the code in the TorchScript file. Raises ModelError
    where the configuration is damaged or asks for something else than the three known transforms,
    where the network is missing or does not fit it, and without trust.
    """
    config, network = _files(path)
    text = _read_config(config)
    spec = read_wsinfer(text, config)
    data = read_torchscript(network, trust=trust)
    # Of the very bytes that are run, even where the files change meanwhile.
    sha256 = _hash(text, hashlib.sha256(data).digest())
    return TorchScriptModel(data, spec=spec, device=device, dtype=dtype, sha256=sha256, where=str(network))


def wsinfer_spec(path: Path) -> ModelSpec:
    """The description of a model, from its configuration alone. Raises ModelError."""
    config, _ = _files(path)
    return read_wsinfer(_read_config(config), config)


def wsinfer_hash(path: Path) -> str:
    """sha256 over configuration and network, which both decide the numbers, in hexadecimal.

    path: as `wsinfer_files` takes it. Raises ModelError.
    """
    config, network = _files(path)
    try:
        with network.open("rb") as file:
            of_network = hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise unreadable(network, error) from error
    return _hash(_read_config(config), of_network)


def _hash(text: bytes, of_network: bytes) -> str:
    return hashlib.sha256(hashlib.sha256(text).digest() + of_network).hexdigest()


def read_wsinfer(text: bytes, config: Path) -> ModelSpec:
    """The description that a configuration gives; patches are of one size, classes are named.

    text: of `config.json`. config: its path, for messages and the model's name. Raises ModelError.
    """
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{config}: not a configuration of WSInfer ({error!s:.60})") from error
    if not isinstance(said, dict) or (missing := [key for key in NEEDED if key not in said]):
        lacks = f": lacks {', '.join(missing)}" if isinstance(said, dict) else ""
        raise ModelError(f"{config}: not a configuration of WSInfer{lacks}")
    if said["spec_version"] != SPEC_VERSION:
        raise ModelError(f"{config}: WSInfer's format {said['spec_version']!r:.20} is not {SPEC_VERSION}")
    if unknown := [key for key in said if key not in (*NEEDED, *WITHOUT_EFFECT)]:
        logger.warning(
            "%s: %s: not part of WSInfer's format, without effect", config, ", ".join(unknown)[:100]
        )
    side, spacing = said["patch_size_pixels"], said["spacing_um_px"]
    if not _is_whole(side) or not 1 <= side <= MAX_SIZE:
        raise ModelError(f"{config}: patch_size_pixels is {side!r:.40}, not a size from 1 to {MAX_SIZE}")
    if not is_number(spacing) or spacing <= 0:
        raise ModelError(f"{config}: spacing_um_px is {spacing!r:.40}, not a resolution above 0")
    mean, std, resized = _read_transforms(said["transform"], side, config)
    described = {
        "format": FORMAT,
        "name": said.get("name") or config.absolute().parent.name,
        "task": "classification",
        "architecture": {"name": "torchscript", **({} if resized == side else {"resize": [resized] * 2})},
        "input": {
            "channels": ["red", "green", "blue"],
            "mean": mean,
            "std": std,
            "mpp": spacing,
            "size": [side, side],
        },
        "output": {"activation": "softmax" if said["num_classes"] != 1 else "sigmoid", "stride": 1},
        "classes": _read_classes(said["num_classes"], said["class_names"], config),
        "network_stride": 1,
    }
    return whole_description(described, str(config))


def _files(path: Path) -> tuple[Path, Path]:
    files = wsinfer_files(path)
    if files is None:
        raise ModelError(f"{path}: no model of WSInfer, which is a folder with {CONFIG} and {NETWORK}")
    return files


def _read_config(config: Path) -> bytes:
    return read_limited(config, MAX_CONFIG_BYTES, too_large="larger than any configuration of WSInfer")


def _read_classes(count: object, names: object, config: Path) -> list[dict[str, Any]]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"{config}: class_names is {names!r:.40}, not a list of names")
    if count != len(names) or not _is_whole(count):
        raise ModelError(f"{config}: num_classes is {count!r:.20}, class_names has {len(names)}")
    if len(names) == 1:
        # One number is a probability against all else, and a mask needs a class for that.
        names = [f"not {names[0]}", names[0]]
    words = Words(str(config), config, {"classes": [{"name": name} for name in names]}, ModelHints())
    return class_entries(words, len(names))


def _read_transforms(steps: object, side: int, config: Path) -> tuple[list[float], list[float], int]:
    """mean, std, and the side of what the network sees. They have to come in torchvision's usual order."""
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ModelError(f"{config}: transform is {steps!r:.40}, not a list of steps")
    names = [step.get("name") for step in steps]
    for name in names:
        if name not in ("Resize", "ToTensor", "Normalize"):
            raise ModelError(f"{config}: transform {name!r:.40} is not known (Resize, ToTensor, Normalize)")
    order = [name for name in names if name != "Resize"]
    if order not in (["ToTensor"], ["ToTensor", "Normalize"]) or names.count("Resize") > 1:
        raise ModelError(f"{config}: transform has the steps {', '.join(names)}, which do not go together")
    if "Normalize" in names[:-1]:
        raise ModelError(f"{config}: transform has Resize after Normalize, which is not supported")
    mean, std, resized = [0.0] * 3, [1.0] * 3, side
    for name, step in zip(names, steps, strict=True):
        if unknown := [key for key in step if key not in ("name", "arguments")]:
            raise ModelError(f"{config}: {name} has the key {unknown[0]!r:.40}, which is not known")
        arguments = step.get("arguments") or {}
        if not isinstance(arguments, dict):
            raise ModelError(f"{config}: {name}'s arguments are {arguments!r:.40}")
        if name == "Resize":
            resized = _read_resize(arguments, config)
        elif name == "Normalize":
            mean, std = _read_normalize(arguments, config)
        elif arguments:
            raise ModelError(f"{config}: ToTensor takes no arguments, not {', '.join(arguments):.40}")
    return mean, std, resized


def _read_resize(arguments: Mapping[str, Any], config: Path) -> int:
    _check_known(arguments, ("size", "interpolation", "max_size", "antialias"), "Resize", config)
    size = arguments.get("size")
    sides: list[Any] = size if isinstance(size, list) else [size]
    if not 1 <= len(sides) <= 2 or not all(_is_whole(side) and 1 <= side <= MAX_SIZE for side in sides):
        raise ModelError(f"{config}: Resize has the size {size!r:.40}")
    if sides[0] != sides[-1]:
        raise ModelError(f"{config}: Resize has the size {size!r:.40}, patches are square")
    for name, usual in (("interpolation", BILINEAR), ("max_size", (None,)), ("antialias", (None, True))):
        if arguments.get(name) not in usual:
            raise ModelError(f"{config}: Resize with {name} {arguments[name]!r:.20} is not supported")
    return int(sides[0])


def _read_normalize(arguments: Mapping[str, Any], config: Path) -> tuple[list[float], list[float]]:
    _check_known(arguments, ("mean", "std", "inplace"), "Normalize", config)
    scale = []
    for name in ("mean", "std"):
        values = arguments.get(name)
        if not isinstance(values, list) or len(values) not in (1, 3) or not all(map(is_number, values)):
            raise ModelError(f"{config}: Normalize has the {name} {values!r:.40}, not three numbers")
        scale.append(values if len(values) == 3 else values * 3)
    return scale[0], scale[1]


def _check_known(arguments: Mapping[str, Any], known: tuple[str, ...], name: str, config: Path) -> None:
    if unknown := [key for key in arguments if key not in known]:
        raise ModelError(f"{config}: {name} has the argument {unknown[0]!r:.40}, which is not known")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
