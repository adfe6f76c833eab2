"""What training makes small.

Shapes: B batch, H height, W width, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pictures import IGNORE
from torch import Tensor


def segmentation_loss(
    logits_BKHW: Tensor, label_BHW: Tensor, *, first: int = 1, each: bool = False
) -> Tensor:
    """Cross-entropy plus one minus the soft Dice of the classes from `first` on, over the batch.

    each: Dice of each sample, and their mean, in which a false region counts for more the less there is to
    find. Pixels labelled IGNORE count in neither.
    """
    known_BHW = label_BHW != IGNORE
    classes_K11 = torch.arange(logits_BKHW.shape[1], device=label_BHW.device)[:, None, None]
    target_BKHW = (label_BHW[:, None] == classes_K11).to(logits_BKHW.dtype)
    log_BKHW = logits_BKHW.log_softmax(1)
    probs_BKHW = log_BKHW.exp() * known_BHW[:, None]
    over = (2, 3) if each else (0, 2, 3)
    overlap = (probs_BKHW * target_BKHW).sum(over)
    total = probs_BKHW.sum(over) + target_BKHW.sum(over)
    dice = (2 * overlap + 1) / (total + 1)
    entropy = -(log_BKHW * target_BKHW).sum() / known_BHW.sum().clamp(min=1)
    return entropy + 1 - dice[..., first:].mean()


def classification_loss(logits_BK: Tensor, wanted_BK: Tensor) -> Tensor:
    """Cross-entropy with the probabilities that are to be answered."""
    return F.cross_entropy(logits_BK, wanted_BK)
