"""Test-time augmentation: means over the forms of a picture, against numpy's turns and Pillow's resizing."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from axialcli.errors import UsageError
from tests.backends.conftest import Axial
from tests.engine.foreign import ForeignModel, seeded
from tests.fixtures.slides import picture, write_tiled
from tests.networks import small_model, small_model_file
from tests.test_pipeline import interrupt_at_the_second_block

AXIAL = {"width": (4, 8, 8), "depth": 1, "heads": 2, "span": 7}
EIGHT = [(quarters, mirrored) for quarters in range(4) for mirrored in (False, True)]


def seeing(**said: Any) -> ForeignModel:
    """A model that answers to what it sees, and otherwise to each form of it."""
    layers = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 3, padding=1)
    return ForeignModel(seeded(3, *layers), classes=2, **said)


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
@pytest.mark.parametrize(
    "model", [seeing(), small_model("axial_segmenter", **AXIAL)], ids=["seeing", "axial"]
)
def test_turns_are_the_mean_of_eight_forms(model: Model, size: tuple[int, int]) -> None:
    images_BCHW = batch(*size)

    found = AugmentedModel(model).predict(images_BCHW, logits=True)

    assert np.abs(found - mean_of_forms(model, images_BCHW)).max() < 1e-5


def test_forms_differ_in_what_they_answer() -> None:
    """Or there would be nothing to average, and no way to see that they are turned back rightly."""
    model, images_BCHW = seeing(), batch(40, 40)
    own = model.predict(images_BCHW, logits=True)
    answers = [
        turned_back(model.predict(turned(images_BCHW, *form), logits=True), *form) for form in EIGHT[1:]
    ]

    assert all(np.abs(answer - own).mean() > 0.05 * own.std() for answer in answers)


@pytest.mark.parametrize("form", EIGHT[1:])
def test_the_answer_turns_with_the_picture(form: tuple[int, bool]) -> None:
    model, images_BCHW = AugmentedModel(seeing()), batch(40, 24)

    found = model.predict(turned(images_BCHW, *form), logits=True)

    assert np.abs(turned_back(found, *form) - model.predict(images_BCHW, logits=True)).max() < 1e-5


def test_full_is_the_mean_of_four_scales_as_pillow_resizes() -> None:
    model, images_BCHW = seeing(), batch(80, 120)

    found = augmented(model, "full", None).predict(images_BCHW, logits=True)

    wanted = mean_of_forms(model, images_BCHW)
    for scale in SCALES:
        size = (round(120 * scale), round(80 * scale))
        resized = np.stack([resized_as_floats(one, size) for one in images_BCHW])
        answers = mean_of_forms(model, resized)
        wanted = wanted + [[resized_back(plane_HW, 120, 80) for plane_HW in one] for one in answers]
    wanted /= 1 + len(SCALES)
    assert np.abs(found - wanted).max() < 0.01 * wanted.std()
    assert np.abs(found - mean_of_forms(model, images_BCHW)).max() > 0.1 * wanted.std()


def resized_as_floats(image_CHW: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    """By Pillow, without rounding to whole grey levels."""
    planes = [Image.fromarray(plane_HW.astype(np.float32)) for plane_HW in image_CHW]
    return np.stack([np.asarray(plane.resize(size, Image.Resampling.BICUBIC)) for plane in planes])


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
    """A classifier. Class 0: the pixel in the upper left corner."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        first_B = images_BCHW[:, 0, 0, 0]
        return torch.stack((first_B, -first_B), 1)


def test_a_classifier_answers_the_mean_of_all_corners() -> None:
    model = ForeignModel(Corner(), classes=2, task="classification")
    images_BCHW = batch(30, 20)

    found = AugmentedModel(model).predict(images_BCHW, logits=True)

    red = images_BCHW[:, 0].astype(np.float64)
    corners_B = (red[:, 0, 0] + red[:, 0, -1] + red[:, -1, 0] + red[:, -1, -1]) / 4
    assert np.abs(found[:, 0] - (corners_B / 255 - 0.5) / 0.25).max() < 1e-5
    with pytest.raises(UsageError, match="--tta full is for models that segment, 'foreign' classifies"):
        augmented(model, "full", None)


def test_answers_at_a_lower_resolution_lie_where_they_belong() -> None:
    """Means of cells of 4 pixels, of a ramp that no form and no scale changes but at the sides."""
    model = ForeignModel(Means(4), classes=2, stride=4, multiple=32)
    ramp_HW = np.add.outer(np.arange(64), 2 * np.arange(96)).astype(np.uint8)
    images_BCHW = np.broadcast_to(ramp_HW, (2, 3, 64, 96))

    found = augmented(model, "full", None).predict(images_BCHW, logits=True)

    assert found.shape == (2, 2, 16, 24)
    wanted_HW = (ramp_HW.reshape(16, 4, 24, 4).mean((1, 3)) / 255 - 0.5) / 0.25
    assert np.abs(found[0, 0] - wanted_HW)[2:-2, 2:-2].max() < 0.01 * np.ptp(wanted_HW)
    assert {(height % 32, width % 32) for _, _, height, width in model.seen} == {(0, 0)}


class Means(nn.Module):
    """Class 0: the mean of cells of `side` pixels."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, images_BCHW: Tensor) -> Tensor:
        means_B1HW = nn.functional.avg_pool2d(images_BCHW[:, :1], self.side)
        return torch.cat((means_B1HW, -means_B1HW), 1)


def test_a_model_of_one_size_that_is_no_square_sees_the_four_forms_that_fit() -> None:
    model, images_BCHW = seeing(size=(24, 40)), batch(24, 40)

    found = AugmentedModel(model).predict(images_BCHW, logits=True)

    assert model.seen == [(2, 3, 24, 40)] * 4
    forms = [(quarters, mirrored) for quarters, mirrored in EIGHT if quarters % 2 == 0]
    answers = [turned_back(model.predict(turned(images_BCHW, *form), logits=True), *form) for form in forms]
    assert np.abs(found - np.mean(answers, 0)).max() < 1e-5
    with pytest.raises(UsageError, match="--tta full needs other sizes, 'foreign' takes 24 x 40 only"):
        augmented(model, "full", None)


def test_scales_that_a_model_is_not_made_for_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    model = small_model()
    model.spec = replace(model.spec, input=replace(model.spec.input, mpp=0.25, mpp_range=(0.18, 0.55)))

    def scales(mpp: float | None) -> list[float]:
        said: list[float] = augmented(model, "full", mpp).describe()["tta"]["scales"]
        return said

    assert scales(0.25) == scales(None) == [1.0, *SCALES]
    assert caplog.messages == []
    assert scales(0.5) == [1.0, 1.25]
    assert caplog.messages == [
        "--tta full: without 0.6 and 0.8 times the resolution, small is made for 0.18 to 0.55 microns per"
        " pixel"
    ]
    # As where a level is chosen: two hundredths beside the range are within it.
    assert scales(0.178 * 1.25) == scales(0.56 * 0.6) == [1.0, *SCALES]
    assert scales(0.175 * 1.25) == [1.0, 0.6, 0.8]


def test_no_answer_of_a_form_is_kept_while_others_are_made() -> None:
    """Memory: the sum, and what is being added to it."""
    answers: list[weakref.ref[Tensor]] = []

    class Watched(ForeignModel):
        def run(self, images_BCHW: Tensor) -> Tensor:
            assert sum(answer() is not None for answer in answers) <= 1
            answer = super().run(images_BCHW)
            answers.append(weakref.ref(answer))
            return answer

    model = Watched(seeded(3, nn.Conv2d(3, 2, 1)), classes=2)

    augmented(model, "full", None).predict(batch(20, 30))

    assert len(answers) == 8 * (1 + len(SCALES))


def test_a_mask_is_that_of_the_mean_and_the_report_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image_HWC = picture(90, 130)
    slide = write_tiled(tmp_path / "slide.tif", image_HWC, mpp=0.5).path
    model = seeing()

    report = axialcli.predict(slide, tmp_path / "mask.tif", model=model, tta="turns")

    mean_KHW = mean_of_forms(model, image_HWC.transpose(2, 0, 1)[None])[0]
    clear_HW = np.abs(mean_KHW[1] - mean_KHW[0]) > 1e-4
    found_HW = tifffile.imread(tmp_path / "mask.tif")
    assert 0.05 < found_HW.mean() < 0.95
    assert clear_HW.mean() > 0.99
    assert np.array_equal(found_HW[clear_HW], (mean_KHW[1] > mean_KHW[0])[clear_HW])
    assert (report["engine"], report["engine_reason"]) == ("tiles", "test-time augmentation runs in tiles")
    assert report["model"]["tta"] == {"forms": 8, "scales": [1.0]}
    assert caplog.messages == []


@pytest.mark.parametrize("tta", ["turns", "full"])
def test_a_continued_run_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tta: str
) -> None:
    slide = write_tiled(tmp_path / "slide.tif", picture(1200, 300), mpp=0.5).path
    axialcli.predict(slide, tmp_path / "once.tif", model=seeing(), tta=tta)
    with monkeypatch.context() as patch:
        interrupt_at_the_second_block(patch)
        with pytest.raises(KeyboardInterrupt):
            axialcli.predict(slide, tmp_path / "mask.tif", model=seeing(), tta=tta)

    report = axialcli.predict(slide, tmp_path / "mask.tif", model=seeing(), tta=tta)

    assert report["resumed_blocks"] == 1
    assert (tmp_path / "mask.tif").read_bytes() == (tmp_path / "once.tif").read_bytes()


def test_what_was_begun_without_is_not_continued_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = write_tiled(tmp_path / "slide.tif", picture(1200, 300), mpp=0.5).path
    with monkeypatch.context() as patch:
        interrupt_at_the_second_block(patch)
        with pytest.raises(KeyboardInterrupt):
            axialcli.predict(slide, tmp_path / "mask.tif", model=seeing(), engine="tiles")

    report = axialcli.predict(slide, tmp_path / "mask.tif", model=seeing(), engine="tiles", tta="turns")

    assert report["resumed_blocks"] == 0
    assert "starting over, the earlier run differed in: settings" in caplog.text


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--engine", "stream"), "--engine stream"),
        (("--overlap", "auto"), "--overlap auto"),
        (("--certify", 2, "--overlap", "auto"), "--overlap auto, --certify"),
    ],
)
def test_what_tiles_in_several_forms_cannot_have_is_refused(
    tmp_path: Path, axial: Axial, options: tuple[object, ...], names: str
) -> None:
    slide = write_tiled(tmp_path / "slide.tif", picture(90, 130), mpp=0.5).path

    code, _, err = axial("predict", slide, "--out", tmp_path / "m.tif", "--tta", "turns", *options)

    assert code == 2
    assert (
        "--tta runs in tiles, and its forms have no common receptive field: leave out " + names
        in one_line(err)
    )
    assert not (tmp_path / "m.tif").exists()


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_the_command_takes_it(tmp_path: Path, axial: Axial) -> None:
    slide = write_tiled(tmp_path / "slide.tif", picture(90, 130), mpp=0.5).path
    model = small_model_file(tmp_path / "small.safetensors", "axial_segmenter", **AXIAL)
    given = ("predict", slide, "--out", tmp_path / "m.tif", "--model", model, "--json", "--tta")

    code, _, err = axial(*given, "rounds")
    assert (code, "--tta is 'rounds': choose one of off, turns, full" in err) == (2, True)
    code, out, _ = axial(*given, "full")
    assert (code, json.loads(out)["model"]["tta"]) == (0, {"forms": 8, "scales": [1.0, *SCALES]})


def test_off_is_the_model_itself() -> None:
    model = small_model()

    assert augmented(model, "off", None) is model
