"""Foreign ONNX models: their description is found out, and what cannot be found is asked for at once."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from onnx import ModelProto

from axialcli.backends.class_entries import class_entries
from axialcli.backends.foreign_axes import Axes, check_signature, find_axes
from axialcli.backends.foreign_output import Output, find_output
from axialcli.backends.foreign_sizes import Sizes, find_sizes
from axialcli.backends.foreign_words import Words, read_words, whole_description
from axialcli.backends.probe import Probe
from axialcli.backends.signature import GraphSignature, read_signature
from axialcli.backends.spec import FORMAT, MAX_STRIDE, ModelSpec
from axialcli.errors import ModelError
from axialcli.hints import FLAGS, RANGES, ModelHints, range_names

CHANNEL_NAMES = {1: ["grey"], 3: ["red", "green", "blue"]}

ASKED = {
    "range": range_names(),
    "layout": "NCHW|NHWC",
    "channels": "N",
    "classes": "NAME,NAME",
    "activation": "sigmoid|none",
}
"""What a graph may not show, and what the option takes that says it."""

logger = logging.getLogger("axial")


def describe_foreign(
    path: Path, model: ModelProto, probe: Probe, hints: ModelHints | None = None
) -> ModelSpec:
    """The whole description of an ONNX model that carries none.

    path: the model; a file `<path>.json` beside it gives its description or a part. model: the same,
    parsed. probe: runs it. hints: the user's options, which win over that file. What is said wins over
    what is found; what was found is logged. Raises ModelError for a network that is no model of one
    picture, and one ModelError that names all that has to be said; UsageError for options that
    contradict the graph, ModelError where the file beside it does.
    """
    words = read_words(path, hints or ModelHints())
    signature = read_signature(model)
    check_signature(signature, str(path))
    axes = find_axes(signature, words, probe)
    missing = _unsaid(signature, words)
    if isinstance(axes, list):
        raise _question(path, [*missing, *axes])
    sizes = find_sizes(axes, words, probe)
    _check_task(sizes, words)
    output = find_output(sizes.answer, signature.last_operators, words)
    missing |= {"activation"} if output.activation is None else set()
    missing |= {"classes"} if output.count is None else set()
    if missing:
        raise _question(path, missing)
    return _compose(path, signature, words, axes, sizes, output)


def _unsaid(signature: GraphSignature, words: Words) -> set[str]:
    """What is missing whatever the network answers."""
    # Pixels of uint8 go in as they are.
    needs_scale = signature.inputs[0].element != "uint8" and words.get("input", "mean") is None
    answers_labels = "int" in signature.outputs[0].element or "ArgMax" in signature.last_operators
    needs_classes = answers_labels and words.get("classes") is None
    return ({"range"} if needs_scale else set()) | ({"classes"} if needs_classes else set())


def _question(path: Path, missing: Any) -> ModelError:
    options = " ".join(f"{FLAGS[name]} {choice}" for name, choice in ASKED.items() if name in missing)
    return ModelError(f"{path}: its graph does not show all, say it with {options}")


def _check_task(sizes: Sizes, words: Words) -> None:
    answer = sizes.answer
    if words.get("task") not in (None, answer.task):
        raise words.contradiction("task", but=f"the graph answers like {answer.task}")
    if words.get("output", "stride") not in (None, answer.stride):
        often = "once a picture" if answer.task == "classification" else f"every {answer.stride} pixels"
        raise words.contradiction("output", "stride", but=f"the graph answers {often}")


def _compose(
    path: Path, signature: GraphSignature, words: Words, axes: Axes, sizes: Sizes, output: Output
) -> ModelSpec:
    answer, count = sizes.answer, output.count or 0
    channels = words.get("input", "channels")
    if not isinstance(channels, list):
        names = [f"channel {number}" for number in range(axes.channels)]
        channels = CHANNEL_NAMES.get(axes.channels, names)
    facts = {
        "format": FORMAT,
        "name": words.get("name") or _name(path),
        "task": answer.task,
        "architecture": {
            "name": "onnx",
            **({"batch": 1} if sizes.alone else {}),
            **(words.get("architecture") or {}),
        },
        "input": {
            "channels": channels,
            **_scale(signature, words, axes.channels),
            "layout": axes.layout,
            "size": sizes.size,
            "multiple": sizes.multiple,
        },
        "output": {"activation": output.activation, "stride": answer.stride},
        "classes": class_entries(words, count),
        "network_stride": words.get("network_stride") or _network_stride(signature, sizes),
    }
    spec = whole_description(words.with_facts(facts), str(path))
    logger.info(
        "%s: %s", path, "; ".join(_found(spec, signature, output, axes.batch or (1 if sizes.alone else None)))
    )
    return spec


def _name(path: Path) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in path.stem)[:200]


def _scale(signature: GraphSignature, words: Words, channels: int) -> dict[str, list[float]]:
    """mean and std with one value per channel."""
    raw = RANGES["0-255"]
    if signature.inputs[0].element == "uint8":
        for name in ("mean", "std"):
            said = words.get("input", name)
            if said is not None and set(said) != set(raw[name]):
                raise words.contradiction("input", name, but="the network takes pixels of uint8 as they are")
        return {name: raw[name] * channels for name in ("mean", "std")}
    scale = {}
    for name in ("mean", "std"):
        said = words.get("input", name)
        if said is None:
            raise ModelError(f"{words.where}: mean and std belong together, {name} is missing")
        if len(said) not in (1, channels):
            raise words.contradiction("input", name, but=f"the network takes {channels} channels")
        scale[name] = said if len(said) == channels else said * channels
    return scale


def _network_stride(signature: GraphSignature, sizes: Sizes) -> int:
    """What the origins of tiles have to be multiples of: rather too large than too small."""
    answer = sizes.answer
    # A classifier looks at each tile by itself.
    if answer.task == "classification":
        return 1
    stride = math.lcm(signature.stride, sizes.multiple, answer.stride)
    if sizes.size is not None:
        # Tiles of one size stand side by side.
        stride = math.gcd(stride, *sizes.size)
    return stride if stride <= MAX_STRIDE else math.lcm(sizes.multiple, answer.stride)


def _found(spec: ModelSpec, signature: GraphSignature, output: Output, batch: int | None) -> list[str]:
    """All that the description says, with where it is from."""
    element = signature.inputs[0].element
    size = "any size"
    if spec.input.size is not None:
        size = "{}x{} pixels only".format(*spec.input.size)
    elif spec.input.multiple > 1:
        size = f"sizes in multiples of {spec.input.multiple}"
    channels = len(spec.input.channels)
    facts = [f"takes {spec.input.layout}, {channels} channel{'s' * (channels > 1)} of {element}, {size}"]
    if batch is not None:
        facts.append(f"{batch} at a time")
    facts.append(f"{spec.task} into {len(spec.classes)} classes ({output.note or spec.output.activation})")
    if spec.output.stride > 1:
        facts.append(f"one answer for {spec.output.stride}x{spec.output.stride} pixels")
    if spec.network_stride > 1:
        facts.append(f"tiles start at multiples of {spec.network_stride}")
    if len(signature.outputs) > 1:
        facts.append(f"of {len(signature.outputs)} outputs the first, {signature.outputs[0].name:.40}")
    if spec.input.mpp is None:
        facts.append(f"resolution not known, {FLAGS['mpp']} says it")
    return facts
