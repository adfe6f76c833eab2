"""The overlay shows the regions on the picture; the report is JSON that nothing can break."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from axialcli.errors import OutputError
from axialcli.output import class_areas, overlay, write_overlay, write_report
from axialcli.output.overlay import outlines
from axialcli.output.reduce import nearest
from tests.output.runs import CLASSES


def test_background_stays_and_regions_are_tinted_with_a_stronger_edge() -> None:
    thumbnail = np.full((20, 30, 3), 100, np.uint8)
    labels = np.zeros((20, 30), np.uint8)
    labels[5:15, 5:15] = 1
    picture = overlay(thumbnail, labels, CLASSES, alpha=0.5)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[labels == 0], thumbnail[labels == 0])
    assert picture[10, 10].tolist() == [178, 50, 55]
    assert picture[5, 10].tolist() == [240, 10, 19]
    assert thumbnail.max() == 100


def test_a_grey_thumbnail_becomes_a_colour_picture() -> None:
    thumbnail = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    picture = overlay(thumbnail, np.zeros((3, 4), np.uint8), CLASSES)
    np.testing.assert_array_equal(picture, thumbnail.repeat(3, 2))


@pytest.mark.parametrize("shape", [(21, 29), (40, 60), (10, 15), (1, 1)])
def test_labels_of_another_size_are_fitted_and_never_mixed(shape: tuple[int, int]) -> None:
    labels = np.zeros(shape, np.uint8)
    labels[shape[0] // 2 :, :] = 3
    fitted = nearest(labels, 20, 30)
    assert fitted.shape == (20, 30)
    assert set(np.unique(fitted)) <= {0, 3}
    assert fitted[-1, -1] == 3
    if shape != (1, 1):
        assert abs(int((fitted == 0).sum()) - 300) <= 30


def test_outlines_lie_inside_regions() -> None:
    labels = np.array([[0, 0, 0, 0], [0, 1, 2, 2], [0, 1, 2, 2]], np.uint8)
    assert outlines(labels).astype(int).tolist() == [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 1, 0]]


def test_the_png_is_at_most_2048_px(tmp_path: Path) -> None:
    picture = np.zeros((100, 4100, 3), np.uint8)
    picture[:, 2050:] = 255
    path = write_overlay(tmp_path / "o.png", picture)
    with Image.open(path) as found:
        assert found.size == (2048, 50)
        assert found.getpixel((2000, 20)) == (255, 255, 255)
    with pytest.raises(OutputError, match=r"cannot write .*no/o\.png: .*make its folder first"):
        write_overlay(tmp_path / "no" / "o.png", picture)


def test_the_report_is_sorted_ascii_json(tmp_path: Path) -> None:
    report = {"b": [1, 2.5, None], "a": {"input": "evil\x1b[2J\x7f\n\ud800.tif"}}
    path = write_report(tmp_path / "r.json", report)
    text = path.read_bytes()
    assert json.loads(text) == report
    assert text.index(b'"a"') < text.index(b'"b"')
    assert all(32 <= byte < 127 or byte == 10 for byte in text)


def test_a_report_with_a_number_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(tmp_path / "r.json", {"rate": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_areas_of_classes() -> None:
    areas = class_areas(np.array([30, 10]), CLASSES[:2], (0.5, 0.25))
    assert areas[1] == {
        "label": 1,
        "name": CLASSES[1].name,
        "pixels": 10,
        "share": 0.25,
        "area_um2": 1.25,
    }
    assert class_areas([0, 0], CLASSES[:2], None)[0]["area_um2"] is None
    json.dumps(areas)
