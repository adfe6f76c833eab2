"""What a user says about a model that does not say it itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from axialcli.config import MAX_CLASSES, check_choice
from axialcli.errors import UsageError

InputRange = Literal["0-1", "0-255", "imagenet"]
InputLayout = Literal["NCHW", "NHWC"]
Task = Literal["segmentation", "classification"]
Activation = Literal["softmax", "sigmoid", "none", "labels"]
Beyond = Literal["local", "clip", "interpolate"]

Colour = tuple[int, int, int]

RANGES: dict[str, dict[str, list[float]]] = {
    "0-1": {"mean": [0.0], "std": [1.0]},
    "0-255": {"mean": [0.0], "std": [1 / 255]},
    # The constants that torchvision's classifiers are trained with.
    "imagenet": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}
"""Named value scales as mean and std of a model file: units of the full scale, one value for all channels
or one per channel."""

FLAGS = {
    "range": "--input-range",
    "mean": "--input-range",
    "std": "--input-range",
    "channels": "--input-channels",
    "layout": "--layout-in",
    "size": "--input-size",
    "multiple": "--input-size",
    "task": "--task",
    "activation": "--activation",
    "classes": "--classes",
    "colours": "--classes",
    "mpp": "--model-mpp",
    "stride": "--output-stride",
    "threshold": "--threshold",
    "positions": "--positions",
}
"""The option of the command line that gives each hint."""


@dataclass(frozen=True, kw_only=True)
class ModelHints:
    """The part of a foreign model's description that is given by hand; None is left to be found out.

    range: what the network sees, "0-1", "0-255", or "imagenet" (0-1, then ImageNet's mean and std).
    mean, std: instead of a range, per channel or one for all, in units of the full scale. channels:
    how many the network takes. layout: "NCHW" or "NHWC". size: height and width in pixels, where it
    takes no other. multiple: heights and widths are multiples of it. task, activation: as in a model
    file. classes: their names, or how many. colours: one per class, 0..255 each, None for the default. mpp:
    microns per pixel. stride: pixels per output pixel. threshold: two classes only, 0 to 1. positions: how a
    network with learned positions sees more than it was trained on: "local", each token no farther than the
    tables reach; "clip", whatever is farther counts as the farthest; "interpolate", the tables are stretched.
    Raises UsageError for values that contradict each other.
    """

    range: InputRange | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: int | None = None
    layout: InputLayout | None = None
    size: tuple[int, int] | None = None
    multiple: int | None = None
    task: Task | None = None
    activation: Activation | None = None
    classes: tuple[str, ...] | int | None = None
    colours: tuple[Colour | None, ...] | None = None
    mpp: float | None = None
    stride: int | None = None
    threshold: float | None = None
    positions: Beyond | None = None

    def __post_init__(self) -> None:
        kinds = {
            "range": InputRange,
            "layout": InputLayout,
            "task": Task,
            "activation": Activation,
            "positions": Beyond,
        }
        for name, kind in kinds.items():
            if getattr(self, name) is not None:
                check_choice(FLAGS[name], getattr(self, name), kind)
        if self.range is not None and (self.mean is not None or self.std is not None):
            raise UsageError("an input range says the mean and std already: give one or the other")
        if (self.mean is None) != (self.std is None):
            raise UsageError("mean and std belong together: give both")
        if self.mean is not None and not all(math.isfinite(value) for value in self.mean):
            raise UsageError(f"--input-range has the mean {self.mean}: give finite numbers")
        if self.std is not None and not all(1e-6 <= value <= 1e6 for value in self.std):
            raise UsageError(f"--input-range has the std {self.std}: give numbers from 1e-6 to 1e6")
        for name in ("channels", "multiple", "stride"):
            _check_range(name, getattr(self, name), 1, 4096)
        for side in self.size or ():
            _check_range("size", side, 1, 16384)
        if self.mpp is not None and not 1e-4 <= self.mpp <= 1e9:
            raise UsageError(f"--model-mpp is {self.mpp}: choose a number of microns per pixel above 0")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UsageError(f"--threshold is {self.threshold}: choose 0 to 1")
        self._check_classes()

    def _check_classes(self) -> None:
        if self.classes is None:
            if self.colours is not None:
                raise UsageError("colours need the classes that they belong to")
            return
        count = self.classes if isinstance(self.classes, int) else len(self.classes)
        if not 2 <= count <= MAX_CLASSES:
            raise UsageError(f"--classes gives {count}: a mask holds 2 to {MAX_CLASSES}, background included")
        if not isinstance(self.classes, int):
            if len(set(self.classes)) != count:
                raise UsageError(f"--classes has a name twice: {', '.join(self.classes):.80}")
            for name in self.classes:
                if not name.strip() or not name.isprintable() or len(name) > 200:
                    raise UsageError(f"--classes: {name!r:.40} is not a name")
        if self.colours is not None and len(self.colours) != count:
            raise UsageError(f"{len(self.colours)} colours for {count} classes: give one for each")

    @property
    def flags(self) -> list[str]:
        """The options that were given, in the command line's words."""
        given = [FLAGS[field.name] for field in fields(self) if getattr(self, field.name) is not None]
        return list(dict.fromkeys(given))

    def refuse(self, where: str) -> None:
        """For a model that takes no hints. Raises UsageError where some were given all the same."""
        if self.flags:
            raise UsageError(
                f"{where}: leave out {', '.join(self.flags)}, only for models without a description"
            )

    def description(self) -> dict[str, Any]:
        """The same as a part of a model file's JSON: its keys and nesting, only what is known.

        `mean` and `std` may have one value for all channels; `channels` and `classes` may be numbers;
        a class without a colour has none.
        """
        scale = RANGES[self.range] if self.range else {"mean": _list(self.mean), "std": _list(self.std)}
        inputs = {
            **scale,
            "channels": self.channels,
            "layout": self.layout,
            "size": _list(self.size),
            "multiple": self.multiple,
            "mpp": self.mpp,
        }
        outputs = {"activation": self.activation, "stride": self.stride, "threshold": self.threshold}
        whole = {"task": self.task, "classes": self._class_entries()}
        return _known({**whole, "input": _known(inputs) or None, "output": _known(outputs) or None})

    def _class_entries(self) -> int | list[dict[str, str]] | None:
        if self.classes is None or isinstance(self.classes, int):
            return self.classes
        entries = [{"name": name} for name in self.classes]
        for entry, colour in zip(entries, self.colours or (), strict=False):
            if colour is not None:
                entry["colour"] = "#{:02x}{:02x}{:02x}".format(*colour)
        return entries


def range_names() -> str:
    """The named value scales, for help and messages."""
    return "|".join(get_args(InputRange))


def _check_range(name: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not least <= value <= most:
        raise UsageError(f"{FLAGS[name]} is {value}: choose {least} to {most}")


def _list(values: tuple[Any, ...] | None) -> list[Any] | None:
    return None if values is None else list(values)


def _known(entries: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if value is not None}
