"""Objects of a mask of background, interior and border, and how well they match the labelled ones.

Shapes: H height, W width. Objects are numbered from 1, 0 is none.
"""

from __future__ import annotations

import numpy as np
from data_nuclei import BORDER, INTERIOR
from numpy.typing import NDArray
from scipy import ndimage, optimize

THRESHOLDS = np.arange(0.5, 0.96, 0.05)


def objects_of(mask_HW: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Regions of the interior, each grown into the border pixels that lie nearest to it."""
    seeds_HW, found = ndimage.label(mask_HW == INTERIOR)
    if not found:
        return np.asarray(seeds_HW, np.int32)
    nearest = ndimage.distance_transform_edt(seeds_HW == 0, return_distances=False, return_indices=True)
    return np.where(mask_HW == BORDER, seeds_HW[tuple(nearest)], seeds_HW).astype(np.int32)


def object_f1(found_HW: NDArray[np.int32], truth_HW: NDArray[np.int32]) -> NDArray[np.float64]:
    """F1 of the objects at each of THRESHOLDS, matched one to one; 1 where there are none at all."""
    iou_FT = intersections_over_unions(found_HW, truth_HW)
    total = sum(iou_FT.shape)
    if not total:
        return np.ones(len(THRESHOLDS))
    scores = []
    for threshold in THRESHOLDS:
        matched = optimize.linear_sum_assignment(iou_FT >= threshold, maximize=True)
        scores.append(2 * np.count_nonzero(iou_FT[matched] >= threshold) / total)
    return np.array(scores)


def intersections_over_unions(
    found_HW: NDArray[np.int32], truth_HW: NDArray[np.int32]
) -> NDArray[np.float64]:
    """IoU of every object found with every true one [F, T]."""
    found, place_found = np.unique(found_HW, return_inverse=True)
    truth, place_truth = np.unique(truth_HW, return_inverse=True)
    both_FT = np.zeros((len(found), len(truth)))
    np.add.at(both_FT, (place_found.ravel(), place_truth.ravel()), 1)
    union_FT = both_FT.sum(1, keepdims=True) + both_FT.sum(0, keepdims=True) - both_FT
    return (both_FT / union_FT)[np.ix_(found > 0, truth > 0)]
