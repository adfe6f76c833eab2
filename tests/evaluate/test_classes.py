"""Dice and IoU against naive loops, through the files that are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from axialcli.errors import ImageError, UsageError
from axialcli.evaluate import counts, evaluate, tables
from tests.evaluate.naive import dice_and_iou
from tests.output.runs import CLASSES, make_labels, write_mask


def write_truth(path: Path, labels: np.ndarray) -> Path:
    Image.fromarray(labels).save(path)
    return path


def figures(report: dict[str, Any]) -> dict[str, tuple[float | None, float | None]]:
    return {one["name"]: (one["dice"], one["iou"]) for one in report["pooled"]["classes"]}


@pytest.mark.parametrize("changes", [{}, {"layout": "generic"}, {"palette": True}, {"layout": "ome-strict"}])
@pytest.mark.parametrize("band_px", [2**22, 999])
def test_dice_and_iou_are_those_of_the_loops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], band_px: int
) -> None:
    monkeypatch.setattr(tables, "BAND_PX", band_px)
    pred, truth = make_labels((131, 203)), make_labels((131, 203), seed=1)
    truth[:60] = pred[:60]
    write_mask(tmp_path / "pred.tif", pred, **changes)
    write_truth(tmp_path / "truth.png", truth)

    report = evaluate(tmp_path / "pred.tif", tmp_path / "truth.png")

    found = figures(report)
    assert list(found) == [entry.name for entry in CLASSES]
    want = [dice_and_iou(pred, truth, value) for value in range(4)]
    for (dice, iou), (want_dice, want_iou) in zip(found.values(), want, strict=True):
        assert dice == pytest.approx(float(want_dice), abs=1e-15)
        assert iou == pytest.approx(float(want_iou), abs=1e-15)
    assert report["pooled"]["mean_iou"] == pytest.approx(float(sum(iou for _, iou in want)) / 4)
    assert report["pooled"]["agreement"] == np.count_nonzero(pred == truth) / pred.size


@pytest.mark.parametrize("largest", [999, 65_535])
@pytest.mark.parametrize("cells", [1 << 22, 1 << 16])
def test_values_of_16_bits_are_those_of_the_loops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int, cells: int
) -> None:
    monkeypatch.setattr(counts, "TABLE_CELLS", cells)
    monkeypatch.setattr(tables, "BAND_PX", 999)
    values = np.array([0, 1, 255, 256, largest], np.uint16)
    pred, truth = (values[make_labels((60, 80), seed=seed, classes=5)] for seed in (0, 1))
    truth[:20] = pred[:20]
    write_truth(tmp_path / "pred.png", pred)
    write_truth(tmp_path / "truth.png", truth)

    report = evaluate(tmp_path / "pred.png", tmp_path / "truth.png", ignore=("1",))

    counted = truth != 1
    found = figures(report)
    assert list(found) == ["0", "1", "255", "256", str(largest)]
    for value in (0, 255, 256, largest):
        want = dice_and_iou(pred[counted], truth[counted], value)
        assert found[str(value)] == pytest.approx([float(one) for one in want], abs=1e-15)
    assert report["pooled"]["agreement"] == np.mean(pred[counted] == truth[counted])
    assert report["pooled"]["pixels"] == np.count_nonzero(counted)


def test_numbers_that_are_no_class_of_16_bits_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "pred.tif", np.full((4, 4), 65_536, np.uint32))
    write_truth(tmp_path / "truth.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(UsageError, match=r"pred\.tif: holds 65536, and classes are 0 to 65535"):
        evaluate(tmp_path / "pred.tif", tmp_path / "truth.png")


def test_ignored_pixels_count_nowhere(tmp_path: Path) -> None:
    pred, truth = make_labels((90, 120)), make_labels((90, 120), seed=1)
    truth[20:50, 30:90] = 255
    write_mask(tmp_path / "pred.tif", pred)
    write_truth(tmp_path / "truth.png", truth)

    report = evaluate(tmp_path / "pred.tif", tmp_path / "truth.png", ignore=("255", "3"))

    kept = (truth != 255) & (truth != 3)
    assert report["pairs"][0]["ignored_px"] == np.count_nonzero(~kept)
    for value, (dice, iou) in enumerate(figures(report).values()):
        want = dice_and_iou(pred[kept], truth[kept], value)
        assert (dice, iou) == (pytest.approx(float(want[0])), pytest.approx(float(want[1])))


def test_a_class_in_neither_has_no_figures_and_no_part_in_the_mean(tmp_path: Path) -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[:20] = 2
    write_mask(tmp_path / "pred.tif", labels)
    write_truth(tmp_path / "truth.png", labels)

    report = evaluate(tmp_path / "pred.tif", tmp_path / "truth.png")

    assert list(figures(report).values()) == [(1, 1), (None, None), (1, 1), (None, None)]
    assert (report["pooled"]["mean_iou"], report["pooled"]["mean_dice"]) == (1, 1)


def test_numbers_that_differ_are_named_to_belong_together(tmp_path: Path) -> None:
    """A truth of 1 to 3, 0 is unlabelled; a prediction of 0 to 3, of which two are one of the truth."""
    truth = make_labels((80, 90), seed=1)
    pred = make_labels((80, 90))
    write_mask(tmp_path / "pred.tif", pred)
    write_truth(tmp_path / "truth.png", truth)

    report = evaluate(
        tmp_path / "pred.tif", tmp_path / "truth.png", classes="1=background,2=1+fat,3=2", ignore=("0",)
    )

    kept = truth != 0
    renamed = np.array([1, 2, 3, 2], np.uint8)[pred]
    want = {
        "background": dice_and_iou(renamed[kept], truth[kept], 1),
        f"{CLASSES[1].name}+fat": dice_and_iou(renamed[kept], truth[kept], 2),
        "nuclei": dice_and_iou(renamed[kept], truth[kept], 3),
    }
    assert figures(report) == {name: (float(dice), float(iou)) for name, (dice, iou) in want.items()}


def test_every_number_of_an_object_is_class_one(tmp_path: Path) -> None:
    truth = make_labels((80, 90), seed=1, classes=4).astype(np.uint16) * 300
    pred = np.minimum(make_labels((80, 90)), 1)
    write_mask(tmp_path / "pred.tif", pred, classes=CLASSES[:2])
    tifffile.imwrite(tmp_path / "truth.tif", truth, compression="zlib")

    report = evaluate(tmp_path / "pred.tif", tmp_path / "truth.tif", instances=True, ignore=("900",))

    kept = truth != 900
    want = dice_and_iou(pred[kept], (truth > 0)[kept], 1)
    assert list(figures(report).values())[1] == (float(want[0]), float(want[1]))
    with pytest.raises(UsageError, match=r"truth\.tif: holds 900, and classes are 0 to 255; .*--instances"):
        evaluate(tmp_path / "pred.tif", tmp_path / "truth.tif")


@pytest.mark.parametrize(
    ("write", "dtype"),
    [("palette.png", np.uint8), ("bits.png", bool), ("grey.tif", np.uint8), ("wide.tif", np.int32),
     ("bits.tif", bool), ("white.tif", np.uint8), ("palette.tif", np.uint8)],
)  # fmt: skip
def test_labels_are_read_as_they_are_stored(tmp_path: Path, write: str, dtype: Any) -> None:
    labels = (make_labels((70, 75), classes=2 if dtype is bool else 4)).astype(dtype)
    path = tmp_path / write
    if write == "palette.png":
        image = Image.fromarray(labels)
        image.putpalette([255, 0, 0, 0, 9, 0, 3, 3, 3, 8, 8, 8])
        image.save(path)
    elif write == "bits.png":
        Image.fromarray(labels).save(path)
    else:
        colours = np.zeros((3, 256), np.uint16)
        more = {
            "white.tif": {"photometric": "miniswhite"},
            "palette.tif": {"photometric": "palette", "colormap": colours},
        }
        tifffile.imwrite(path, labels, **more.get(write, {}))
    write_mask(tmp_path / "pred.tif", labels.astype(np.uint8))

    report = evaluate(tmp_path / "pred.tif", path)

    assert report["pooled"]["agreement"] == 1
    assert report["pooled"]["classes"][1]["truth_px"] == np.count_nonzero(labels == 1) > 0


@pytest.mark.parametrize(
    ("name", "labels", "says"),
    [
        ("rgb.png", np.zeros((9, 9, 3), np.uint8), "RGB pixels are colours"),
        ("rgb.tif", np.zeros((9, 9, 3), np.uint8), "holds 3 channels or planes"),
        ("float.tif", np.zeros((9, 9), np.float32), r"samples of 32 bits \(float32\) are no labels"),
        ("grey.jpg", np.zeros((9, 9), np.uint8), "JPEG does not keep numbers"),
    ],
)
def test_what_holds_no_labels_is_refused(tmp_path: Path, name: str, labels: np.ndarray, says: str) -> None:
    if name.endswith("tif"):
        tifffile.imwrite(tmp_path / name, labels)
    else:
        Image.fromarray(labels).save(tmp_path / name)
    write_mask(tmp_path / "pred.tif", np.zeros((9, 9), np.uint8))

    with pytest.raises(ImageError, match=says):
        evaluate(tmp_path / "pred.tif", tmp_path / name)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ignore": ("stroma",)}, "--ignore has 'stroma', neither a value of 0 to 255 nor a class"),
        ({"ignore": ("256",)}, "--ignore has '256'"),
        ({"classes": "1"}, "--classes has '1': write TRUTH=PRED"),
        ({"classes": "1=0,1=2"}, "a value stands in it twice"),
        ({"classes": "0=0,1=1,2=2"}, "the truth holds 3, of which neither --classes nor --ignore speaks"),
        ({"classes": "0=0,1=1,2=2,3=stroma"}, "the file names background"),
        ({"objects": "2", "border": "nuclei"}, "both class 2"),
        ({"objects": "9"}, "--objects is class 9; the prediction names background"),
        ({"border": "2"}, "give --objects as well"),
        ({"objects": "1", "min_object_px": -1}, "choose 0 or more"),
        ({"objects": "1", "classes": "0=0,1=2,2=3", "ignore": ("3",)}, "--objects is class 1, of which"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    labels = make_labels((60, 60))
    write_mask(tmp_path / "pred.tif", labels)
    write_truth(tmp_path / "truth.png", labels)
    with pytest.raises(UsageError, match=says):
        evaluate(tmp_path / "pred.tif", tmp_path / "truth.png", **options)
