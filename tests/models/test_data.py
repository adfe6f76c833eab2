"""What is read from the data sets, and what is drawn from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from data_landcover import read_landcover
from data_scenes import draw_tiles, read_tiles
from pictures import IGNORE, Augmentation, Picture, draw_sample


def test_a_sample_and_its_label_are_the_same_place_at_the_same_scale() -> None:
    """Each pixel's label is its own colour, so that they can be compared after all turns and flips."""
    label_HW = (np.add.outer(np.arange(90) // 9, 10 * (np.arange(70) // 7))).astype(np.uint8)
    picture = Picture(name="p", modality="m", image_HWC=np.dstack([label_HW] * 3), label_HW=label_HW)
    plain = Augmentation(scale=(0.5, 1.5), blank=0, mosaic=0, stain=0, invert=0, grey=0, blur=0, jpeg=0)

    for seed in range(20):
        image_HWC, found_HW = draw_sample([picture], 40, plain, np.random.default_rng(seed))
        # Interpolated at the edges between cells; inside them exact.
        assert np.mean(image_HWC[..., 0] == found_HW) > 0.5
        away = np.abs(image_HWC[..., 0].astype(int) - found_HW)
        assert away.max() <= 11


def test_land_cover_is_joined_in_place_and_renumbered(data: Path) -> None:
    (picture,) = read_landcover(data, "train")

    assert picture.image_HWC.shape == (63, 93, 3)
    assert picture.label_HW.shape == (63, 93)
    by_name = {0: IGNORE, 1: 1, 2: 0, 3: 2, 4: 3, 5: 4}
    for y, top in ((0, 5), (1, 25), (2, 50)):
        for x, left in ((0, 5), (1, 35), (2, 70)):
            assert picture.label_HW[top, left] == by_name[(3 * y + x) % 6]
            assert abs(int(picture.image_HWC[top, left, 0]) - 25 * (3 * y + x)) <= 2


def test_tiles_are_read_by_split_and_their_labels_mixed_as_they_are(data: Path) -> None:
    tiles = read_tiles(data, "train", ["Land", "Sea"])
    assert sorted(tiles.labels_N.tolist()) == [0, 1, 1]
    assert len(read_tiles(data, "val", ["Land", "Sea"]).labels_N) == 1

    settings = {"shift": 4, "light": 0.0, "mixup": 0.5, "smoothing": 0.1}
    images_BHWC, wanted_BK = draw_tiles(tiles, 3, 2, settings, np.random.default_rng(0))

    assert np.allclose(wanted_BK.sum(1), 1, atol=1e-6)
    # Tiles here are of one colour, and colours and labels are mixed by the same share.
    colour = {int(tiles.images_NHWC[i, 0, 0, 0]): int(tiles.labels_N[i]) for i in range(3)}
    assert len(colour) == 3
    for image_HWC, wanted_K in zip(images_BHWC, wanted_BK, strict=True):
        assert np.ptp(image_HWC.astype(int)) <= 1
        possible = [
            (
                share * (0.9 * np.eye(2)[a] + 0.05) + (1 - share) * (0.9 * np.eye(2)[b] + 0.05),
                share * p + (1 - share) * q,
            )
            for p, a in colour.items()
            for q, b in colour.items()
            for share in [mixup_share()]
        ]
        assert any(
            np.abs(k - wanted_K).max() < 1e-5 and abs(c - int(image_HWC[0, 0, 0])) <= 1 for k, c in possible
        )


def mixup_share() -> float:
    """The share that the draw above takes: the same numbers in the same order."""
    rng = np.random.default_rng(0)
    rng.choice(3, size=3, replace=False)
    for _ in range(3):
        rng.integers(4), rng.integers(2), rng.integers(0, 9, 2)
    rng.normal(0, 0.0, (2, 3, 1, 1, 3))
    return float(rng.beta(0.5, 0.5))
