"""Figures of a comparison: Dice and IoU of classes, F1 of objects, their means over pictures."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from axialcli.evaluate.classes import ComparedClass
from axialcli.evaluate.counts import PairCounts
from axialcli.evaluate.objects import THRESHOLDS, ObjectCounts


def class_figures(counts: PairCounts, classes: Sequence[ComparedClass]) -> dict[str, Any]:
    """Of each class its pixels, Dice and IoU; means over the classes that occur; the share that agrees.

    counts: pixels that count, by value. Dice is 2 |A and B| / (|A| + |B|), IoU |A and B| / |A or B|; of a
    class that is in neither both are None.
    """
    true_px, pred_px = counts.truth_pixels(), counts.pred_pixels()
    found = [_one_class(counts, true_px, pred_px, one) for one in classes]
    pixels = counts.pixels
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
    classes: dict[str, list[Mapping[str, Any]]] = {}
    for one in (one for picture in pictures for one in picture["classes"]):
        classes.setdefault(one["name"], []).append(one)
    found: dict[str, Any] = {
        "mean_dice": mean(picture["mean_dice"] for picture in pictures),
        "mean_iou": mean(picture["mean_iou"] for picture in pictures),
        "classes": [_mean_class(name, own) for name, own in classes.items()],
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


def _one_class(
    counts: PairCounts, in_truth: Mapping[int, int], in_pred: Mapping[int, int], one: ComparedClass
) -> dict[str, Any]:
    truth, pred = sorted(one.truth), sorted(one.pred)
    both = sum(counts.both(*pair) for pair in itertools.product(truth, pred))
    true_px = sum(in_truth.get(value, 0) for value in truth)
    pred_px = sum(in_pred.get(value, 0) for value in pred)
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


def _mean_class(name: str, own: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """own: what the pictures that have the class say of it."""
    return {
        "name": name,
        "dice": mean(one["dice"] for one in own),
        "iou": mean(one["iou"] for one in own),
        "pictures": sum(one["dice"] is not None for one in own),
    }


def _share(part: int, of: int) -> float | None:
    return part / of if of else None
