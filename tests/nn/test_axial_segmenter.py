"""The zoo's network: sizes, receptive field, cost."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from axialcli.nn import build_network
from tests.networks import small_spec, small_weights


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 8), (33, 64), (130, 71)])
def test_any_size_gives_logits_of_the_same_size(size: tuple[int, int]) -> None:
    network = build_network("axial_segmenter", width=(4, 4, 6), heads=2, depth=1).eval()

    with torch.inference_mode():
        assert network(torch.randn(2, 3, *size)).shape == (2, 2, *size)


@pytest.mark.parametrize(("span", "depth"), [(3, 1), (5, 2)])
def test_the_stated_receptive_field_is_the_true_one(span: int, depth: int) -> None:
    """Which pixels have an influence is asked of the gradient, at each of the eight positions in a token."""
    spec = small_spec("axial_segmenter", width=(4, 4, 6), depth=depth, heads=1, span=span)
    network = build_network(spec.architecture, **spec.config).eval()
    network.load_state_dict(small_weights(spec))
    network.double()
    reach = 0
    for row in range(160, 168):
        image = torch.randn(1, 3, 320, 8, dtype=torch.float64, requires_grad=True)
        (influence,) = torch.autograd.grad(network(image)[0, :, row, 4].square().sum(), image)
        rows = influence.abs().sum((0, 1, 3)).nonzero().flatten()
        reach = max(reach, row - int(rows.min()), int(rows.max()) - row)

    assert reach == spec.receptive_field_px


def test_the_default_model_stays_under_25_kflop_per_pixel() -> None:
    network = build_network("axial_segmenter").eval()

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.randn(1, 3, 1024, 1024))

    assert counter.get_total_flops() / 1024**2 < 25_000
