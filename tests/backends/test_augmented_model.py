"""Test-time augmentation: means over the forms of a picture, against numpy's turns and Pillow's resizing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import axialcli
from axialcli.backends import Model
from axialcli.backends.augmented_model import SCALES, AugmentedModel, augmented
from axialcli.errors import ModelError, UsageError
from tests.backends.conftest import Axial
from tests.engine.foreign import ForeignModel
from tests.fixtures.slides import picture, write_tiled
from tests.networks import small_model, small_model_file
from tests.test_pipeline import interrupt_at_the_second_block

AXIAL = {"width": (4, 8, 8), "depth": 1, "heads": 2, "span": 7}
EIGHT = [(quarters, mirrored) for quarters in range(4) for mirrored in (False, True)]


def batch(height: int, width: int) -> NDArray[np.uint8]:
    """Two pictures [B, C, H, W]."""
    images_BHWC = [picture(height, width, seed=seed) for seed in (0, 1)]
    return np.ascontiguousarray(np.stack(images_BHWC).transpose(0, 3, 1, 2))


def turned(array: NDArray[np.generic], quarters: int, mirrored: bool) -> NDArray[np.generic]:
    array = np.rot90(array, quarters, (-2, -1))
    return np.ascontiguousarray(array[..., ::-1] if mirrored else array)


def turned_back(array: NDArray[np.generic], quarters: int, mirrored: bool) -> NDArray[np.generic]:
    return np.rot90(array[..., ::-1] if mirrored else array, -quarters, (-2, -1))


def mean_of_forms(model: Model, images_BCHW: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The logits of each form by itself, turned back by numpy."""
    answers = [
        turned_back(model.predict(turned(images_BCHW, *form), logits=True), *form).astype(np.float64)
        for form in EIGHT
    ]
    return np.mean(answers, 0)


@pytest.mark.parametrize("size", [(40, 40), (37, 54)])
def test_turns_are_the_mean_of_eight_forms(size: tuple[int, int]) -> None:
    model, images_BCHW = small_model("axial_segmenter", **AXIAL), batch(*size)

    found = AugmentedModel(model).predict(images_BCHW, logits=True)

    alone = model.predict(images_BCHW, logits=True)
    assert np.abs(found - mean_of_forms(model, images_BCHW)).max() < 1e-5
    # There is something to average: the forms of a picture have other answers than the picture.
    assert np.abs(found - alone).max() > 0.01


@pytest.mark.parametrize("form", EIGHT[1:])
def test_the_answer_turns_with_the_picture(form: tuple[int, bool]) -> None:
    model, images_BCHW = AugmentedModel(small_model("axial_segmenter", **AXIAL)), batch(40, 24)

    found = model.predict(turned(images_BCHW, *form), logits=True)

    assert np.abs(turned_back(found, *form) - model.predict(images_BCHW, logits=True)).max() < 1e-5


def test_full_is_the_mean_of_four_scales_as_pillow_resizes() -> None:
    model, images_BCHW = small_model("axial_segmenter", **AXIAL), batch(80, 120)

    found = augmented(model, "full").predict(images_BCHW, logits=True)

    wanted = mean_of_forms(model, images_BCHW)
    for scale in SCALES:
        size = (round(120 * scale), round(80 * scale))
        smaller = np.stack(
            [
                np.asarray(Image.fromarray(one.transpose(1, 2, 0)).resize(size, Image.Resampling.BICUBIC))
                for one in images_BCHW
            ]
        )
        answers = mean_of_forms(model, np.ascontiguousarray(smaller.transpose(0, 3, 1, 2)))
        wanted = wanted + [[resized_back(plane_HW, 120, 80) for plane_HW in one] for one in answers]
    # Pillow rounds what it resized to whole grey levels, and smooths where torch interpolates back.
    difference = np.abs(found - wanted / (1 + len(SCALES)))
    assert difference.mean() < 0.01 * np.abs(found).mean()
    assert np.abs(found - mean_of_forms(model, images_BCHW)).mean() > 2 * difference.mean()


def resized_back(plane_HW: NDArray[np.float64], width: int, height: int) -> NDArray[np.float32]:
    if plane_HW.shape[0] > height:
        # Between neighbours, and not the mean of many, as Pillow would have it.
        y, x = (
            (np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip((height, width), plane_HW.shape, strict=True)
        )
        rows = np.array([np.interp(x, np.arange(plane_HW.shape[1]), row) for row in plane_HW])
        return np.array([np.interp(y, np.arange(len(rows)), column) for column in rows.T], np.float32).T
    small = Image.fromarray(plane_HW.astype(np.float32))
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))


class Corner(nn.Module):
    """Class 0: the pixel in the upper left corner. As a classifier, or for every cell of `stride` pixels."""

    def __init__(self, stride: int | None) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, images_BCHW: Tensor) -> Tensor:
        if self.stride is None:
            first_B = images_BCHW[:, 0, 0, 0]
            return torch.stack((first_B, -first_B), 1)
        cells_BHW = images_BCHW[:, 0, :: self.stride, :: self.stride]
        return torch.stack((cells_BHW, -cells_BHW), 1)


def test_a_classifier_answers_the_mean_of_all_corners() -> None:
    model = ForeignModel(Corner(None), classes=2, task="classification")
    images_BCHW = batch(30, 20)

    found = AugmentedModel(model).predict(images_BCHW, logits=True)

    red = images_BCHW[:, 0].astype(np.float64)
    corners_B = (red[:, 0, 0] + red[:, 0, -1] + red[:, -1, 0] + red[:, -1, -1]) / 4
    assert np.abs(found[:, 0] - (corners_B / 255 - 0.5) / 0.25).max() < 1e-5


def test_answers_at_a_lower_resolution_and_sizes_in_multiples_are_kept() -> None:
    model = ForeignModel(Corner(4), classes=2, stride=4, multiple=8)
    images_BCHW = batch(48, 64)

    found = augmented(model, "full").predict(images_BCHW, logits=True)

    assert found.shape == (2, 2, 12, 16)
    assert {(height % 8, width % 8) for _, _, height, width in model.seen} == {(0, 0)}
    assert len(set(model.seen)) == 2 * (1 + len(SCALES))


def test_a_model_of_one_size_that_is_no_square_sees_the_four_forms_that_fit() -> None:
    model = ForeignModel(Corner(1), classes=2, size=(24, 40))
    images_BCHW = batch(24, 40)

    found = AugmentedModel(model).predict(images_BCHW, logits=True)

    assert set(model.seen) == {(2, 3, 24, 40)}
    assert len(model.seen) == 4
    assert np.abs(found - model.predict(images_BCHW, logits=True)).max() < 1e-5
    with pytest.raises(UsageError, match="--tta full needs other sizes, 'foreign' takes 24 x 40 only"):
        augmented(model, "full")


def test_a_mask_is_that_of_the_mean_and_the_report_says_so(tmp_path: Path) -> None:
    image_HWC = picture(90, 130)
    slide = write_tiled(tmp_path / "slide.tif", image_HWC, mpp=0.5).path
    model = small_model("axial_segmenter", **AXIAL)

    report = axialcli.predict(slide, tmp_path / "mask.tif", model=model, tta="turns")

    mean_KHW = mean_of_forms(model, image_HWC.transpose(2, 0, 1)[None])[0]
    clear_HW = np.abs(mean_KHW[1] - mean_KHW[0]) > 1e-4
    assert clear_HW.mean() > 0.99
    found_HW = tifffile.imread(tmp_path / "mask.tif")
    assert np.array_equal(found_HW[clear_HW], (mean_KHW[1] > mean_KHW[0])[clear_HW])
    assert report["engine"] == "tiles"
    assert report["engine_reason"] == "test-time augmentation sees each tile several times"
    assert report["model"]["tta"] == {"turns": 8, "scales": [1.0]}


def test_what_was_begun_without_is_not_continued_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = write_tiled(tmp_path / "slide.tif", picture(1200, 300), mpp=0.5).path
    with monkeypatch.context() as patch:
        interrupt_at_the_second_block(patch)
        with pytest.raises(KeyboardInterrupt):
            axialcli.predict(slide, tmp_path / "mask.tif", model=small_model(), engine="tiles")

    report = axialcli.predict(slide, tmp_path / "mask.tif", model=small_model(), engine="tiles", tta="turns")

    assert report["resumed_blocks"] == 0
    assert "starting over, the earlier run differed in: description, settings" in caplog.text


def test_the_command_refuses_a_stream_and_an_overlap_that_nobody_states(tmp_path: Path, axial: Axial) -> None:
    slide = write_tiled(tmp_path / "slide.tif", picture(90, 130), mpp=0.5).path
    model = small_model_file(tmp_path / "small.safetensors", "axial_segmenter", **AXIAL)
    given = ("predict", slide, "--out", tmp_path / "m.tif", "--model", model, "--tta", "turns")

    code, _, err = axial(*given, "--engine", "stream")
    assert (code, "cannot be streamed: test-time augmentation sees each tile" in err) == (4, True)
    code, _, err = axial(*given, "--engine", "tiles", "--overlap", "auto")
    assert (code, "need a receptive field, and with --tta there is none" in err) == (2, True)
    code, _, err = axial(*given, "--certify", 2)
    assert (code, "need a receptive field, and with --tta there is none" in err) == (2, True)
    code, _, err = axial(*given[:-1], "rounds")
    assert (code, "--tta is 'rounds': choose one of off, turns, full" in err) == (2, True)
    assert not (tmp_path / "m.tif").exists()

    code, out, _ = axial(*given, "--json")
    assert (code, json.loads(out)["model"]["tta"]["turns"]) == (0, 8)


def test_off_is_the_model_itself() -> None:
    model = small_model()

    assert augmented(model, "off") is model
    with pytest.raises(ModelError):
        AugmentedModel(model).predict(np.zeros((1, 5, 8, 8), np.uint8))
