"""What is said about a foreign model: the file beside it, and over that the user's options."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from axialcli.backends.files import is_readable, read_sidecar
from axialcli.backends.spec import FORMAT, MAX_SIZE, MAX_STRIDE, ModelSpec
from axialcli.config import MAX_CLASSES
from axialcli.errors import AxialError, ModelError, UsageError
from axialcli.hints import FLAGS, RANGES, Activation, InputLayout, ModelHints, Task

MAX_CHANNELS = 64


class Words:
    """All that is said about one model; the options win over the file beside it.

    where: the model, for messages.
    """

    def __init__(
        self, where: str, sidecar: Path | None, beside: Mapping[str, Any], hints: ModelHints
    ) -> None:
        self.where, self._sidecar = where, sidecar
        self._hinted, self._range = hints.description(), hints.range
        self._all = _merged(beside, self._hinted)
        names = beside.get("classes")
        if isinstance(names, list) and hints.classes == len(names):
            # How many there are is no reason to forget what they are called.
            self._all["classes"] = names

    def get(self, *keys: str) -> Any:
        """What is said under `input`, `mean` and the like; None where nothing is."""
        return _reach(self._all, keys)

    def with_facts(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """A whole description: the facts, and all else that is said."""
        return _merged(self._all, facts)

    def contradiction(self, *keys: str, but: str) -> AxialError:
        """The error for words that do not fit the graph. but: what the graph shows."""
        key, value = keys[-1], self.get(*keys)
        if _reach(self._hinted, keys) is None:
            text = json.dumps(value)
            return ModelError(f"{self._sidecar}: {'.'.join(keys)} is {text:.40}, but {but} ({self.where})")
        if key in ("mean", "std"):
            value = self._range or value
        return UsageError(f"{self.where}: {FLAGS[key]} is {_as_option(key, value):.40}, but {but}")


def read_words(path: Path, hints: ModelHints) -> Words:
    """The words about the model at `path`: `<file>.json` beside it, whole or in part, and the options.

    Raises ModelError where that file is damaged or has a key that no description has.
    """
    sidecar = path.with_name(path.name + ".json")
    if not is_readable(sidecar):
        return Words(str(path), None, {}, hints)
    return Words(str(path), sidecar, _read_part(sidecar), hints)


def whole_description(said: Mapping[str, Any], where: str) -> ModelSpec:
    """The description of what is said in full. Raises ModelError, which names the file `where`."""
    return ModelSpec.from_json(json.dumps(said), where)


def _read_part(sidecar: Path) -> dict[str, Any]:
    try:
        said = json.loads(read_sidecar(sidecar))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{sidecar}: the model's description is not JSON ({error!s:.60})") from error
    if not isinstance(said, dict):
        raise ModelError(f"{sidecar}: the model's description is not a JSON object")
    if said.get("format", FORMAT) != FORMAT:
        raise ModelError(f"{sidecar}: model format {said['format']!r:.40} is not known; update axial")
    _check(said, KINDS, (), sidecar)
    part = _without_nulls(said)
    if "range" in (inputs := part.get("input", {})):
        if "mean" in inputs or "std" in inputs:
            raise ModelError(f"{sidecar}: input.range says the mean and std already: give one or the other")
        inputs |= RANGES[inputs.pop("range")]
    return part


def _check(said: Mapping[str, Any], kinds: Mapping[str, Any], above: tuple[str, ...], sidecar: Path) -> None:
    for key, value in said.items():
        name = ".".join((*above, key))
        if key not in kinds:
            raise ModelError(f"{sidecar}: {name!r:.60} is no key of a model's description")
        kind = kinds[key]
        if isinstance(kind, Mapping):
            if not isinstance(value, dict):
                raise ModelError(f"{sidecar}: {name} is not a JSON object")
            _check(value, kind, (*above, key), sidecar)
        elif value is not None and not kind(value):
            raise ModelError(f"{sidecar}: {name} is {value!r:.40}, which it cannot be")


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, `above` where both say something; objects are merged key by key."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(old, value) if both else value  # type: ignore[arg-type] # checked in `both`
    return merged


def _without_nulls(said: Mapping[str, Any]) -> dict[str, Any]:
    known = {key: value for key, value in said.items() if value is not None}
    return {key: _without_nulls(v) if isinstance(v, Mapping) else v for key, v in known.items()}


def _reach(said: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        said = said.get(key) if isinstance(said, Mapping) else None
    return said


def _as_option(key: str, value: Any) -> str:
    """A value as the command line has it."""
    if key == "size":
        return "{}x{}".format(*value)
    if key == "multiple":
        return f"x{value}"
    if key == "classes" and isinstance(value, list):
        return ",".join(entry["name"] for entry in value)
    return str(value)


def is_number(value: object) -> bool:
    """Whether JSON's value is a number that a float can hold."""
    # NaN, infinities and whole numbers beyond any float are none.
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 <= value <= 1e300


def _is_whole(most: int, least: int = 1) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_list(of: Callable[[object], bool], most: int = 1 << 20) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and 0 < len(value) <= most and all(map(of, value))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= 200


def _is_one_of(kind: object) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and value in get_args(kind)


def _is_class(value: object) -> bool:
    return isinstance(value, dict) and "name" in value and set(value) <= {"name", "colour"}


def _is_any(value: object) -> bool:
    return True


KINDS: dict[str, Any] = {
    "format": _is_any,
    "name": _is_text,
    "task": _is_one_of(Task),
    "architecture": lambda v: isinstance(v, dict),
    "input": {
        "channels": lambda v: _is_list(_is_text, MAX_CHANNELS)(v) or _is_whole(MAX_CHANNELS)(v),
        "mean": _is_list(is_number, MAX_CHANNELS),
        "std": _is_list(is_number, MAX_CHANNELS),
        "range": lambda v: isinstance(v, str) and v in RANGES,
        "mpp": is_number,
        "mpp_range": _is_list(is_number, 2),
        "layout": _is_one_of(InputLayout),
        "size": lambda v: _is_list(_is_whole(MAX_SIZE), 2)(v) and len(v) == 2,
        "multiple": _is_whole(MAX_STRIDE),
        "ask_mpp": lambda v: isinstance(v, bool),
    },
    "output": {
        "activation": _is_one_of(Activation),
        "threshold": is_number,
        "stride": _is_whole(MAX_STRIDE),
    },
    "classes": lambda v: _is_list(_is_class, MAX_CLASSES)(v) or _is_whole(MAX_CLASSES, 2)(v),
    "network_stride": _is_whole(MAX_STRIDE),
    "receptive_field_px": _is_whole(1 << 30, 0),
    "licence": _is_any,
    "training_data": _is_any,
    "quality": _is_any,
    "notes": _is_any,
}
"""The keys of a model file's JSON, and for each what a value may be. Besides, a range stands for mean and
std, and numbers for lists of names."""
