"""Masks of another resolution, another place and another shape, on the truth's grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image

from axialcli.errors import UsageError
from axialcli.evaluate import evaluate
from axialcli.geometry import GeoReference
from tests.evaluate.naive import dice_and_iou, nearest
from tests.output.runs import make_labels, write_mask


def agreement(pred: Path, truth: Path, **options: Any) -> float:
    found: float = evaluate(pred, truth, **options)["pooled"]["agreement"]
    return found


@pytest.mark.parametrize(
    ("pred_size", "true_size", "step"),
    [
        ((120, 160), (120, 160), (1, 1)),
        ((60, 80), (120, 160), (0.5, 0.5)),
        ((61, 81), (121, 161), (0.5, 0.5)),  # Rounded up: the last pixels reach over the edge.
        ((11, 16), (643, 961), (1 / 64, 1 / 64)),
        ((10, 16), (640, 1024), (1 / 64, 1 / 64)),
        ((2, 2), (100, 110), (1 / 64, 1 / 64)),
        ((240, 320), (120, 160), (2, 2)),
        ((239, 319), (120, 160), (2, 2)),
        ((100, 150), (130, 195), (100 / 130, 150 / 195)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stated", [False, True])
def test_a_mask_is_laid_on_the_truth_s_grid(
    tmp_path: Path, pred_size: tuple[int, int], true_size: tuple[int, int], step: Any, stated: bool
) -> None:
    pred = make_labels(pred_size, cell=3)
    want = nearest(pred, true_size, step)
    mpp = (0.5, 0.25)
    write_mask(tmp_path / "pred.tif", pred, mpp=mpp if stated else None)
    truth = make_labels(true_size, seed=1)
    per_cm = [1e4 / (own * by) for own, by in zip(mpp[::-1], step[::-1], strict=True)]
    scale = {"resolution": per_cm, "resolutionunit": "CENTIMETER"} if stated else {}
    tifffile.imwrite(tmp_path / "truth.tif", truth, **scale)

    report = evaluate(tmp_path / "pred.tif", tmp_path / "truth.tif")

    assert report["pairs"][0]["placed_by"] == ("mpp" if stated else "size")
    for value, one in enumerate(report["pooled"]["classes"]):
        if (truth == value).any() or (want == value).any():
            assert one["dice"] == pytest.approx(float(dice_and_iou(want, truth, value)[0]))


def geo(x: float, y: float, pixel: float, epsg: int = 32618) -> GeoReference:
    keys = (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, epsg)
    return GeoReference(
        pixel_scale=(pixel, pixel, 0.0), tiepoints=(0.0, 0, 0, x, y, 0), geo_keys=keys, geo_ascii=""
    )


def write_geo_truth(path: Path, labels: np.ndarray, x: float, y: float, pixel: float) -> None:
    with rasterio.open(
        path, "w", driver="GTiff", height=labels.shape[0], width=labels.shape[1], count=1, dtype="uint8",
        crs="EPSG:32618", transform=rasterio.Affine(pixel, 0, x, 0, -pixel, y),
    ) as file:  # fmt: skip
        file.write(labels, 1)


def test_georeferenced_masks_meet_where_they_lie_in_the_world(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The truth is a part of the scene at half of the resolution, and reaches over its left edge."""
    pred = make_labels((200, 240), cell=10)
    write_mask(tmp_path / "pred.tif", pred, georeference=geo(5e5, 4.6e6, 2.0), mpp=None)
    # 20 m left of the scene and 40 m below its top; pixels of 4 m.
    truth = np.full((60, 50), 9, np.uint8)
    truth[:, 5:] = pred[20:140:2, 0:90:2]
    write_geo_truth(tmp_path / "truth.tif", truth, 5e5 - 20, 4.6e6 - 40, 4.0)

    report = evaluate(tmp_path / "pred.tif", tmp_path / "truth.tif")

    # Centres of 4 m pixels are corners of the 2 m ones: of four the lower right one is taken.
    want = pred[21:141:2, 1:91:2]
    assert report["pairs"][0]["placed_by"] == "georeference"
    assert report["pairs"][0]["outside_share"] == pytest.approx(0.1)
    assert report["pooled"]["pixels"] == 60 * 45
    assert report["pooled"]["agreement"] == pytest.approx(np.mean(want == truth[:, 5:]))
    assert report["pooled"]["agreement"] > 0.8
    assert "lies to 10 % outside" in caplog.text


def test_points_mean_the_middle_of_their_pixels(tmp_path: Path) -> None:
    pred = make_labels((64, 64), cell=1)
    area = geo(5e5, 4.6e6, 2.0)
    point = GeoReference(
        pixel_scale=area.pixel_scale,
        tiepoints=(0.0, 0, 0, 5e5 + 1, 4.6e6 - 1, 0),
        geo_keys=(1, 1, 0, 2, 1025, 0, 1, 2, 3072, 0, 1, 32618),
        pixel_is_point=True,
    )
    write_mask(tmp_path / "a.tif", pred, georeference=area, mpp=None)
    write_mask(tmp_path / "b.tif", pred, georeference=point, mpp=None)

    assert agreement(tmp_path / "a.tif", tmp_path / "b.tif") == 1
    assert evaluate(tmp_path / "a.tif", tmp_path / "b.tif")["pairs"][0]["outside_share"] == 0


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        (geo(6e5, 4.6e6, 2.0), "lie at different places"),
        (geo(5e5, 4.6e6, 2.0, epsg=32619), r"different systems of coordinates \(32618 and 32619\)"),
        # One that the file describes itself.
        (geo(5e5, 4.6e6, 2.0, epsg=32767), r"different systems of coordinates \(32618 and 32767\)"),
        (
            GeoReference(transformation=(0, 2, 0, 5e5, 2, 0, 0, 4.6e6, 0, 0, 0, 0, 0, 0, 0, 1)),
            "are turned against each other",
        ),
    ],
)
def test_another_place_is_refused_unless_size_alone_counts(
    tmp_path: Path, reference: GeoReference, says: str
) -> None:
    labels = make_labels((64, 64))
    write_mask(tmp_path / "pred.tif", labels, georeference=geo(5e5, 4.6e6, 2.0), mpp=None)
    write_mask(tmp_path / "truth.tif", labels, georeference=reference, mpp=None)
    with pytest.raises(UsageError, match=says):
        evaluate(tmp_path / "pred.tif", tmp_path / "truth.tif")
    assert agreement(tmp_path / "pred.tif", tmp_path / "truth.tif", by_size=True) == 1


def test_sizes_without_a_whole_factor_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_mask(tmp_path / "pred.tif", make_labels((40, 50)), mpp=None)
    for name, size in (("odd.png", (41, 50)), ("twice.png", (80, 100))):
        Image.fromarray(make_labels(size)).save(tmp_path / name)

    agreement(tmp_path / "pred.tif", tmp_path / "twice.png")
    assert caplog.text == ""
    agreement(tmp_path / "pred.tif", tmp_path / "odd.png")
    assert "by size, 0.976 x 1" in caplog.text


def test_another_field_is_refused(tmp_path: Path) -> None:
    labels = make_labels((64, 80))
    write_mask(tmp_path / "pred.tif", labels, mpp=(0.5, 0.5))
    write_mask(tmp_path / "truth.tif", labels, mpp=(0.25, 0.25))
    Image.fromarray(labels[:, :60]).save(tmp_path / "other.png")
    with pytest.raises(UsageError, match=r"shows 32 x 40 um and .* 16 x 20 um: not the same picture"):
        evaluate(tmp_path / "pred.tif", tmp_path / "truth.tif")
    assert agreement(tmp_path / "pred.tif", tmp_path / "truth.tif", by_size=True) == 1
    with pytest.raises(UsageError, match=r"64 x 80 pixels and .* 64 x 60 pixels: sizes of different shape"):
        evaluate(tmp_path / "pred.tif", tmp_path / "other.png")
