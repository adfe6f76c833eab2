"""Which values of the truth are which of the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from axialcli.config import FEW_CLASSES, first_names
from axialcli.errors import UsageError
from axialcli.evaluate.counts import PairCounts
from axialcli.evaluate.settings import EvaluateSettings


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
    def of(
        settings: EvaluateSettings, pred_names: Sequence[str], truth_names: Sequence[str], *, values: int
    ) -> Classes:
        """The options' words as values, which are below `values`.

        Raises UsageError for names that a file does not have.
        """
        given = None
        if settings.classes is not None:
            given = tuple(
                _entry(part, pred_names, truth_names, values) for part in settings.classes.split(",")
            )
            for side in ([one.truth for one in given], [one.pred for one in given]):
                if sum(map(len, side)) > len(frozenset().union(*side)):
                    raise UsageError(f"--classes is '{settings.classes}': a value stands in it twice")
        border = None if settings.border is None else _value(settings.border, pred_names, "--border", values)
        objects = (
            None if settings.objects is None else _value(settings.objects, pred_names, "--objects", values)
        )
        if objects is not None and 0 < len(pred_names) <= objects:
            raise UsageError(f"--objects is class {objects}; the prediction names {first_names(pred_names)}")
        if objects is not None and objects == border:
            raise UsageError(f"--objects and --border are both class {objects}: they are different classes")
        return Classes(
            given=given,
            # Objects are numbered beyond what a class can be.
            ignored=frozenset(
                _value(word, truth_names, "--ignore", 2**32 if settings.instances else values)
                for word in settings.ignore
            ),
            objects=objects,
            border=border,
            pred_names=tuple(pred_names),
        )

    def compared(self, counts: PairCounts, *, instances: bool) -> tuple[ComparedClass, ...]:
        """The classes to compare, given the values that occur, pixels of ignored ones left out.

        Those that the prediction names are compared too, unless they are more than 256. counts: of the pair.
        Raises UsageError where the truth holds values of which --classes says nothing.
        """
        in_truth = set(counts.truth_pixels())
        if self.given is not None:
            known = frozenset[int]().union(*(one.truth for one in self.given))
            if rest := sorted(in_truth - known):
                raise UsageError(f"the truth holds {rest[0]}, of which neither --classes nor --ignore speaks")
            return self.given
        named = range(len(self.pred_names) if len(self.pred_names) <= FEW_CLASSES else 0)
        values = in_truth | set(counts.pred_pixels()) | set(named)
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


def _entry(part: str, pred_names: Sequence[str], truth_names: Sequence[str], values: int) -> ComparedClass:
    left, equals, right = part.partition("=")
    if not equals:
        raise UsageError(f"--classes has '{part}': write TRUTH=PRED, such as 1=0 or 1=interior+border")
    truth = [_value(word, truth_names, "--classes", values) for word in left.split("+")]
    pred = [_value(word, pred_names, "--classes", values) for word in right.split("+")]
    return ComparedClass(
        name="+".join(_name(value, pred_names) for value in pred),
        truth=frozenset(truth),
        pred=frozenset(pred),
    )


def _value(word: str, names: Sequence[str], option: str, limit: int) -> int:
    """A value by its name, or its number below `limit`. Raises UsageError."""
    word = word.strip()
    if word in names:
        return list(names).index(word)
    if word.isascii() and word.isdigit() and int(word) < limit:
        return int(word)
    known = f"; the file names {first_names(names)}" if names else ", and the file names none"
    raise UsageError(f"{option} has '{word}', neither a value of 0 to {limit - 1} nor a class{known}")


def _name(value: int, names: Sequence[str]) -> str:
    return names[value] if value < len(names) else str(value)
