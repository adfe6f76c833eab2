"""What the numbers mean that a foreign network answers: logits, probabilities or labels, of how many classes.

Shapes: B batch, K numbers per output pixel, N output pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from axialcli.backends.foreign_sizes import Answer
from axialcli.backends.foreign_words import Words
from axialcli.config import MAX_CLASSES
from axialcli.errors import ModelError

SUMS_TO_ONE = 2e-3
"""How far from 1 the probabilities of float16 may add up."""

SQUASHING = ("Sigmoid", "HardSigmoid")


@dataclass(frozen=True)
class Output:
    """activation: as in a model file. count: classes of the mask. None where it has to be said. note: for
    the user."""

    activation: str | None
    count: int | None
    note: str = ""


def find_output(answer: Answer, last_operators: Sequence[str], words: Words) -> Output:
    """By the type and range of the numbers, and by the graph's last operators.

    Raises ModelError for numbers that are none of the three, UsageError or ModelError where words and
    graph contradict each other.
    """
    values = answer.values_BKN
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ModelError(f"{words.where}: the network answers NaN or infinity to noise")
    said: str | None = words.get("output", "activation")
    last = last_operators[-1] if last_operators else ""
    if values.dtype.kind in "iub" or "ArgMax" in last_operators:
        if answer.channels != 1:
            raise ModelError(f"{words.where}: the network answers {answer.channels} whole numbers per pixel")
        if said not in (None, "labels"):
            raise words.contradiction("output", "activation", but="the graph answers whole numbers")
        return Output("labels", _count_labels(answer, words), "the numbers of the classes")
    if said == "labels":
        if answer.channels != 1 or not np.array_equal(values, np.round(values)):
            raise words.contradiction("output", "activation", but="the graph answers fractions")
        return Output("labels", _count_labels(answer, words))
    if answer.channels > MAX_CLASSES:
        raise ModelError(f"{words.where}: {answer.channels} classes; a mask holds 2 to {MAX_CLASSES}")
    inside = bool((values >= -SUMS_TO_ONE).all() and (values <= 1 + SUMS_TO_ONE).all())
    if said == "none" and not inside:
        raise words.contradiction("output", "activation", but="the graph answers numbers outside 0 to 1")
    found = _one(inside, last) if answer.channels == 1 else _many(answer, inside, last)
    if said is not None and not _fits(said, found):
        but = f"the graph answers {found.note or 'one number'} per pixel"
        raise words.contradiction("output", "activation", but=but)
    _check_count(words, found.count)
    return found if said in (None, found.activation) else Output(said, found.count)


def _fits(said: str, found: Output) -> bool:
    if found.activation is None:
        return said in ("sigmoid", "none")
    # That numbers in 0 to 1 are probabilities, although they do not add up, only a person knows.
    return said == found.activation or (said, found.activation) == ("none", "softmax")


def _one(inside: bool, last: str) -> Output:
    if inside and last in SQUASHING:
        return Output("none", 2, f"probabilities of class 1 ({last})")
    # Small logits look like probabilities.
    return Output(None, 2) if inside else Output("sigmoid", 2, "logits of class 1")


def _many(answer: Answer, inside: bool, last: str) -> Output:
    sums_BN = answer.values_BKN.astype(np.float64).sum(1)
    if inside and np.abs(sums_BN - 1).max() <= SUMS_TO_ONE:
        return Output("none", answer.channels, "probabilities that add up to 1")
    if inside and last in SQUASHING:
        return Output("none", answer.channels, f"a probability of each class by itself ({last})")
    return Output("softmax", answer.channels, "logits")


def _count_labels(answer: Answer, words: Words) -> int | None:
    said = words.get("classes")
    count: int | None = len(said) if isinstance(said, list) else said
    lowest, highest = int(answer.values_BKN.min()), int(answer.values_BKN.max())
    if lowest < 0 or highest >= MAX_CLASSES:
        raise ModelError(
            f"{words.where}: labels go from {lowest} to {highest}; a mask holds 0 to {MAX_CLASSES - 1}"
        )
    if count is not None and highest >= count:
        raise words.contradiction("classes", but=f"the graph answers label {highest}")
    # Yes or no is two classes.
    return 2 if count is None and answer.values_BKN.dtype.kind == "b" else count


def _check_count(words: Words, count: int | None) -> None:
    said = words.get("classes")
    if said is not None and (len(said) if isinstance(said, list) else said) != count:
        raise words.contradiction("classes", but=f"the graph answers {count} classes")
