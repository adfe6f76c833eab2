"""The sizes of picture that a foreign network takes, and the size of what it answers.

Shapes: B batch, K classes, H height, W width, h and w those of the answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from axialcli.backends.foreign_axes import FIRST_SIZE, Axes
from axialcli.backends.foreign_words import Words
from axialcli.backends.probe import Probe
from axialcli.errors import ModelError

SQUARES = (256, 224, 512, 384, 299, 64)
"""Usual sides of networks that take one size only and do not say which."""

MAX_TRIED_MULTIPLE = 64


@dataclass(frozen=True)
class Answer:
    """What came back for one picture.

    values_BKN: with one axis for all pixels, which is 1 for a classifier. task: "segmentation" or
    "classification". stride: pixels per output pixel, 1 for a classifier.
    """

    task: str
    values_BKN: NDArray[Any]
    stride: int

    @property
    def channels(self) -> int:
        """K: how many numbers there are for each output pixel."""
        return int(self.values_BKN.shape[1])

    @property
    def kind(self) -> tuple[str, int, int]:
        """What has to be the same for pictures of all sizes."""
        return self.task, self.channels, self.stride


@dataclass(frozen=True)
class Sizes:
    """size: height and width where the network takes no other. multiple: of heights and widths else.

    alone: whether it takes one picture at a time, although the graph does not say so.
    """

    size: tuple[int, int] | None
    multiple: int
    answer: Answer
    alone: bool = False


def find_sizes(axes: Axes, words: Words, probe: Probe) -> Sizes:
    """Tries pictures of several sizes, and two at a time.

    Raises ModelError where the network takes none or its answer is no map and no class, UsageError
    or ModelError where words and graph contradict each other.
    """
    tries = _Tries(axes, words, probe)
    sizes = _find_sizes(axes, words, tries)
    if axes.batch is not None:
        return sizes
    height, width = sizes.size or _first_size(sizes.multiple)
    pair = tries.answer(height, width, batch=2)
    return replace(sizes, alone=isinstance(pair, str) or pair.kind != sizes.answer.kind)


def _find_sizes(axes: Axes, words: Words, tries: _Tries) -> Sizes:
    said_size, said_multiple = words.get("input", "size"), words.get("input", "multiple") or 1
    fixed = _fixed_size(axes, words)
    if fixed is not None:
        answer = tries.answer(*fixed)
        if isinstance(answer, str) and said_size is not None:
            raise words.contradiction("input", "size", but=f"the network does not take it ({answer})")
        if isinstance(answer, str):
            raise ModelError(f"{words.where}: the network does not take {_by(fixed)} pixels ({answer})")
        return Sizes(fixed, said_multiple, answer)
    first = _first_size(said_multiple)
    answer = tries.answer(*first)
    if isinstance(answer, str):
        return _square(tries, words, reason=answer)
    multiple = tries.multiple(answer)
    if multiple is None:
        return Sizes(first, 1, answer)
    return Sizes(None, multiple, answer)


class _Tries:
    """One network, tried with pictures of given sizes."""

    def __init__(self, axes: Axes, words: Words, probe: Probe) -> None:
        self._axes, self._words, self._probe = axes, words, probe

    def answer(self, height: int, width: int, batch: int = 1) -> Answer | str:
        """What the network answers, or why it cannot be used."""
        shape = self._axes.shape(height, width, batch=batch)
        answer = self._probe(shape)
        if isinstance(answer, str):
            return answer
        if not answer.shape or len(answer) != shape[0]:
            return f"it answers {list(answer.shape)}, which is not one entry per picture"
        return read_answer(answer, self._axes.layout, height, width)

    def multiple(self, first: Answer) -> int | None:
        """The smallest multiple that heights and widths have to be of; None where none fits."""
        said: int | None = self._words.get("input", "multiple")
        reason = ""
        for multiple in _multiples(said, first.stride):
            # Odd times the multiple: no larger power of two divides these sides by accident.
            height, width = (
                _at_least(math.ceil(side / multiple), rest)
                for side, rest in zip(FIRST_SIZE, (1, 3), strict=True)
            )
            answer = self.answer(multiple * height, multiple * width)
            if not isinstance(answer, str) and answer.kind == first.kind:
                return multiple
            reason = answer if isinstance(answer, str) else "its answer changes its form"
        if said is None:
            return None
        raise self._words.contradiction("input", "multiple", but=f"the network does not take that ({reason})")


def read_answer(answer: NDArray[Any], layout: str, height: int, width: int) -> Answer | str:
    """What an array is as the answer to a picture of that size, or why it is nothing that can be used."""
    shape = answer.shape
    if len(shape) > 4:
        return f"it answers {list(shape)}, more than four axes"
    if len(shape) <= 2:
        return Answer("classification", answer.reshape(shape[0], -1, 1), 1)
    # Converters may turn the input and leave the output as it was.
    orders = [answer, answer.transpose(0, 3, 1, 2)] if len(shape) == 4 else [answer[:, None]]
    for values_BKHW in reversed(orders) if layout == "NHWC" else orders:
        h, w = values_BKHW.shape[2:]
        values_BKN = values_BKHW.reshape(*values_BKHW.shape[:2], -1)
        if (h, w) == (1, 1) and min(height, width) > 1:
            return Answer("classification", values_BKN, 1)
        if h and w and height % h == 0 and width % w == 0 and height // h == width // w:
            return Answer("segmentation", values_BKN, height // h)
    return f"it answers {list(shape)} to {height}x{width} pixels, no whole share of them"


def _first_size(multiple: int) -> tuple[int, int]:
    height, width = (multiple * math.ceil(side / multiple) for side in FIRST_SIZE)
    return height, width


def _fixed_size(axes: Axes, words: Words) -> tuple[int, int] | None:
    """The only size, by graph or words. One fixed side means a square, which is all that is sure."""
    said: list[int] | None = words.get("input", "size")
    for given, side in zip(said or (), (axes.height, axes.width), strict=False):
        if side is not None and given != side:
            raise words.contradiction(
                "input", "size", but=f"the graph says {_side(axes.height)}x{_side(axes.width)}"
            )
    if said is not None:
        return said[0], said[1]
    if axes.height is None and axes.width is None:
        return None
    fixed = (axes.height or axes.width or 0, axes.width or axes.height or 0)
    multiple = words.get("input", "multiple")
    if multiple is not None and any(side % multiple for side in fixed):
        raise words.contradiction("input", "multiple", but=f"the graph says {_by(fixed)}")
    return fixed


def _square(tries: _Tries, words: Words, reason: str) -> Sizes:
    """For a network whose sides are free in the graph, and are not."""
    if words.get("input", "multiple") is not None:
        raise words.contradiction("input", "multiple", but=f"the network does not take that ({reason})")
    for side in SQUARES:
        answer = tries.answer(side, side)
        if not isinstance(answer, str):
            return Sizes((side, side), 1, answer)
    raise ModelError(f"{words.where}: the network takes no usual size, say --input-size HxW ({reason})")


def _multiples(said: int | None, stride: int) -> Iterator[int]:
    if said is not None:
        yield said
        return
    multiple = stride
    yield multiple
    while (multiple := 2 * multiple) <= MAX_TRIED_MULTIPLE:
        yield multiple


def _at_least(number: int, rest: int) -> int:
    """The first number from `number` on that leaves `rest` when divided by four."""
    return number + (rest - number) % 4


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _side(side: int | None) -> str:
    return "any" if side is None else str(side)
