"""Objects and their matches against all ways of matching them, and against another library's regions."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import skimage.measure
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from axialcli.errors import LimitError
from axialcli.evaluate import evaluate, run
from axialcli.evaluate.objects import THRESHOLDS, grown, match, numbered, regions, without_small
from tests.evaluate.naive import most_matches
from tests.output.runs import CLASSES, make_labels, write_mask


@given(seed=st.integers(0, 10**6), objects=st.integers(0, 5), coarse=st.booleans())
def test_matches_are_as_many_as_can_be(seed: int, objects: int, coarse: bool) -> None:
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, objects + 1, (4, 6)).repeat(2 - coarse, 1)
    pred = np.where(draw.random(truth.shape) < 0.3, draw.integers(0, 5, truth.shape), truth)

    found = match(numbered(truth), numbered(pred))

    assert (found.truth, found.pred) == tuple(len(np.unique(one[one > 0])) for one in (truth, pred))
    assert found.matched == tuple(most_matches(pred, truth, Fraction(at, 20)) for at in THRESHOLDS)


def test_two_halves_of_an_object_are_not_both_the_object() -> None:
    """Each has an IoU of one half exactly, so that both would fit."""
    truth = np.ones((2, 4), np.int32)
    halves = np.array([[1, 1, 2, 2]] * 2, np.int32)

    assert match(truth, halves).matched == (1,) + (0,) * 9
    assert match(halves, truth).matched == (1,) + (0,) * 9


def test_regions_are_those_of_another_library() -> None:
    mask = make_labels((150, 170), seed=3) == 2

    ours, theirs = regions(mask), skimage.measure.label(mask, connectivity=1)

    assert ours.max() == theirs.max() > 20
    pairs = np.unique(np.stack((ours.ravel(), theirs.ravel())), axis=1)
    assert pairs.shape[1] == ours.max() + 1


def naive_growth(seeds: np.ndarray, border: np.ndarray) -> np.ndarray:
    """Squared distances from each border pixel to the nearest pixel of each seed of its own region."""
    inside = skimage.measure.label(border | (seeds > 0), connectivity=1)
    found = np.full((seeds.max() + 1, *seeds.shape), np.inf)
    for seed in range(1, seeds.max() + 1):
        points = np.argwhere(seeds == seed)
        for y, x in np.argwhere(border):
            if inside[y, x] == inside[tuple(points[0])]:
                found[seed, y, x] = ((points - (y, x)) ** 2).sum(1).min()
    return found


def test_border_pixels_belong_to_the_nearest_object_of_their_region() -> None:
    draw = np.random.default_rng(0)
    classes = np.where(draw.random((60, 70)) < 0.35, 0, make_labels((60, 70), seed=4, classes=3))
    seeds, border = regions(classes == 1), classes == 2

    found = grown(seeds, border)

    distances = naive_growth(seeds, border)
    some = 0
    for y, x in np.argwhere(border):
        if np.isinf(distances[:, y, x]).all():
            assert found[y, x] == 0
            continue
        # Of several that are equally near any may have it.
        assert distances[found[y, x], y, x] == distances[:, y, x].min()
        some += 1
    assert 50 < some < np.count_nonzero(border)
    assert np.array_equal(found[~border], seeds[~border])


def test_a_seed_beyond_a_gap_is_not_the_nearest() -> None:
    #        the far seed of the same region wins against the near one beyond the background
    row = np.array([[1, 2, 2, 2, 2, 0, 1]], np.uint8)
    assert grown(regions(row == 1), row == 2).tolist() == [[1, 1, 1, 1, 1, 0, 2]]
    alone = np.array([[2, 2, 0, 1]], np.uint8)
    assert grown(regions(alone == 1), alone == 2).tolist() == [[0, 0, 0, 1]]
    empty = np.zeros((3, 3), np.int32)
    assert not grown(empty, np.ones((3, 3), bool)).any()


def test_small_objects_are_left_out() -> None:
    labels = np.array([[1, 0, 2, 2, 0, 3, 3, 3]], np.int32)
    assert without_small(labels, 0).tolist() == labels.tolist()
    assert without_small(labels, 3).tolist() == [[0, 0, 0, 0, 0, 1, 1, 1]]


def touching_discs() -> tuple[np.ndarray, np.ndarray]:
    """A truth of numbered discs, some of which touch, and a prediction of interior and border."""
    y, x = np.mgrid[:120, :160]
    truth = np.zeros((120, 160), np.uint16)
    centres = [(30, 30), (30, 49), (80, 40), (80, 100), (95, 112), (20, 130)]
    for number, (cy, cx) in enumerate(centres):
        truth[(y - cy) ** 2 + (x - cx) ** 2 <= 100] = 1000 + 7 * number
    pred = np.where(truth > 0, 2, 0).astype(np.uint8)
    for number, (cy, cx) in enumerate(centres):
        near = ((y - cy) ** 2 + (x - cx) ** 2 <= 49) & (truth == 1000 + 7 * number)
        pred[near] = 1
    return pred, truth


def test_touching_objects_come_apart_by_their_interiors(tmp_path: Path) -> None:
    pred, truth = touching_discs()
    write_mask(tmp_path / "pred.tif", pred, classes=CLASSES[:3])
    tifffile.imwrite(tmp_path / "truth.tif", truth)
    options = {"instances": True, "objects": CLASSES[1].name}

    apart = evaluate(tmp_path / "pred.tif", tmp_path / "truth.tif", border="nuclei", **options)
    merged = evaluate(
        tmp_path / "pred.tif", tmp_path / "truth.tif", instances=True, objects="1", classes="0=0,1=1+2"
    )

    assert apart["pooled"]["objects"]["truth"] == apart["pooled"]["objects"]["pred"] == 6
    assert (apart["pooled"]["objects"]["f1"], apart["pooled"]["objects"]["mean_f1"]) == (1, pytest.approx(1))
    # The border is part of the class as well.
    assert [one["dice"] for one in apart["pooled"]["classes"]] == [1, 1]
    # Interiors alone are about half of their discs.
    assert merged["pooled"]["objects"]["f1"] < 1


def test_true_objects_of_a_class_mask_are_its_regions(tmp_path: Path) -> None:
    truth = make_labels((100, 110), seed=5, cell=9)
    pred = truth.copy()
    pred[:50] = np.roll(pred[:50], 4, 1)
    write_mask(tmp_path / "pred.tif", (pred + 1) % 4)
    tifffile.imwrite(tmp_path / "truth.tif", truth)

    report = evaluate(
        tmp_path / "pred.tif", tmp_path / "truth.tif", objects="3", classes="0=1,1=2,2=3", ignore=("3",)
    )

    kept = truth != 3
    labels = [skimage.measure.label((one == 2) & kept, connectivity=1) for one in (truth, pred)]
    found = report["pooled"]["objects"]
    assert (found["truth"], found["pred"]) == (labels[0].max(), labels[1].max())
    # Above an IoU of one half a partner is the only one, so that counting needs no choice.
    above = 0
    for number in range(1, labels[0].max() + 1):
        own = labels[0] == number
        for other in np.unique(labels[1][own & (labels[1] > 0)]):
            two = labels[1] == other
            above += (own & two).sum() / (own | two).sum() >= 0.6
    assert found["thresholds"][2]["matched"] == above > 3
    assert found["thresholds"][2]["f1"] == 2 * above / (found["truth"] + found["pred"])


def test_a_picture_too_large_for_objects_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = make_labels((60, 60))
    write_mask(tmp_path / "pred.tif", labels)
    tifffile.imwrite(tmp_path / "truth.tif", labels)
    monkeypatch.setattr(run, "OBJECTS_LIMIT_PX", 3599)
    with pytest.raises(LimitError, match="leave out --objects"):
        evaluate(tmp_path / "pred.tif", tmp_path / "truth.tif", objects="1")
    assert evaluate(tmp_path / "pred.tif", tmp_path / "truth.tif")["pooled"]["mean_iou"] == 1
