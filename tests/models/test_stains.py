"""Other stains, paler nuclei, denser ground: what they change, and what they leave as it is."""

from __future__ import annotations

import numpy as np
import pytest
from pictures import Augmentation, Picture, draw_sample
from stains import (
    AMOUNTS,
    HAEMATOXYLIN_EOSIN,
    deepen,
    density,
    draw_deepened,
    draw_faded,
    draw_restained,
    fade,
    light,
    restain,
    with_rest,
)

RNG = np.random.default_rng(0)
OWN = with_rest(HAEMATOXYLIN_EOSIN)
SAME = (1, 1, 1)
NOTHING = (0, 0, 0)


def test_density_is_that_of_the_light_and_comes_back() -> None:
    grey_HWC = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)

    assert density(grey_HWC)[..., 0].ravel() == pytest.approx(-np.log((np.arange(256) + 1) / 256), abs=1e-6)
    assert np.array_equal(light(density(grey_HWC)), grey_HWC)


def test_the_same_amounts_in_the_same_colours_are_the_same_picture() -> None:
    image_HWC = RNG.integers(0, 256, (30, 40, 3), np.uint8)

    assert np.array_equal(restain(image_HWC, SAME, NOTHING, OWN), image_HWC)


def test_stains_are_taken_apart_by_the_published_matrix() -> None:
    """Against a solution of the equations pixel by pixel."""
    assert np.linalg.norm(OWN, axis=1) == pytest.approx(1)
    assert OWN[:2] @ OWN[2] == pytest.approx(0, abs=1e-6)
    wanted_HWS = RNG.uniform(0, 0.6, (5, 6, 3))
    image_HWC = light((wanted_HWS @ OWN).astype(np.float32))
    for stain in range(3):
        alone = restain(image_HWC, np.eye(3)[stain], NOTHING, OWN)
        for y in range(5):
            for x in range(6):
                amounts_S = np.linalg.solve(OWN.T.astype(np.float64), density(image_HWC)[y, x])
                assert density(alone)[y, x] == pytest.approx(
                    (amounts_S[stain] * OWN[stain]).clip(0), abs=0.02
                )


@pytest.mark.parametrize("stain", [0, 1])
def test_one_stain_changes_along_its_own_colour(stain: int) -> None:
    """A picture of this stain alone, with another amount of it, and with none of the others."""
    amount_HW = RNG.uniform(0.2, 1.2, (20, 20)).astype(np.float32)
    image_HWC = light(amount_HW[..., None] * OWN[stain])
    amounts = np.full(3, 2.0)
    amounts[stain] = 0.5

    half_HWC = density(restain(image_HWC, amounts, NOTHING, OWN))

    assert half_HWC == pytest.approx(amount_HW[..., None] / 2 * OWN[stain], abs=0.03)


def test_new_colours_take_the_place_of_the_old_ones() -> None:
    amounts_HWS = RNG.uniform(0.1, 0.5, (8, 8, 3)) * [1, 1, 0]
    other = with_rest(((0.5, 0.8, 0.4), (0.2, 0.9, 0.3)))

    changed = restain(light((amounts_HWS @ OWN).astype(np.float32)), SAME, (0.1, 0, 0), other)

    assert density(changed) == pytest.approx((amounts_HWS + np.array((0.1, 0, 0))) @ other, abs=0.03)


def test_drawn_amounts_differ_from_stain_to_stain() -> None:
    """Of pure haematoxylin and pure eosin, side by side, the ratio changes as broadly as said."""
    image_HWC = light(np.stack([0.5 * OWN[0], 0.5 * OWN[1]])[None])
    ratios = []
    for seed in range(300):
        drawn = density(draw_restained(image_HWC, np.random.default_rng(seed))).sum(-1)[0]
        ratios.append(drawn[0] / max(drawn[1], 0.01))
    broadest = AMOUNTS[0][1] / AMOUNTS[1][0]
    assert np.quantile(ratios, 0.95) / np.quantile(ratios, 0.05) > broadest


def test_a_faded_nucleus_has_the_grounds_colour() -> None:
    image_HWC = np.full((90, 90, 3), (200, 180, 210), np.uint8)
    mask_HW = np.zeros((90, 90), bool)
    mask_HW[40:50, 30:44] = True
    image_HWC[mask_HW] = (90, 40, 120)
    whole, half = (mask_HW.astype(np.float32) * amount for amount in (1, 0.5))

    assert np.abs(fade(image_HWC, whole, mask_HW).astype(int) - image_HWC[0, 0]).max() <= 2
    halfway = fade(image_HWC, half, mask_HW)
    assert np.array_equal(halfway[~mask_HW], image_HWC[~mask_HW])
    assert np.abs(halfway[mask_HW].astype(int) - (145, 110, 165)).max() <= 2
    assert np.array_equal(fade(image_HWC, 0 * whole, mask_HW), image_HWC)
    # No ground far and wide: no colour to take.
    assert np.array_equal(fade(image_HWC, whole, np.ones_like(mask_HW)), image_HWC)


def test_drawn_paleness_stays_near_the_nuclei() -> None:
    image_HWC = np.full((90, 90, 3), 220, np.uint8)
    mask_HW = np.zeros((90, 90), bool)
    mask_HW[30:60, 30:60] = True
    image_HWC[mask_HW] = 80
    for seed in range(20):
        drawn = draw_faded(image_HWC, mask_HW, np.random.default_rng(seed))
        assert drawn[45, 45].min() > 100
        assert np.array_equal(drawn[:20], image_HWC[:20])


def test_deeper_ground_has_more_of_its_eosin() -> None:
    amounts_HWS = RNG.uniform(0.05, 0.3, (10, 12, 3)) * [1, 1, 0]
    image_HWC = light((amounts_HWS @ OWN).astype(np.float32))
    eosin_HW, whole_HW = (RNG.uniform(0, high, (10, 12)).astype(np.float32) for high in (1.5, 0.6))

    deeper = density(deepen(image_HWC, eosin_HW, whole_HW))

    wanted_HWS = amounts_HWS * (1 + whole_HW[..., None])
    wanted_HWS[..., 1] += amounts_HWS[..., 1] * eosin_HW
    assert deeper == pytest.approx(wanted_HWS @ OWN, abs=0.04)
    nothing_HW = np.zeros((10, 12), np.float32)
    assert np.array_equal(deepen(image_HWC, nothing_HW, nothing_HW), image_HWC)


def test_drawn_depth_leaves_nuclei_and_glass_as_they_are() -> None:
    image_HWC = np.full((60, 60, 3), 255, np.uint8)
    image_HWC[:, 30:] = light(0.3 * OWN[1:2])[0]
    mask_HW = np.zeros((60, 60), bool)
    mask_HW[20:40, 40:60] = True
    for seed in range(20):
        drawn = draw_deepened(image_HWC, mask_HW, np.random.default_rng(seed))
        assert np.array_equal(drawn[30, 52], image_HWC[30, 52])
        assert drawn[:, :30].min() == 255
        assert (drawn[:, 31:37] <= image_HWC[:, 31:37]).all()
    assert drawn[:, 31:37].mean() < image_HWC[:, 31:37].mean()


def test_without_them_samples_are_those_of_before() -> None:
    """A recipe that names none of them draws the numbers that it drew before there were any."""
    label_HW = (np.arange(60 * 60).reshape(60, 60) % 7 < 3).astype(np.uint8)
    picture = Picture(
        name="p", modality="m", image_HWC=RNG.integers(0, 256, (60, 60, 3), np.uint8), label_HW=label_HW
    )
    plain = {"scale": (1, 1), "blank": 0, "mosaic": 0, "stain": 0, "invert": 0, "grey": 0, "blur": 0}
    rng, other = np.random.default_rng(3), np.random.default_rng(3)

    image_HWC, found_HW = draw_sample([picture], 40, Augmentation(**plain, jpeg=0), rng)
    every = Augmentation(**plain, jpeg=0, stains=1, pale=1, dense=1)
    changed_HWC, same_HW = draw_sample([picture], 40, every, other)

    assert not np.array_equal(image_HWC, changed_HWC)
    assert np.array_equal(found_HW, same_HW)
    assert rng.random() != other.random()
