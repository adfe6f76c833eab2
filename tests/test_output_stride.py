"""Models that answer at a lower resolution or once per tile, from slide to mask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import rasterio
import tifffile
import torch
from PIL import Image
from torch import nn

import axialcli
from axialcli.errors import ModelError, UsageError
from tests.engine.foreign import ForeignModel, classifier, context, filled, noise, patches
from tests.fixtures.slides import write_geotiff, write_ome, write_svs, write_tiled
from tests.test_pipeline import interrupt_at_the_second_block, sha256


class RedShare(nn.Module):
    """Class 1 where more red than green lies in a block, of the picture or of all of it.

    share: how much of a block has to be red.
    """

    def __init__(self, stride: int | None, share: float = 0.0025) -> None:
        super().__init__()
        self.stride, self.share = stride, share

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        apart_B1HW = images_BCHW[:, :1] - images_BCHW[:, 1:2]
        if self.stride is None:
            mean = apart_B1HW.mean(dim=(2, 3))
        else:
            mean = nn.functional.avg_pool2d(apart_B1HW, self.stride)
        return torch.cat((torch.full_like(mean, 4 * self.share), mean), dim=1)


def red_squares(height: int, width: int, cell: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A grey picture with some cells of its grid red, and the mask that has one pixel per cell."""
    draw = np.random.default_rng(0)
    red_HW = draw.integers(0, 2, (-(-height // cell), -(-width // cell)), dtype=np.uint8)
    large_HW = red_HW.repeat(cell, 0).repeat(cell, 1)[:height, :width]
    image_HWC = np.full((height, width, 3), 128, np.uint8)
    image_HWC[large_HW == 1] = (255, 0, 0)
    return image_HWC, red_HW


@pytest.mark.parametrize("write", [write_svs, write_ome, write_tiled])
@pytest.mark.parametrize("kind", ["coarse", "classifier"])
def test_a_mask_of_larger_pixels_lies_on_its_slide(tmp_path: Path, write: Any, kind: str) -> None:
    cell = 16 if kind == "coarse" else 32
    image_HWC, want_HW = red_squares(701, 1003, cell)
    write(tmp_path / "slide.tif", image_HWC, mpp=0.5, compression="zlib")
    model = (
        ForeignModel(RedShare(16), classes=2, stride=16)
        if kind == "coarse"
        else ForeignModel(RedShare(None), classes=2, task="classification", size=(32, 32))
    )

    report = axialcli.predict(tmp_path / "slide.tif", tmp_path / "mask.tif", model=model)

    assert np.array_equal(tifffile.imread(tmp_path / "mask.tif", level=0), want_HW)
    slide = openslide.OpenSlide(tmp_path / "mask.tif")
    assert slide.dimensions == want_HW.shape[::-1]
    assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5 * cell, rel=1e-6)
    slide.close()
    found = report["output"]
    assert (found["size"], found["mpp"], found["stride"]) == (
        list(want_HW.shape),
        [0.5 * cell, 0.5 * cell],
        [cell, cell],
    )
    of_red = report["classes"][1]
    assert of_red["pixels"] == want_HW.sum()
    # The last row and column of pixels lie partly beyond the slide.
    on_slide_HW = want_HW.repeat(cell, 0).repeat(cell, 1)[:701, :1003]
    assert of_red["area_um2"] == pytest.approx(on_slide_HW.sum() * 0.5**2)
    assert of_red["share"] == pytest.approx(on_slide_HW.mean())
    assert report["engine"] == "tiles"


def test_a_slide_of_one_tile_gives_one_pixel(tmp_path: Path) -> None:
    write_tiled(tmp_path / "slide.tif", np.full((200, 180, 3), (255, 0, 0), np.uint8), mpp=0.5)
    model = ForeignModel(RedShare(None), classes=2, task="classification", size=(224, 224))

    report = axialcli.predict(
        tmp_path / "slide.tif", tmp_path / "mask.tif", model=model, probs=tmp_path / "probs.tif"
    )

    assert tifffile.imread(tmp_path / "mask.tif").tolist() == [[1]]
    assert tifffile.imread(tmp_path / "probs.tif").shape == (2, 1, 1)
    assert (report["settings"]["tile"], report["settings"]["overlap"]) == (224, 0)


@pytest.mark.parametrize("tags", [{}, {"point": True}, {"matrix": True}])
@pytest.mark.parametrize(("height", "width"), [(640, 960), (643, 961)])
def test_a_geotiff_keeps_its_bounds(tmp_path: Path, tags: dict[str, bool], height: int, width: int) -> None:
    write_geotiff(tmp_path / "scene.tif", noise(height, width), **tags)
    model = ForeignModel(patches(4), stride=4)

    axialcli.predict(tmp_path / "scene.tif", tmp_path / "mask.tif", model=model)

    with rasterio.open(tmp_path / "scene.tif") as scene, rasterio.open(tmp_path / "mask.tif") as mask:
        assert mask.crs == scene.crs
        assert (mask.height, mask.width) == (-(-height // 4), -(-width // 4))
        assert mask.res == pytest.approx((4 * scene.res[0], 4 * scene.res[1]))
        assert (mask.bounds.left, mask.bounds.top) == pytest.approx((scene.bounds.left, scene.bounds.top))
        # The last pixels may reach beyond the scene: by what they lack, and no more.
        assert mask.bounds.right - scene.bounds.right == pytest.approx(-width % 4 * scene.res[0])
        assert scene.bounds.bottom - mask.bounds.bottom == pytest.approx(-height % 4 * scene.res[1])


@pytest.mark.parametrize("stride", [2, 4])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    write_tiled(tmp_path / "slide.tif", noise(1201 * stride, 150), mpp=0.5, factors=())
    model = ForeignModel(context(stride), stride=stride, multiple=6)

    def predict(name: str) -> dict[str, Any]:
        return axialcli.predict(
            tmp_path / "slide.tif", tmp_path / f"{name}.tif", model=model, probs=tmp_path / f"{name}-p.tif"
        )

    predict("want")
    with monkeypatch.context() as patch:
        interrupt_at_the_second_block(patch)
        with pytest.raises(KeyboardInterrupt):
            predict("mask")
    report = predict("mask")

    assert report["resumed_blocks"] == 1
    assert sha256(tmp_path / "mask.tif") == sha256(tmp_path / "want.tif")
    assert sha256(tmp_path / "mask-p.tif") == sha256(tmp_path / "want-p.tif")


def test_work_with_another_description_of_the_same_file_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_tiled(tmp_path / "slide.tif", noise(1300, 90), mpp=0.5, factors=())
    model = ForeignModel(patches(1), receptive_field_px=0)
    with monkeypatch.context() as patch:
        interrupt_at_the_second_block(patch)
        with pytest.raises(KeyboardInterrupt):
            axialcli.predict(tmp_path / "slide.tif", tmp_path / "mask.tif", model=model, engine="tiles")
    model.spec = replace(model.spec, input=replace(model.spec.input, mean=(0.1, 0.2, 0.3)))

    report = axialcli.predict(tmp_path / "slide.tif", tmp_path / "mask.tif", model=model, engine="tiles")

    assert report["resumed_blocks"] == 0
    assert "starting over, the earlier run differed in: description" in caplog.text


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (ForeignModel(patches(4), stride=4), "it answers at 1/4 of the resolution"),
        (ForeignModel(patches(1), size=(64, 96)), "it takes pictures of 64 x 96 only"),
        (ForeignModel(classifier(3), task="classification"), "it classifies whole tiles"),
    ],
)
def test_auto_takes_tiles_for_what_cannot_be_streamed_and_says_why(
    tmp_path: Path, model: ForeignModel, reason: str
) -> None:
    write_tiled(tmp_path / "slide.tif", noise(130, 150))

    report = axialcli.predict(tmp_path / "slide.tif", tmp_path / "mask.tif", model=model)

    assert (report["engine"], report["engine_reason"]) == ("tiles", reason)
    with pytest.raises(ModelError, match=f"model 'foreign' cannot be streamed: {reason}; use --engine tiles"):
        axialcli.predict(tmp_path / "slide.tif", tmp_path / "other.tif", model=model, engine="stream")


def test_an_overlay_shows_each_class_where_it_is(tmp_path: Path) -> None:
    """The last tile is a quarter on the slide: stretched over it, the mask would lie 24 pixels off."""
    image_HWC = np.full((64, 144, 3), 128, np.uint8)
    image_HWC[:, 64:128] = (255, 0, 0)
    write_tiled(tmp_path / "slide.tif", image_HWC, factors=())
    model = ForeignModel(RedShare(None), classes=2, task="classification", size=(64, 64))

    axialcli.predict(
        tmp_path / "slide.tif", tmp_path / "mask.tif", model=model, overlay=tmp_path / "overlay.png"
    )

    assert tifffile.imread(tmp_path / "mask.tif").tolist() == [[0, 1, 0]]
    drawn_HWC = np.asarray(Image.open(tmp_path / "overlay.png"))
    assert drawn_HWC.shape == image_HWC.shape
    # The class is red on a red square; the outline lies on both sides of its border, one pixel wide.
    assert np.array_equal(drawn_HWC, image_HWC)


def test_a_certificate_of_a_coarse_model_compares_with_the_whole_picture(tmp_path: Path) -> None:
    image_HWC = noise(700, 900)
    write_tiled(tmp_path / "slide.tif", image_HWC, factors=())
    model = ForeignModel(context(4), stride=4, receptive_field_px=5, multiple=8)
    options: dict[str, Any] = {"model": model, "certify": 1000, "tile": 128}

    exact = axialcli.predict(
        tmp_path / "slide.tif", tmp_path / "exact.tif", blend="crop", overlap="auto", **options
    )
    rough = axialcli.predict(
        tmp_path / "slide.tif", tmp_path / "rough.tif", blend="crop", overlap=0, **options
    )

    assert exact["certificate"]["largest_logit_difference"] < 1e-4
    assert exact["certificate"]["pixels"] == 175 * 225
    whole_HW = model.by_hand(filled(image_HWC, 8)).argmax(0)[:175, :225]
    masks = [tifffile.imread(tmp_path / name, level=0) for name in ("exact.tif", "rough.tif")]
    assert np.array_equal(masks[0], whole_HW)
    assert rough["certificate"]["largest_logit_difference"] > 1e-2
    assert rough["certificate"]["differing_pixels"] == np.count_nonzero(masks[1] != whole_HW) > 0


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"task": "classification"}, "classifies tiles, which have none"),
        ({"size": (64, 64), "receptive_field_px": 1}, "takes one size only"),
    ],
)
def test_what_has_no_seams_to_look_for_is_not_certified(
    tmp_path: Path, said: dict[str, Any], message: str
) -> None:
    write_tiled(tmp_path / "slide.tif", noise(130, 150))
    with pytest.raises(UsageError, match=message):
        axialcli.predict(
            tmp_path / "slide.tif", tmp_path / "mask.tif", model=ForeignModel(patches(1), **said), certify=1
        )
