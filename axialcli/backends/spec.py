"""What a model file says about its model: the JSON text under the key `axial`, checked when it is read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from axialcli.config import ClassInfo
from axialcli.errors import ModelError

FORMAT = 1
METADATA_KEY = "axial"


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The pixels that a network expects.

    channels: their names in order. mean, std: per channel, in units of the full scale, so that the
    network sees (value / full scale - mean) / std; full scale is 255 for uint8 and float, 65535 for
    uint16. mpp: the resolution to resample to, in microns per pixel, or None where any will do.
    mpp_range: resolutions that need no resampling; contains mpp.
    """

    channels: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mpp: float | None = None
    mpp_range: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class OutputSpec:
    """What the network's numbers mean.

    activation: softmax over the classes, or sigmoid of one logit (class 1 against class 0).
    threshold: two classes only; class 1 where its probability is at least this; None: the largest
    probability wins. stride: pixels per output pixel, 1 for dense masks.
    """

    activation: str = "softmax"
    threshold: float | None = None
    stride: int = 1


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything that a model file knows about itself, but its weights."""

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

    def __post_init__(self) -> None:
        channels = len(self.input.channels)
        if self.task not in ("segmentation", "classification"):
            raise ModelError(
                f"model '{self.name}': task '{self.task}' is neither segmentation nor classification"
            )
        if self.output.activation not in ("softmax", "sigmoid"):
            raise ModelError(f"model '{self.name}': activation '{self.output.activation}' is not known")
        if len(self.input.mean) != channels or len(self.input.std) != channels or min(self.input.std) <= 0:
            raise ModelError(f"model '{self.name}': mean and std need one value (std above 0) per channel")
        if not 2 <= len(self.classes) <= 256:
            raise ModelError(f"model '{self.name}': {len(self.classes)} classes; a mask holds 2 to 256")
        if self.output.threshold is not None and len(self.classes) != 2:
            raise ModelError(f"model '{self.name}': a threshold needs two classes, not {len(self.classes)}")
        if self.output.stride < 1 or self.network_stride < 1:
            raise ModelError(f"model '{self.name}': strides are whole numbers from 1")

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
            },
            indent=1,
        )

    @staticmethod
    def from_json(text: str, where: str) -> ModelSpec:
        """Reads `to_json`'s text. `where` names the file in errors. Raises ModelError."""
        try:
            said = json.loads(text)
            if said["format"] != FORMAT:
                raise ModelError(f"{where}: model format {said['format']} is not known; update axial")
            config = dict(said["architecture"])
            source, target = said["input"], said["output"]
            mpp_range = source.get("mpp_range")
            return ModelSpec(
                name=str(said["name"]),
                task=str(said["task"]),
                architecture=str(config.pop("name")),
                config=config,
                input=InputSpec(
                    channels=tuple(map(str, source["channels"])),
                    mean=tuple(map(float, source["mean"])),
                    std=tuple(map(float, source["std"])),
                    mpp=None if source.get("mpp") is None else float(source["mpp"]),
                    mpp_range=(float(mpp_range[0]), float(mpp_range[1])) if mpp_range else None,
                ),
                output=OutputSpec(
                    activation=str(target["activation"]),
                    threshold=None if target.get("threshold") is None else float(target["threshold"]),
                    stride=int(target["stride"]),
                ),
                classes=tuple(_read_class(entry) for entry in said["classes"]),
                network_stride=int(said["network_stride"]),
                receptive_field_px=(
                    None if said.get("receptive_field_px") is None else int(said["receptive_field_px"])
                ),
                licence=str(said.get("licence", "")),
                training_data=tuple(map(str, said.get("training_data", ()))),
                quality=dict(said.get("quality", {})),
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ModelError(f"{where}: the model's description is damaged ({error!r:.80})") from error


def _read_class(entry: Mapping[str, Any]) -> ClassInfo:
    match = re.fullmatch(r"#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})", str(entry["colour"]).lower())
    if not match:
        raise ValueError(f"colour {entry['colour']} is not written #rrggbb")
    red, green, blue = (int(part, 16) for part in match.groups())
    return ClassInfo(name=str(entry["name"]), colour=(red, green, blue))
