"""What of two masks is compared."""

from __future__ import annotations

from dataclasses import dataclass

from axialcli.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """How a mask and a true one are compared.

    ignore: values or names in the truth whose pixels count nowhere. classes: which values of the truth
    are which of the prediction, such as `1=0,2=1` or `0=background,1=interior+border`; None where they are
    the same. instances: the truth numbers its objects, and every number above 0 is class 1. objects: the
    prediction's class whose connected regions are matched with true objects, a number or a name; None for
    none. border: the class whose pixels belong to the nearest of these regions. min_object_px: predicted
    objects of fewer pixels of the truth's grid do not count. by_size: both show the same field, whatever
    the files say of place and resolution. Raises UsageError for values that contradict each other.
    """

    ignore: tuple[str, ...] = ()
    classes: str | None = None
    instances: bool = False
    objects: str | None = None
    border: str | None = None
    min_object_px: int = 0
    by_size: bool = False

    def __post_init__(self) -> None:
        if self.objects is None and (self.border is not None or self.min_object_px):
            raise UsageError("--border and --min-object-px say what an object is: give --objects as well")
        if self.objects is not None and self.objects == self.border:
            raise UsageError(f"--objects and --border are both '{self.objects}': they are different classes")
        if self.min_object_px < 0:
            raise UsageError(f"--min-object-px is {self.min_object_px}: choose 0 or more")
