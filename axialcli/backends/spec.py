"""What a model file says about its model: the JSON text under the key `axial`, checked when it is read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from axialcli.config import MAX_CLASSES, ClassInfo
from axialcli.errors import ModelError
from axialcli.hints import Activation, InputLayout, Task

FORMAT = 1
METADATA_KEY = "axial"
MAX_STRIDE = 4096
MAX_SIZE = 16384
SAME_MPP = 0.02
"""Resolutions that differ by less than this share need no resampling."""
VOLUMES = "NCDHW"
"""The order of axes of a network that takes volumes: D is the depth, the planes of a stack."""


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The pixels that a network expects.

    channels: their names in order. mean, std: per channel, in units of the full scale, so that the
    network sees (value / full scale - mean) / std; full scale is 255 for uint8 and float, 65535 for
    uint16. mpp: the resolution to resample to, in microns per pixel, or None where any will do.
    mpp_range: resolutions that need no resampling; contains mpp. layout: the order of the network's axes,
    "NCHW" or "NHWC", or "NCDHW" of a network that takes volumes, whose mpp is that of height and width.
    size: height and width, where the network takes no other. multiple: heights and widths have to be
    multiples of it; what a tile lacks is filled by repeating its last row and column. ask_mpp: trained at no
    resolution of its own, so that whoever runs it has to say one.
    """

    channels: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mpp: float | None = None
    mpp_range: tuple[float, float] | None = None
    layout: str = "NCHW"
    size: tuple[int, int] | None = None
    multiple: int = 1
    ask_mpp: bool = False

    @property
    def takes_volumes(self) -> bool:
        """Whether the network takes whole stacks of planes, and not pictures."""
        return self.layout == VOLUMES

    def takes_mpp(self, mpp: float) -> bool:
        """Whether the network takes a resolution, in microns per pixel, as it is: any, if it has none."""
        if self.mpp_range is not None:
            finest, coarsest = self.mpp_range
        elif self.mpp is not None:
            finest = coarsest = self.mpp
        else:
            return True
        return finest * (1 - SAME_MPP) <= mpp <= coarsest * (1 + SAME_MPP)


@dataclass(frozen=True, kw_only=True)
class OutputSpec:
    """What the network's numbers mean.

    activation: "softmax" over the classes; "sigmoid" of one logit (class 1 against class 0); "none",
    where the network answers probabilities, of each class or of class 1 alone; "labels", where it
    answers the number of the class.
    threshold: two classes only; class 1 where its probability is at least this; None: the largest
    probability wins. stride: pixels per output pixel, 1 for dense masks.
    """

    activation: str = "softmax"
    threshold: float | None = None
    stride: int = 1


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything that a model file knows about itself, but its weights.

    notes: what whoever uses it should know, such as where it is from and what is not proven of it.
    """

    name: str
    task: str
    architecture: str
    config: Mapping[str, Any]
    input: InputSpec
    output: OutputSpec
    classes: tuple[ClassInfo, ...]
    network_stride: int = 1
    receptive_field_px: int | None = None
    licence: str = ""
    training_data: tuple[str, ...] = ()
    quality: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_input()
        self._check_output()
        if self.task not in get_args(Task):
            raise ModelError(
                f"model '{self.name}': task '{self.task}' is neither segmentation nor classification"
            )
        # The word names the architecture itself where networks are built.
        if "architecture" in self.config:
            raise ModelError(f"model '{self.name}': an architecture has no setting 'architecture'")
        if not 1 <= self.network_stride <= MAX_STRIDE or not 1 <= self.output.stride <= MAX_STRIDE:
            raise ModelError(f"model '{self.name}': strides are whole numbers from 1 to {MAX_STRIDE}")
        if self.input.takes_volumes:
            self._check_volumes()
        if self.receptive_field_px is not None and self.receptive_field_px < 0:
            raise ModelError(f"model '{self.name}': a receptive field has 0 pixels or more")

    def _check_input(self) -> None:
        channels, mpp, mpp_range = len(self.input.channels), self.input.mpp, self.input.mpp_range
        if not channels or len(self.input.mean) != channels or len(self.input.std) != channels:
            raise ModelError(f"model '{self.name}': mean and std need one value per channel")
        # NaN fails every comparison, so each check says what is right.
        if not all(abs(value) <= 1e6 for value in self.input.mean):
            raise ModelError(f"model '{self.name}': mean is {self.input.mean}; it goes from -1e6 to 1e6")
        if not all(1e-6 <= value <= 1e6 for value in self.input.std):
            raise ModelError(f"model '{self.name}': std is {self.input.std}; it goes from 1e-6 to 1e6")
        if mpp is not None and not 0 < mpp < math.inf:
            raise ModelError(f"model '{self.name}': mpp is {mpp}, not a resolution above 0")
        if self.input.layout not in (*get_args(InputLayout), VOLUMES):
            raise ModelError(
                f"model '{self.name}': layout '{self.input.layout}' is none of NCHW, NHWC and {VOLUMES}"
            )
        if not 1 <= self.input.multiple <= MAX_STRIDE:
            raise ModelError(f"model '{self.name}': multiple is a whole number from 1 to {MAX_STRIDE}")
        if self.input.size is not None and not all(1 <= side <= MAX_SIZE for side in self.input.size):
            raise ModelError(f"model '{self.name}': size is {self.input.size}; sides go from 1 to {MAX_SIZE}")
        if mpp_range is None:
            return
        low, high = mpp_range
        if not 0 < low <= (low if mpp is None else mpp) <= high < math.inf:
            raise ModelError(
                f"model '{self.name}': mpp_range is {mpp_range}; it contains mpp ({mpp}), in order"
            )

    def _check_volumes(self) -> None:
        if self.task != "segmentation" or self.output.stride != 1:
            raise ModelError(f"model '{self.name}': of volumes, only segmentation of every voxel is run")
        if self.input.size is not None or self.input.multiple != 1:
            raise ModelError(f"model '{self.name}': a model of volumes takes any size, or it is not run")

    def _check_output(self) -> None:
        threshold = self.output.threshold
        if self.output.activation not in get_args(Activation):
            raise ModelError(f"model '{self.name}': activation '{self.output.activation}' is not known")
        if not 2 <= len(self.classes) <= MAX_CLASSES:
            raise ModelError(
                f"model '{self.name}': {len(self.classes)} classes; a mask holds 2 to {MAX_CLASSES}"
            )
        if self.output.activation == "sigmoid" and len(self.classes) != 2:
            raise ModelError(f"model '{self.name}': sigmoid needs two classes, not {len(self.classes)}")
        if threshold is not None and len(self.classes) != 2:
            raise ModelError(f"model '{self.name}': a threshold needs two classes, not {len(self.classes)}")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ModelError(f"model '{self.name}': threshold is {threshold}; it goes from 0 to 1")

    def to_json(self) -> str:
        """The JSON text that `from_json` reads back."""
        return json.dumps(
            {
                "format": FORMAT,
                "name": self.name,
                "task": self.task,
                "architecture": {"name": self.architecture, **self.config},
                "input": {
                    "channels": list(self.input.channels),
                    "mean": list(self.input.mean),
                    "std": list(self.input.std),
                    "mpp": self.input.mpp,
                    "mpp_range": list(self.input.mpp_range) if self.input.mpp_range else None,
                    "layout": self.input.layout,
                    "size": list(self.input.size) if self.input.size else None,
                    "multiple": self.input.multiple,
                    "ask_mpp": self.input.ask_mpp,
                },
                "output": {
                    "activation": self.output.activation,
                    "threshold": self.output.threshold,
                    "stride": self.output.stride,
                },
                "classes": [
                    {"name": c.name, "colour": "#{:02x}{:02x}{:02x}".format(*c.colour)} for c in self.classes
                ],
                "network_stride": self.network_stride,
                "receptive_field_px": self.receptive_field_px,
                "licence": self.licence,
                "training_data": list(self.training_data),
                "quality": dict(self.quality),
                "notes": list(self.notes),
            },
            indent=1,
        )

    @staticmethod
    def from_json(text: str, where: str) -> ModelSpec:
        """Reads `to_json`'s text. `where` names the file in errors. Raises ModelError."""
        try:
            said = json.loads(text)
            if said["format"] != FORMAT:
                raise ModelError(f"{where}: model format {said['format']!r:.40} is not known; update axial")
            config = dict(said["architecture"])
            source, target = said["input"], said["output"]
            return ModelSpec(
                name=_text(said["name"]),
                task=_text(said["task"]),
                architecture=_text(config.pop("name")),
                config=config,
                input=_read_input(source),
                output=OutputSpec(
                    activation=_text(target["activation"]),
                    threshold=None if target.get("threshold") is None else _number(target["threshold"]),
                    stride=_whole(target["stride"]),
                ),
                classes=tuple(_read_class(entry) for entry in said["classes"]),
                network_stride=_whole(said["network_stride"]),
                receptive_field_px=(
                    None if said.get("receptive_field_px") is None else _whole(said["receptive_field_px"])
                ),
                licence=str(said.get("licence", "")),
                training_data=tuple(map(str, said.get("training_data", ()))),
                quality=dict(said.get("quality", {})),
                notes=tuple(map(str, said.get("notes", ()))),
            )
        except ModelError as error:
            if str(error).startswith(where):
                raise
            raise ModelError(f"{where}: {error}") from error
        except RecursionError as error:
            raise ModelError(f"{where}: the model's description is nested too deeply") from error
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise ModelError(f"{where}: the model's description is damaged ({error!r:.80})") from error


def _read_input(source: Mapping[str, Any]) -> InputSpec:
    mpp_range = None
    if source.get("mpp_range"):
        low, high = source["mpp_range"]
        mpp_range = (_number(low), _number(high))
    size = None
    if source.get("size") is not None:
        height, width = source["size"]
        size = (_whole(height), _whole(width))
    return InputSpec(
        layout=_text(source.get("layout", "NCHW")),
        size=size,
        multiple=_whole(source.get("multiple", 1)),
        ask_mpp=source.get("ask_mpp", False) is True,
        channels=tuple(map(_text, source["channels"])),
        mean=tuple(map(_number, source["mean"])),
        std=tuple(map(_number, source["std"])),
        mpp=None if source.get("mpp") is None else _number(source["mpp"]),
        mpp_range=mpp_range,
    )


def _text(value: object) -> str:
    # It is shown in messages, which are one line.
    if not isinstance(value, str) or not value.isprintable() or len(value) > 200:
        raise ValueError(f"{value!r:.40} is not a name")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r:.40} is not a number")
    return float(value)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r:.40} is not a whole number")
    return value


def _read_class(entry: Mapping[str, Any]) -> ClassInfo:
    match = re.fullmatch(r"#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})", str(entry["colour"]).lower())
    if not match:
        raise ValueError(f"colour {entry['colour']} is not written #rrggbb")
    red, green, blue = (int(part, 16) for part in match.groups())
    return ClassInfo(name=_text(entry["name"]), colour=(red, green, blue))
