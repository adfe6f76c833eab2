"""Figures of a comparison: Dice and IoU of classes, F1 of objects, their means over pictures.

Shapes: T values of the truth, P of the prediction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialcli.evaluate.classes import ComparedClass
from axialcli.evaluate.objects import THRESHOLDS, ObjectCounts


def class_figures(table_TP: NDArray[np.int64], classes: Sequence[ComparedClass]) -> dict[str, Any]:
    """Of each class its pixels, Dice and IoU; means over the classes that occur; the share that agrees.

    table_TP: pixels that count, by value. Dice is 2 |A and B| / (|A| + |B|), IoU |A and B| / |A or B|; of a
    class that is in neither both are None.
    """
    found = [_one_class(table_TP, one) for one in classes]
    pixels = int(table_TP.sum())
    return {
        "pixels": pixels,
        "agreement": _share(sum(one["both_px"] for one in found), pixels),
        "mean_dice": mean(one["dice"] for one in found),
        "mean_iou": mean(one["iou"] for one in found),
        "classes": found,
    }


def object_figures(counts: ObjectCounts) -> dict[str, Any]:
    """F1 = 2 matched / (true + predicted) at each threshold, and its mean over them."""
    objects = counts.truth + counts.pred
    at = [
        {"iou": threshold / 20, "matched": matched, "f1": _share(2 * matched, objects)}
        for threshold, matched in zip(THRESHOLDS, counts.matched, strict=True)
    ]
    return {
        "truth": counts.truth,
        "pred": counts.pred,
        "f1": at[0]["f1"],
        "mean_f1": mean(entry["f1"] for entry in at),
        "thresholds": at,
    }


def mean_of_pictures(pictures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over pictures of what each has for itself; pictures that do not have it are left out."""
    names = dict.fromkeys(one["name"] for picture in pictures for one in picture["classes"])
    found: dict[str, Any] = {
        "mean_dice": mean(picture["mean_dice"] for picture in pictures),
        "mean_iou": mean(picture["mean_iou"] for picture in pictures),
        "classes": [_mean_class(name, pictures) for name in names],
    }
    if any("objects" in picture for picture in pictures):
        found["objects"] = {
            key: mean(picture["objects"][key] for picture in pictures) for key in ("f1", "mean_f1")
        }
    return found


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are there; None where none is."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _one_class(table_TP: NDArray[np.int64], one: ComparedClass) -> dict[str, Any]:
    truth, pred = sorted(one.truth), sorted(one.pred)
    both = int(table_TP[np.ix_(truth, pred)].sum())
    true_px, pred_px = int(table_TP[truth].sum()), int(table_TP[:, pred].sum())
    return {
        "name": one.name,
        "truth_values": truth,
        "pred_values": pred,
        "truth_px": true_px,
        "pred_px": pred_px,
        "both_px": both,
        "dice": _share(2 * both, true_px + pred_px),
        "iou": _share(both, true_px + pred_px - both),
    }


def _mean_class(name: str, pictures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    own = [one for picture in pictures for one in picture["classes"] if one["name"] == name]
    return {
        "name": name,
        "dice": mean(one["dice"] for one in own),
        "iou": mean(one["iou"] for one in own),
        "pictures": sum(one["dice"] is not None for one in own),
    }


def _share(part: int, of: int) -> float | None:
    return part / of if of else None
