"""What training makes small, and what a network costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cost import flops_per_pixel
from losses import segmentation_loss
from pictures import IGNORE
from train import read_recipe

RECIPES = sorted(path.parent for path in (Path(__file__).parents[2] / "models").glob("*/recipe.toml"))
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("model", RECIPES, ids=lambda path: path.name)
def test_a_recipes_baseline_costs_what_its_network_does(model: Path) -> None:
    own, plain = (flops_per_pixel(read_recipe(model, baseline=baseline)) for baseline in (False, True))

    assert 0.98 < plain / own < 1.05
    assert "start" not in read_recipe(model, baseline=True)


def test_flops_are_counted_once_for_each_product() -> None:
    """One 3 x 3 convolution of 3 to 4 channels at each stride, by hand."""
    recipe = {
        "input": {"channels": ["r", "g", "b"], "size": (16, 16)},
        "network": {
            "architecture": "axial_classifier",
            "width": (4, 4, 8),
            "depth": 1,
            "heads": 1,
            "classes": 2,
        },
    }
    pixels = 16 * 16
    convolutions = pixels * (27 * 4 / 4 + 3 * 36 * 4 / 16 + 36 * 8 / 64)
    tokens = pixels / 64
    passes = 2 * tokens * (4 * 8 * 8 + 2 * 8 * 2)
    feed_forward = tokens * 2 * 8 * 16
    by_hand = 2 * (convolutions + passes + feed_forward + 8 * 2)

    assert flops_per_pixel(recipe) * pixels == by_hand


def test_pixels_that_nobody_labelled_count_nowhere() -> None:
    logits_BKHW = torch.randn(2, 3, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    label_BHW = torch.from_numpy(RNG.integers(0, 3, (2, 6, 7)).astype(np.uint8))
    label_BHW[:, :3] = IGNORE

    loss = segmentation_loss(logits_BKHW, label_BHW, first=1)

    known, probs = label_BHW != IGNORE, logits_BKHW.softmax(1)
    entropy, dice = [], []
    for b, y, x in known.nonzero().tolist():
        entropy.append(-probs[b, int(label_BHW[b, y, x]), y, x].log())
    for k in (1, 2):
        p, t = probs[:, k][known], (label_BHW[known] == k).double()
        dice.append((2 * (p * t).sum() + 1) / ((p + t).sum() + 1))
    assert loss.item() == pytest.approx((sum(entropy) / len(entropy) + 1 - sum(dice) / 2).item(), abs=1e-6)
    changed = logits_BKHW.clone()
    changed[:, :, :3] += torch.randn(2, 3, 3, 7)
    assert segmentation_loss(changed, label_BHW).item() == pytest.approx(loss.item())


def test_dice_of_each_sample_is_the_mean_of_samples_alone() -> None:
    """Cross-entropy of equally large samples is the mean as well, so that the whole loss is."""
    logits_BKHW = torch.randn(3, 2, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    label_BHW = torch.from_numpy(RNG.integers(0, 2, (3, 6, 7)).astype(np.uint8))
    label_BHW[0] = 0

    alone = [segmentation_loss(logits_BKHW[b : b + 1], label_BHW[b : b + 1]).item() for b in range(3)]

    assert segmentation_loss(logits_BKHW, label_BHW, each=True).item() == pytest.approx(np.mean(alone))
    assert segmentation_loss(logits_BKHW, label_BHW).item() != pytest.approx(np.mean(alone))
