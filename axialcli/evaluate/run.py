"""From two masks, or two folders of them, to a report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from axialcli.config import distinct_names
from axialcli.errors import LimitError, UsageError
from axialcli.evaluate.classes import Classes, ComparedClass
from axialcli.evaluate.counts import PairCounts
from axialcli.evaluate.figures import class_figures, mean_of_pictures, object_figures
from axialcli.evaluate.objects import (
    OBJECTS_LIMIT_PX,
    ObjectCounts,
    grown,
    match,
    numbered,
    regions,
    without_small,
)
from axialcli.evaluate.pairs import Pair, find_pairs
from axialcli.evaluate.place import Placement, place
from axialcli.evaluate.settings import EvaluateSettings
from axialcli.evaluate.tables import IGNORED_OBJECT, count_pairs, read_at, values_of
from axialcli.geometry import Box
from axialcli.image import LabelPicture, open_labels

logger = logging.getLogger("axial")


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """One pair: pixels by value, ignored ones left out; their classes; objects; and what the report says."""

    counts: PairCounts
    classes: tuple[ComparedClass, ...]
    objects: ObjectCounts | None
    report: dict[str, Any]


def evaluate(
    pred: str | Path,
    truth: str | Path,
    *,
    progress: Callable[[float], None] = lambda share: None,
    **settings: Any,
) -> dict[str, Any]:
    """Compares a mask with the true one, or each mask of a folder with that of the same name.

    settings: the fields of EvaluateSettings. Returns the report: `pooled`, over all pixels and objects;
    `mean`, over the pictures' own figures; `pairs`, each of them. Raises UsageError where they do not fit
    together, ImageError where one cannot be read, LimitError where objects would take too much memory.
    """
    chosen = EvaluateSettings(**settings)
    pairs = find_pairs(Path(pred), Path(truth))
    found = []
    for number, pair in enumerate(pairs):
        found.append(_compare(pair, chosen))
        progress((number + 1) / len(pairs))
    pooled = class_figures(PairCounts.total(one.counts for one in found), _all_classes(found))
    if chosen.objects is not None:
        counts = [one.objects for one in found if one.objects is not None]
        pooled["objects"] = object_figures(sum(counts[1:], counts[0]))
        if not (pooled["objects"]["truth"] or pooled["objects"]["pred"]):
            logger.warning(
                "--objects %s: neither prediction nor truth has an object of this class", chosen.objects
            )
    reports = [one.report for one in found]
    return {
        "settings": asdict(chosen),
        "pictures": len(reports),
        "pooled": pooled,
        "mean": mean_of_pictures(reports),
        "pairs": reports,
    }


def _all_classes(found: Sequence[_Compared]) -> list[ComparedClass]:
    """The classes of all pairs. Raises UsageError where the predictions do not name them alike."""
    classes: dict[int, ComparedClass] = {}
    for one in (one for compared in found for one in compared.classes):
        if any(classes.setdefault(value, one) != one for value in one.pred):
            raise UsageError(
                f"{found[0].report['pred']} and others call class {min(one.pred)} by different names: "
                "give masks of one model"
            )
    return list(dict.fromkeys(classes[value] for value in sorted(classes)))


def _compare(pair: Pair, settings: EvaluateSettings) -> _Compared:
    with open_labels(pair.pred) as pred, open_labels(pair.truth) as truth:
        names = (distinct_names(picture.class_names) for picture in (pred, truth))
        classes = Classes.of(settings, *names, values=values_of(pred))
        placement = place(pred, truth, by_size=settings.by_size)
        outside = 1 - placement.box.area_px / (truth.size.height * truth.size.width)
        if outside > 0:
            logger.warning(
                "%s lies to %.2g %% outside of %s: that part counts nowhere",
                truth.path,
                100 * outside,
                pred.path,
            )
        instances = settings.instances
        everything = count_pairs(pred, truth, placement, instances=instances, ignored=classes.ignored)
        counts = everything.without([IGNORED_OBJECT] if instances else classes.ignored)
        compared = classes.compared(counts, instances=instances)
        figures = class_figures(counts, compared)
        objects = None
        if settings.objects is not None:
            objects = _objects(pred, truth, placement, classes, settings)
            figures["objects"] = object_figures(objects)
        report = {
            "name": pair.name,
            "pred": str(pair.pred),
            "truth": str(pair.truth),
            "placed_by": placement.by,
            "pred_px_per_truth_px": [placement.rows.step, placement.columns.step],
            "outside_share": outside,
            "ignored_px": everything.pixels - figures["pixels"],
            **figures,
        }
    return _Compared(counts=counts, classes=compared, objects=objects, report=report)


def _objects(
    pred: LabelPicture,
    truth: LabelPicture,
    placement: Placement,
    classes: Classes,
    settings: EvaluateSettings,
) -> ObjectCounts:
    """Matches the objects of a pair, all of it in memory. Raises LimitError where that is too much."""
    box: Box = placement.box
    if box.area_px > OBJECTS_LIMIT_PX:
        raise LimitError(
            f"{truth.path}: objects are matched in pictures of up to {OBJECTS_LIMIT_PX / 1e6:.0f} million "
            f"pixels, this one has {box.area_px / 1e6:.0f}; leave out --objects, or cut it into parts"
        )
    truth_HW = truth.read(box)
    counts_HW = ~np.isin(truth_HW, sorted(classes.ignored))
    if settings.instances:
        true_HW = numbered(np.where(counts_HW, truth_HW, 0))
    else:
        true_HW = regions(np.isin(truth_HW, sorted(classes.true_values())) & counts_HW)
    del truth_HW
    pred_HW = read_at(pred, placement, box)
    found_HW = regions((pred_HW == classes.objects) & counts_HW)
    if classes.border is not None:
        found_HW = grown(found_HW, (pred_HW == classes.border) & counts_HW)
    return match(true_HW, without_small(found_HW, settings.min_object_px))
