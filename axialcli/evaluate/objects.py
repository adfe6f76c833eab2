"""Objects of two masks, and which of them are the same.

Shapes: H height, W width. Labels are int32: 0 is nothing, 1..n the objects. Regions hang together where
pixels share a side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = tuple(range(10, 20))
"""IoU of 0.5, 0.55 ... 0.95, in twentieths: whole numbers compare exactly."""

OBJECTS_LIMIT_PX = 2**26
"""The largest picture whose objects are matched. It is held whole, at about 30 bytes a pixel."""

Labels = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class ObjectCounts:
    """True and predicted objects, and how many were matched at each of THRESHOLDS."""

    truth: int
    pred: int
    matched: tuple[int, ...]

    def __add__(self, other: ObjectCounts) -> ObjectCounts:
        return ObjectCounts(
            truth=self.truth + other.truth,
            pred=self.pred + other.pred,
            matched=tuple(map(sum, zip(self.matched, other.matched, strict=True))),
        )


def regions(mask_HW: NDArray[np.bool_]) -> Labels:
    """The connected regions of a mask."""
    from scipy import ndimage

    labels_HW, _ = ndimage.label(mask_HW)
    return np.asarray(labels_HW, np.int32)


def numbered(instances_HW: NDArray[Any]) -> Labels:
    """Objects that a picture numbers with any values above 0, numbered without gaps."""
    values, index = np.unique(instances_HW, return_inverse=True)
    new = np.cumsum(values > 0)
    return np.where(values > 0, new, 0).astype(np.int32)[index.reshape(instances_HW.shape)]


def grown(seeds_HW: Labels, border_HW: NDArray[np.bool_]) -> Labels:
    """The seeds with each border pixel given to the nearest one of the region that it hangs together with.

    Regions of border without a seed are no object.
    """
    regions_HW = regions(border_HW | (seeds_HW > 0))
    grown_HW, wrong_HW = _nearest(seeds_HW, regions_HW, border_HW)
    if wrong_HW.any():
        from scipy import ndimage

        # Another region's seed is nearer: only the own ones count.
        places = ndimage.find_objects(regions_HW)
        for number in np.unique(regions_HW[wrong_HW]):
            place = places[number - 1]
            own_HW = regions_HW[place] == number
            seeds = np.where(own_HW, seeds_HW[place], 0)
            inner_HW, _ = _nearest(seeds, own_HW.astype(np.int32), border_HW[place] & own_HW)
            grown_HW[place][own_HW] = inner_HW[own_HW]
    return grown_HW


def without_small(labels_HW: Labels, min_px: int) -> Labels:
    """The objects of at least `min_px` pixels, numbered anew."""
    if min_px <= 1:
        return labels_HW
    keep = np.bincount(labels_HW.ravel()) >= min_px
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0).astype(np.int32)[labels_HW]


def match(truth_HW: Labels, pred_HW: Labels) -> ObjectCounts:
    """Matches objects one to one, at each threshold as many as can be: those whose IoU reaches it.

    The largest number of matches is that of a maximum matching in the graph of such pairs.
    """
    from scipy import sparse

    true_px, pred_px = np.bincount(truth_HW.ravel()), np.bincount(pred_HW.ravel())
    shape = (len(true_px), len(pred_px))
    inside = (truth_HW > 0) & (pred_HW > 0)
    codes, both = np.unique(
        truth_HW[inside].astype(np.int64) * shape[1] + pred_HW[inside], return_counts=True
    )
    true, pred = np.divmod(codes, shape[1])
    either = true_px[true] + pred_px[pred] - both
    matched = []
    for threshold in THRESHOLDS:
        pairs = 20 * both >= threshold * either
        graph = sparse.csr_matrix((np.ones(pairs.sum(), np.int8), (true[pairs], pred[pairs])), shape)
        matched.append(int((sparse.csgraph.maximum_bipartite_matching(graph) >= 0).sum()))
    return ObjectCounts(truth=shape[0] - 1, pred=shape[1] - 1, matched=tuple(matched))


def _nearest(
    seeds_HW: Labels, regions_HW: Labels, border_HW: NDArray[np.bool_]
) -> tuple[Labels, NDArray[np.bool_]]:
    """The seeds with each border pixel given to the nearest; and those whose nearest is of another region."""
    if not seeds_HW.any():
        return seeds_HW.copy(), np.zeros(seeds_HW.shape, bool)
    from scipy import ndimage

    y, x = ndimage.distance_transform_edt(seeds_HW == 0, return_distances=False, return_indices=True)
    same_HW = regions_HW[y, x] == regions_HW
    grown_HW = np.where(border_HW & same_HW, seeds_HW[y, x], seeds_HW)
    return grown_HW, border_HW & ~same_HW
