"""What training makes small.

Shapes: B batch, H height, W width, K classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from pictures import IGNORE
from torch import Tensor


def segmentation_loss(logits_BKHW: Tensor, label_BHW: Tensor, *, first: int = 1) -> Tensor:
    """Cross-entropy plus one minus the soft Dice of the classes from `first` on, over the batch.

    Pixels labelled IGNORE count in neither; classes that a batch lacks are not asked for.
    """
    label_BHW = label_BHW.long()
    known_B1HW = (label_BHW != IGNORE)[:, None]
    clean_BHW = label_BHW.where(known_B1HW[:, 0], 0)
    probs_BKHW = logits_BKHW.softmax(1) * known_B1HW
    target_BKHW = F.one_hot(clean_BHW, logits_BKHW.shape[1]).permute(0, 3, 1, 2) * known_B1HW
    overlap_K = (probs_BKHW * target_BKHW).sum((0, 2, 3))
    total_K = (probs_BKHW + target_BKHW).sum((0, 2, 3))
    dice_K = (2 * overlap_K + 1) / (total_K + 1)
    entropy_BHW = F.cross_entropy(logits_BKHW, clean_BHW, reduction="none") * known_B1HW[:, 0]
    return entropy_BHW.sum() / known_B1HW.sum().clamp(min=1) + 1 - dice_K[first:].mean()


def classification_loss(logits_BK: Tensor, wanted_BK: Tensor) -> Tensor:
    """Cross-entropy with the probabilities that are to be answered."""
    return F.cross_entropy(logits_BK, wanted_BK)
