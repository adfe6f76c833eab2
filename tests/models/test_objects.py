"""Objects as background, interior and border, and back; their F1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from data_nuclei import BORDER, INTERIOR, UNCLEAR, classes_of, merged_objects, read_nuclei
from measure import nuclei_score
from pictures import IGNORE
from PIL import Image

RNG = np.random.default_rng(0)


def test_borders_are_those_of_the_definition() -> None:
    objects_HW = RNG.integers(0, 3, (9, 12)).repeat(4, 0).repeat(4, 1).astype(np.uint16)
    objects_HW[10:13, 20:30] = UNCLEAR
    height, width = objects_HW.shape
    want_HW = np.zeros((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            if own := objects_HW[y, x]:
                near = objects_HW[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
                far = objects_HW[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
                others = set(far.ravel().tolist()) - {0, UNCLEAR}
                want_HW[y, x] = IGNORE if own == UNCLEAR else INTERIOR
                if (near == 0).any() or (own != UNCLEAR and len(others) > 1):
                    want_HW[y, x] = BORDER

    assert np.array_equal(classes_of(objects_HW), want_HW)


def test_touching_objects_come_apart_and_back(data: Path, tmp_path: Path) -> None:
    (picture, _) = read_nuclei(data, "train", objects=True)
    Image.fromarray(classes_of(picture.label_HW)).save(tmp_path / "mask.png")

    score = nuclei_score({"data": "objects", "smallest_object_px": 0}, picture, tmp_path / "mask.png")

    assert score == {"dice": 1, "f1_at_0.5": 1, "f1_mean": 1}


def test_the_neck_between_merged_objects_is_unclear() -> None:
    ys, xs = np.mgrid[:40, :60]
    mask_HW = ((ys - 20) ** 2 + (xs - 18) ** 2 < 144) | ((ys - 20) ** 2 + (xs - 40) ** 2 < 144)

    objects_HW = merged_objects(mask_HW)

    assert objects_HW[20, 29] == UNCLEAR
    assert objects_HW[20, 18] == objects_HW[20, 40] == 1
    assert classes_of(objects_HW)[20, 29] == IGNORE
    assert np.array_equal(objects_HW > 0, mask_HW)
