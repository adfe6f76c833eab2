"""Which values of the truth are which of the prediction.

Shapes: T values of the truth, P of the prediction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from axialcli.errors import UsageError
from axialcli.evaluate.settings import EvaluateSettings
from axialcli.evaluate.tables import VALUES


@dataclass(frozen=True, kw_only=True)
class ComparedClass:
    """One class of a comparison: its name, and its values in the truth and in the prediction."""

    name: str
    truth: frozenset[int]
    pred: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class Classes:
    """All that the options say about values. given: in --classes, or None. ignored: of the truth.

    objects, border: the prediction's values, or None. pred_names: of its values, as far as it says.
    """

    given: tuple[ComparedClass, ...] | None
    ignored: frozenset[int]
    objects: int | None
    border: int | None
    pred_names: tuple[str, ...]

    @staticmethod
    def of(settings: EvaluateSettings, pred_names: Sequence[str], truth_names: Sequence[str]) -> Classes:
        """The options' words as values. Raises UsageError for names that a file does not have."""
        given = None
        if settings.classes is not None:
            given = tuple(_entry(part, pred_names, truth_names) for part in settings.classes.split(","))
            for values in ([one.truth for one in given], [one.pred for one in given]):
                if sum(map(len, values)) > len(frozenset().union(*values)):
                    raise UsageError(f"--classes is '{settings.classes}': a value stands in it twice")
        border = None if settings.border is None else _value(settings.border, pred_names, "--border")
        objects = None if settings.objects is None else _value(settings.objects, pred_names, "--objects")
        if objects is not None and 0 < len(pred_names) <= objects:
            raise UsageError(f"--objects is class {objects}; the prediction names {', '.join(pred_names)}")
        if objects is not None and objects == border:
            raise UsageError(f"--objects and --border are both class {objects}: they are different classes")
        return Classes(
            given=given,
            # Objects are numbered beyond what a class can be.
            ignored=frozenset(
                _value(word, truth_names, "--ignore", limit=2**32 if settings.instances else VALUES)
                for word in settings.ignore
            ),
            objects=objects,
            border=border,
            pred_names=tuple(pred_names),
        )

    def compared(self, table_TP: NDArray[np.int64], *, instances: bool) -> tuple[ComparedClass, ...]:
        """The classes to compare, given the values that occur, pixels of ignored ones left out.

        Raises UsageError where the truth holds values of which --classes says nothing.
        """
        in_truth = set(np.flatnonzero(table_TP.sum(1)).tolist())
        if self.given is not None:
            known = frozenset[int]().union(*(one.truth for one in self.given))
            if rest := sorted(in_truth - known):
                raise UsageError(f"the truth holds {rest[0]}, of which neither --classes nor --ignore speaks")
            return self.given
        values = in_truth | set(np.flatnonzero(table_TP.sum(0)).tolist()) | set(range(len(self.pred_names)))
        if instances:
            values |= {0, 1}
        return tuple(self._own(value) for value in sorted(values) if value != self.border)

    def true_values(self) -> frozenset[int]:
        """The truth's values of the class whose objects are matched."""
        assert self.objects is not None
        if self.given is None:
            return self._own(self.objects).truth
        for one in self.given:
            if self.objects in one.pred:
                return one.truth
        raise UsageError(f"--objects is class {self.objects}, of which --classes does not speak")

    def _own(self, value: int) -> ComparedClass:
        """A class whose values are the same in both; the border is part of the class of its objects."""
        values = {value} | ({self.border} if value == self.objects and self.border is not None else set())
        name = "+".join(_name(one, self.pred_names) for one in sorted(values, key=lambda one: one != value))
        return ComparedClass(name=name, truth=frozenset(values), pred=frozenset(values))


def _entry(part: str, pred_names: Sequence[str], truth_names: Sequence[str]) -> ComparedClass:
    left, equals, right = part.partition("=")
    if not equals:
        raise UsageError(f"--classes has '{part}': write TRUTH=PRED, such as 1=0 or 1=interior+border")
    truth = [_value(word, truth_names, "--classes") for word in left.split("+")]
    pred = [_value(word, pred_names, "--classes") for word in right.split("+")]
    return ComparedClass(
        name="+".join(_name(value, pred_names) for value in pred),
        truth=frozenset(truth),
        pred=frozenset(pred),
    )


def _value(word: str, names: Sequence[str], option: str, *, limit: int = VALUES) -> int:
    """A value by its number or name. Raises UsageError."""
    word = word.strip()
    if word in names:
        return list(names).index(word)
    if word.isascii() and word.isdigit() and int(word) < limit:
        return int(word)
    known = f"; the file names {', '.join(names)}" if names else ", and the file names none"
    raise UsageError(f"{option} has '{word}', neither a value of 0 to {limit - 1} nor a class{known}")


def _name(value: int, names: Iterable[str]) -> str:
    return dict(enumerate(names)).get(value, str(value))
