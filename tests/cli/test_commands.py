"""The commands on good input."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.cli.conftest import Axial
from tests.networks import small_model_file


@pytest.fixture
def slide(tmp_path: Path, axial: Axial) -> Path:
    assert axial("sample", "slide.tif", "--size", "600x900", "--truth", "truth.tif").returncode == 0
    return tmp_path / "slide.tif"


def test_predict_writes_mask_report_overlay_and_probabilities(slide: Path, axial: Axial) -> None:
    done = axial(
        "predict", slide, "--out", "mask.tif", "--overlay", "overlay.png", "--probs", "probs.tif", "--json"
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    folder = slide.parent
    mask_HW = tifffile.imread(folder / "mask.tif", level=0)
    truth_HW = tifffile.imread(folder / "truth.tif", level=0)
    assert mask_HW.shape == (600, 900)
    both = np.count_nonzero((mask_HW > 0) & (truth_HW > 0))
    assert 2 * both / (np.count_nonzero(mask_HW) + np.count_nonzero(truth_HW)) > 0.8
    report = json.loads(done.stdout)
    assert report == json.loads((folder / "mask.tif.json").read_text())
    assert [entry["pixels"] for entry in report["classes"]] == np.bincount(
        mask_HW.ravel(), minlength=2
    ).tolist()
    assert report["classes"][1]["area_um2"] == pytest.approx(np.count_nonzero(mask_HW) * 0.25**2)
    assert report["output"]["mpp"] == [0.25, 0.25]
    probs_KHW = tifffile.imread(folder / "probs.tif", level=0)
    sure_HW = np.abs(probs_KHW[1].astype(int) - probs_KHW[0]) > 1
    assert np.array_equal((probs_KHW[1] > probs_KHW[0])[sure_HW], (mask_HW == 1)[sure_HW])
    with Image.open(folder / "overlay.png") as overlay:
        assert overlay.size == (900, 600)
    assert sorted(path.name for path in folder.iterdir()) == [
        "mask.tif",
        "mask.tif.json",
        "overlay.png",
        "probs.tif",
        "slide.tif",
        "truth.tif",
    ]


@pytest.mark.parametrize(
    ("mpp", "unit", "um2"), [("0.25", "mm2", 1e6), ("1e6", "m2", 1e12), ("1e7", "km2", 1e18)]
)
def test_areas_are_said_in_the_unit_that_suits_them(
    slide: Path, axial: Axial, mpp: str, unit: str, um2: float
) -> None:
    model = small_model_file(slide.parent / "m.safetensors")

    done = axial("predict", slide, "-o", "mask.tif", "-m", model, "--mpp-override", mpp, "--level", "0")

    assert done.returncode == 0, done.stderr
    said = re.findall(r", ([0-9.]+) (\S+)$", done.stdout, re.MULTILINE)
    assert [found for _, found in said] == [unit, unit]
    assert sum(float(area) for area, _ in said) == pytest.approx(540_000 * float(mpp) ** 2 / um2, rel=1e-2)


def test_predict_refuses_to_overwrite_unless_forced(slide: Path, axial: Axial) -> None:
    model = small_model_file(slide.parent / "m.safetensors")
    (slide.parent / "mask.tif").write_text("precious")

    refused = axial("predict", slide, "--out", "mask.tif", "--model", model)

    assert refused.returncode == 5
    assert refused.stderr == "axial: error: mask.tif: exists already; --force overwrites it\n"
    assert (slide.parent / "mask.tif").read_text() == "precious"
    assert axial("predict", slide, "--out", "mask.tif", "--model", model, "--force").returncode == 0
    assert tifffile.imread(slide.parent / "mask.tif", level=0).shape == (600, 900)


def test_info_prints_json_without_torch(slide: Path, axial: Axial) -> None:
    done = axial("info", slide, "--json")

    found = json.loads(done.stdout)
    assert found["size"] == [600, 900]
    assert found["mpp"] == [0.25, 0.25]
    assert "largest" in found["chosen"]


def test_models_list_and_show_read_the_model_files(axial: Axial) -> None:
    listed = axial("models", "list")
    shown = axial("models", "show", "nuclei", "--json")

    assert "nuclei (default)" in listed.stdout
    description = json.loads(shown.stdout)
    assert description["name"] == "nuclei"
    assert [entry["name"] for entry in description["classes"]] == ["background", "nucleus"]


def test_the_resolution_comes_from_the_model_unless_chosen(slide: Path, axial: Axial) -> None:
    def size(*options: str) -> list[int]:
        done = axial("predict", slide, "--out", "m.tif", "--force", "--json", *options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["output"]["size"]  # type: ignore[no-any-return]

    assert size() == [600, 900]
    assert size("--mpp", "0.3") == [500, 750]
    assert size("--level", "1") == [300, 450]
    # The slide now counts as finer than the model knows: resampled to the model's own 0.25.
    assert size("--mpp-override", "0.04") == [96, 144]


def test_a_slide_without_resolution_is_taken_as_it_is_with_a_warning(tmp_path: Path, axial: Axial) -> None:
    Image.fromarray(np.full((40, 50, 3), 200, np.uint8)).save(tmp_path / "p.png")

    done = axial("predict", "p.png", "--out", "m.tif")

    assert done.returncode == 0
    assert done.stderr.startswith(
        "axial: warning: p.png does not say its resolution: level 0 is taken as it is"
    )
    assert tifffile.imread(tmp_path / "m.tif").shape == (40, 50)


def test_a_certificate_is_a_line_of_the_summary(slide: Path, axial: Axial) -> None:
    model = small_model_file(slide.parent / "m.safetensors")

    done = axial("predict", slide, "-o", "m.tif", "-m", model, "--engine", "tiles", "--certify", "3")

    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("  certificate: in 3 windows logits differ by up to ")
    assert last.endswith(" % of the pixels have another class")


def test_version_and_help(axial: Axial) -> None:
    assert axial("--version").stdout == "axial 0.1.0\n"
    text = axial("predict", "--help").stdout
    for option in ("--out", "--model", "--overlap", "--max-ram", "--probs", "--overlay",
                   "--engine", "--background", "--scratch", "--store-dtype", "--certify"):  # fmt: skip
        assert option in text
