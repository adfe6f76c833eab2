"""The order of a foreign network's axes, and how many channels it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from axialcli.backends.foreign_words import MAX_CHANNELS, Words
from axialcli.backends.probe import ELEMENTS, Probe
from axialcli.backends.signature import GraphSignature
from axialcli.errors import ModelError

FIRST_SIZE = (128, 192)
"""Not square, so that height and width can be told apart; a multiple of 64 each."""

USUAL_CHANNELS = (3, 1, 4)


@dataclass(frozen=True)
class Axes:
    """How a picture is given to the network: batch is fixed or None."""

    layout: str
    channels: int
    batch: int | None
    height: int | None
    width: int | None

    def shape(self, height: int, width: int, *, batch: int = 1) -> tuple[int, ...]:
        """The shape of pictures of that size in the network's own order. batch: where it is not fixed."""
        if self.layout == "NHWC":
            return (self.batch or batch, height, width, self.channels)
        return (self.batch or batch, self.channels, height, width)


def check_signature(signature: GraphSignature, where: str) -> None:
    """Raises ModelError unless the graph takes one picture of a known type and answers something."""
    if len(signature.inputs) != 1:
        names = ", ".join(entry.name for entry in signature.inputs) or "none"
        raise ModelError(f"{where}: the network wants {len(signature.inputs)} inputs ({names:.60}), not one")
    if not signature.outputs:
        raise ModelError(f"{where}: the network has no output")
    given = signature.inputs[0]
    if given.shape is not None and len(given.shape) != 4:
        raise ModelError(
            f"{where}: input {given.name:.40} has {len(given.shape)} axes; a picture has four, batch included"
        )
    if given.element not in ELEMENTS:
        raise ModelError(f"{where}: the network takes {given.element}, not one of {', '.join(ELEMENTS)}")


def find_axes(signature: GraphSignature, words: Words, probe: Probe) -> Axes | list[str]:
    """The axes of the input, or which of "layout" and "channels" has to be said.

    Raises UsageError or ModelError where words and graph contradict each other.
    """
    shape = signature.inputs[0].shape or (None,) * 4
    said_layout, said_channels = words.get("input", "layout"), words.get("input", "channels")
    count = len(said_channels) if isinstance(said_channels, list) else said_channels
    layout = said_layout or _likely_layout(shape)
    if layout is not None:
        axes = _axes(layout, shape, count)
        if said_layout is not None and not _plausible(axes):
            raise words.contradiction("input", "layout", but=f"the input is {_written(shape)}")
        if axes.channels > MAX_CHANNELS:
            raise ModelError(f"{words.where}: the input {_written(shape)} has no axis of channels")
        if count is not None and axes.channels != count:
            raise words.contradiction("input", "channels", but=f"the input is {_written(shape)}")
        if axes.channels:
            return axes
    tried = [
        _axes(way, shape, channels)
        for way in ([layout] if layout else ["NCHW", "NHWC"])
        for channels in ([count] if count else USUAL_CHANNELS)
    ]
    fitting = [axes for axes in tried if _answers(probe, axes)]
    if len(fitting) == 1:
        return fitting[0]
    missing = [] if layout else ["layout"]
    return missing if count else [*missing, "channels"]


def _likely_layout(shape: tuple[int | None, ...]) -> str | None:
    """By the axis that is known, or the smaller of two: pictures are larger than their channels."""
    _, second, _, last = shape
    if second is None or last is None:
        return None if second == last else "NHWC" if second is None else "NCHW"
    return None if second == last else "NCHW" if second < last else "NHWC"


def _axes(layout: str, shape: tuple[int | None, ...], channels: int | None) -> Axes:
    """channels: where the graph does not say; then 0 where nobody does."""
    batch, second, third, last = shape
    if layout == "NHWC":
        return Axes(layout, last or channels or 0, batch, second, third)
    return Axes(layout, second or channels or 0, batch, third, last)


def _plausible(axes: Axes) -> bool:
    sides = (axes.height, axes.width)
    return axes.channels <= MAX_CHANNELS and all(side is None or side > 4 for side in sides)


def _answers(probe: Probe, axes: Axes) -> bool:
    first = FIRST_SIZE
    answer: NDArray[Any] | str = probe(axes.shape(axes.height or first[0], axes.width or first[1]))
    return not isinstance(answer, str)


def _written(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("?" if side is None else str(side) for side in shape) + "]"
