"""`axial evaluate` as it is called: one pair, folders, what it prints and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Axial
from tests.evaluate.naive import dice_and_iou
from tests.output.runs import CLASSES, make_labels, write_mask


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Three masks with their truths, and a truth more."""
    (tmp_path / "pred").mkdir()
    (tmp_path / "truth").mkdir()
    made = {}
    for number, name in enumerate(("a", "b", "c")):
        pred = make_labels((50 + 10 * number, 60), seed=number, classes=2)
        truth = np.where(make_labels(pred.shape, seed=9) == 0, pred, 1 - pred).astype(np.uint8)
        write_mask(tmp_path / "pred" / f"{name}.ome.tif", pred, classes=CLASSES[:2])
        (tmp_path / "pred" / f"{name}.ome.tif.json").write_text("{}")
        Image.fromarray(truth).save(tmp_path / "truth" / f"{name}.png")
        made[name] = (pred, truth)
    Image.fromarray(truth).save(tmp_path / "truth" / "d.png")
    return made


def test_folders_are_compared_name_by_name(
    axial: Axial,
    folders: dict[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    done = axial("evaluate", "pred", "truth", "--json", "--objects", "1")

    assert done.returncode == 0, done.stderr
    assert done.stderr == "axial: truth: 1 of 4 pictures have no prediction and do not count\n"
    report = json.loads(done.stdout)
    assert [pair["name"] for pair in report["pairs"]] == ["a", "b", "c"]
    want = [dice_and_iou(pred, truth, 1) for pred, truth in folders.values()]
    for pair, (dice, iou) in zip(report["pairs"], want, strict=True):
        assert (pair["classes"][1]["dice"], pair["classes"][1]["iou"]) == (float(dice), float(iou))
    mean = report["mean"]["classes"][1]
    assert mean["dice"] == pytest.approx(float(sum(dice for dice, _ in want)) / 3)
    assert mean["pictures"] == 3
    flat = [np.concatenate([one[at].ravel() for one in folders.values()]) for at in (0, 1)]
    assert report["pooled"]["classes"][1]["dice"] == float(dice_and_iou(flat[0], flat[1], 1)[0])
    for key in ("truth", "pred"):
        assert report["pooled"]["objects"][key] == sum(pair["objects"][key] for pair in report["pairs"])
    assert report["mean"]["objects"]["f1"] == pytest.approx(
        np.mean([pair["objects"]["f1"] for pair in report["pairs"]])
    )


def test_the_table_names_classes_and_the_two_kinds_of_means(
    axial: Axial,
    folders: dict[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    several = axial("evaluate", "pred", "truth", "--objects", "1").stdout
    one = axial("evaluate", "pred/a.ome.tif", "truth/a.png").stdout

    assert CLASSES[1].name in several
    assert "mean dice" in several
    assert "F1" in several
    assert "mean dice" not in one
    dice = float(dice_and_iou(*folders["a"], 1)[0])
    assert f"{dice:.4f}" in one


def test_every_ignore_counts_and_objects_that_nobody_has_are_said(tmp_path: Path, axial: Axial) -> None:
    labels = make_labels((40, 50))
    for name in ("a.png", "b.png"):
        Image.fromarray(labels).save(tmp_path / name)

    ignored = ("--ignore", "1", "--ignore", "2,3")
    done = axial("evaluate", "a.png", "b.png", *ignored, "--objects", "9", "--json")

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["settings"]["ignore"] == ["1", "2", "3"]
    assert report["pooled"]["pixels"] == np.count_nonzero(labels == 0)
    assert "--objects 9: neither prediction nor truth has an object of this class" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("pred", "truth/a.png"), 2, "pred is a folder and truth/a.png is none: give two"),
        (("truth", "pred"), 2, "truth/d.png: there is no d.tif or d.png in pred"),
        (("pred/a.ome.tif", "nowhere.png"), 3, "nowhere.png: no such file"),
        (("pred/a.ome.tif", "pred/a.ome.tif.json"), 3, "pred/a.ome.tif.json: not a TIFF, PNG or JPEG"),
        (("empty", "truth"), 2, "empty: holds no TIFF or PNG"),
        (("twice", "truth"), 2, "twice: a.png and a.tif have the same name; keep masks alone"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("folders")
def test_refusals_are_one_line(
    tmp_path: Path,
    axial: Axial,
    arguments: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "twice").mkdir()
    for name in ("a.png", "a.tif"):
        Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "twice" / name)

    done = axial("evaluate", *arguments)

    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"axial: error: {says}")
    assert done.stderr.count("\n") == 1
