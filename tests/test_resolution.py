"""The default model on slides of half and double its resolution: the mask's size, place and quality."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

import axialcli
from axialcli.backends.model_file import read_spec
from axialcli.backends.zoo import find_model, model_names
from axialcli.evaluate import evaluate
from axialcli.geometry import Size
from axialcli.image.sample import write_sample

HEIGHT, WIDTH = 448, 560
MPP = 0.25


@pytest.fixture(scope="module")
def model() -> axialcli.Model:
    return axialcli.load_model("nuclei", device="cpu")


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> tuple[NDArray[np.uint8], Path]:
    """A piece of stained tissue at 0.25 microns per pixel, and the file of its true mask."""
    folder = tmp_path_factory.mktemp("tissue")
    write_sample(folder / "s.tif", Size(HEIGHT, WIDTH), seed=0, mpp=MPP, truth=folder / "truth.tif")
    with axialcli.open_slide(folder / "s.tif") as slide:
        return slide.read(0, (0, 0, HEIGHT, WIDTH)), folder / "truth.tif"


def write(path: Path, image_HWC: NDArray[np.uint8], mpp: float) -> Path:
    per_cm = (1e4 / mpp, 1e4 / mpp)
    tifffile.imwrite(
        path, image_HWC, photometric="rgb", tile=(256, 256), resolution=per_cm, resolutionunit="CENTIMETER"
    )
    return path


def resized(image_HWC: NDArray[np.uint8], by: float) -> NDArray[np.uint8]:
    """Each pixel is the mean of what it covers."""
    height, width = (round(side * by) for side in image_HWC.shape[:2])
    return np.asarray(Image.fromarray(image_HWC).resize((width, height), Image.Resampling.BOX))


def dice(pred: Path, truth: Path) -> float:
    """Of the nuclei; both files say where they lie."""
    report = evaluate(pred, truth)
    assert report["pairs"][0]["placed_by"] == "mpp"
    found: float = report["pooled"]["classes"][1]["dice"]
    return found


def test_half_and_double_resolution_keep_size_place_and_most_of_the_quality(
    tmp_path: Path, model: axialcli.Model, tissue: tuple[NDArray[np.uint8], Path],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    image_HWC, truth = tissue
    slides = {
        "own": (image_HWC, MPP),
        "within": (resized(image_HWC, 5 / 8), MPP * 8 / 5),
        "coarse": (resized(image_HWC, 1 / 2), 2 * MPP),
        "fine": (image_HWC.repeat(2, 0).repeat(2, 1), MPP / 2),
    }
    found = {}
    for name, (pixels_HWC, mpp) in slides.items():
        write(tmp_path / f"{name}.tif", pixels_HWC, mpp)
        found[name] = axialcli.predict(tmp_path / f"{name}.tif", tmp_path / f"{name}-mask.tif", model=model)

    # 0.4 microns per pixel are within the model's range and taken as they are; the others are resampled.
    size, smaller = (HEIGHT, WIDTH), (HEIGHT * 5 // 8, WIDTH * 5 // 8)
    sizes = {name: tifffile.imread(tmp_path / f"{name}-mask.tif", level=0).shape for name in slides}
    assert sizes == {"own": size, "within": smaller, "coarse": size, "fine": size}
    assert {name: report["output"]["resampled"] for name, report in found.items()} == {
        "own": False, "within": False, "coarse": True, "fine": True,
    }  # fmt: skip
    for name, report in found.items():
        mpp = MPP * 8 / 5 if name == "within" else MPP
        assert report["output"]["mpp"] == pytest.approx([mpp, mpp], rel=1e-5)
    scores = {name: dice(tmp_path / f"{name}-mask.tif", truth) for name in slides}
    assert scores["own"] > 0.95
    assert scores["within"] > 0.93
    assert scores["coarse"] > 0.96
    assert dice(tmp_path / "coarse-mask.tif", tmp_path / "own-mask.tif") > 0.97
    assert dice(tmp_path / "fine-mask.tif", tmp_path / "own-mask.tif") > 0.985
    (warning,) = (record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
    assert warning == (
        f"{tmp_path / 'coarse.tif'} has 0.5 microns per pixel and is enlarged to 0.25; "
        "nuclei is made for 0.18 to 0.42: expect a worse mask"
    )


def test_what_is_coarser_than_the_model_s_range_is_enlarged_with_a_warning(
    tmp_path: Path, model: axialcli.Model, tissue: tuple[NDArray[np.uint8], Path],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    write(tmp_path / "slide.tif", resized(tissue[0], 1 / 4), 4 * MPP)

    report = axialcli.predict(tmp_path / "slide.tif", tmp_path / "mask.tif", model=model)

    assert report["output"]["size"] == [HEIGHT, WIDTH]
    assert report["output"]["mpp"] == [MPP, MPP]
    assert dice(tmp_path / "mask.tif", tissue[1]) > 0.85
    (warning,) = (record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
    assert warning == (
        f"{tmp_path / 'slide.tif'} has 1 microns per pixel and is enlarged to 0.25; "
        "nuclei is made for 0.18 to 0.42: expect a worse mask"
    )


@pytest.mark.parametrize(
    ("asked", "warned"),
    [({"mpp": 1.0}, True), ({"mpp": 0.5}, True), ({"mpp": 0.4}, False), ({"level": 0}, False)],
)
def test_a_resolution_that_is_asked_for_is_used_and_warned_of_where_the_model_is_not_made_for_it(
    tmp_path: Path, model: axialcli.Model, tissue: tuple[NDArray[np.uint8], Path],
    caplog: pytest.LogCaptureFixture, asked: dict[str, float], warned: bool,
) -> None:  # fmt: skip
    write(tmp_path / "slide.tif", tissue[0][:128, :160], MPP)

    report = axialcli.predict(tmp_path / "slide.tif", tmp_path / "mask.tif", model=model, **asked)

    mpp = asked.get("mpp", MPP)
    assert report["output"]["size"] == [128 * MPP / mpp, 160 * MPP / mpp]
    says = f"is predicted at {mpp:g} microns per pixel, and nuclei is made for 0.18 to 0.42"
    assert (says in caplog.text) == warned


@pytest.mark.parametrize("name", model_names())
def test_each_segmentation_model_says_for_which_resolutions_it_is_made(name: str) -> None:
    spec = read_spec(find_model(name))
    if spec.task == "segmentation":
        assert spec.input.mpp is not None
        assert spec.input.mpp_range is not None
        finest, coarsest = spec.input.mpp_range
        assert finest <= spec.input.mpp <= coarsest
