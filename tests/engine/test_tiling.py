"""Which tiles a run has: what was asked for, and what the model says about itself."""

from __future__ import annotations

from typing import Any

import pytest

from axialcli.config import PredictSettings
from axialcli.engine import Tiling, choose_tiling
from axialcli.engine.mask_grid import mask_grid
from axialcli.engine.stream.examine import refusal
from axialcli.errors import ModelError, UsageError
from axialcli.geometry import Size
from tests.engine.foreign import ForeignModel, classifier, patches
from tests.engine.stream.models import NetworkModel


def chosen(model: Any, **asked: Any) -> Tiling:
    return choose_tiling(PredictSettings(**asked), model.spec)


@pytest.mark.parametrize(
    ("said", "asked", "tile", "overlap"),
    [
        ({}, {}, (512, 512), 64),
        ({}, {"tile": 200, "overlap": 7}, (200, 200), 7),
        ({}, {"tile": 128}, (128, 128), 16),
        ({"multiple": 32}, {"tile": 512}, (512, 512), 64),
        ({"multiple": 14}, {}, (504, 504), 64),
        ({"multiple": 600}, {}, (600, 600), 0),
        ({"size": (32, 32), "network_stride": 32}, {}, (32, 32), 0),
        ({"size": (64, 64), "network_stride": 32}, {}, (64, 64), 8),
        ({"stride": 3}, {}, (510, 510), 64),
        ({"stride": 4, "multiple": 6}, {"tile": 100, "overlap": 0}, (96, 96), 0),
        ({"size": (224, 320)}, {}, (224, 320), 28),
        ({"size": (1024, 1024)}, {}, (1024, 1024), 64),
        ({"size": (32, 32), "task": "classification"}, {}, (32, 32), 0),
        ({"task": "classification"}, {"overlap": 20}, (512, 512), 20),
        ({"task": "classification", "multiple": 30}, {"tile": 64}, (60, 60), 0),
    ],
)
def test_tiles_are_what_was_asked_for_as_far_as_the_model_takes_it(
    said: dict[str, Any], asked: dict[str, Any], tile: tuple[int, int], overlap: int
) -> None:
    tiling = chosen(ForeignModel(patches(1), **said), **asked)

    assert (tiling.tile, tiling.overlap) == (tile, overlap)


def test_strides_of_the_mask_are_the_models_or_the_tiles() -> None:
    assert chosen(ForeignModel(patches(4), stride=4)).stride == (4, 4)
    assert chosen(ForeignModel(patches(1))).stride == (1, 1)
    one_size = ForeignModel(classifier(), classes=4, task="classification", size=(32, 48))
    assert chosen(one_size).stride == (32, 48)
    assert chosen(one_size, overlap=5).stride == (22, 38)


@pytest.mark.parametrize(
    ("said", "asked", "warning"),
    [
        (
            {"size": (224, 320)},
            {"tile": 256},
            "--tile: no effect, model 'foreign' takes 224 x 320 pixels only",
        ),
        ({"size": (256, 256)}, {"tile": 256}, None),
        (
            {"multiple": 32},
            {"tile": 500},
            "--tile is 500: tiles are 480 pixels, model 'foreign' needs multiples of 32",
        ),
        ({"multiple": 14}, {}, None),
        (
            {"task": "classification"},
            {"blend": "crop"},
            "--blend: no effect, model 'foreign' answers once per tile",
        ),
    ],
)
def test_a_setting_that_the_model_overrules_gives_one_warning(
    said: dict[str, Any], asked: dict[str, Any], warning: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    chosen(ForeignModel(patches(1), **said), **asked)

    assert caplog.messages == ([] if warning is None else [warning])


@pytest.mark.parametrize(
    ("said", "asked", "error", "message"),
    [
        (
            {"size": (32, 64)},
            {"overlap": 16},
            UsageError,
            r"--overlap is 16: .* below half of the tile.* 32 x 64",
        ),
        (
            {"size": (30, 32), "stride": 4},
            {},
            ModelError,
            r"size 30 x 32 is no multiple of its output stride, 4",
        ),
        ({"multiple": 4095, "stride": 4096}, {}, ModelError, r"multiples of 16773120 pixels, over 16384"),
        ({"network_stride": 64, "size": (32, 32)}, {}, UsageError, r"leaves no step forward"),
        ({"multiple": 600}, {"overlap": 1}, UsageError, r"600 with overlap 1 leaves no step forward"),
        (
            {"task": "classification"},
            {"overlap": "auto"},
            UsageError,
            r"classifies whole tiles.*give a number",
        ),
        (
            {},
            {"overlap": "auto"},
            UsageError,
            r"needs a receptive field, .* does not state one: give a number",
        ),
        (
            {"receptive_field_px": 300, "network_stride": 8},
            {"overlap": "auto"},
            UsageError,
            r"304 pixels on each side .* 512 x 512: give --tile 616 at least; --tile 1216 computes",
        ),
        (
            {"receptive_field_px": 200, "size": (224, 224)},
            {"overlap": "auto"},
            UsageError,
            r"model 'foreign' cannot have the 401 that it takes: give a number",
        ),
        (
            {"receptive_field_px": 9000},
            {"overlap": "auto"},
            UsageError,
            r"cannot have the 18001 that it takes",
        ),
    ],
)
def test_tiles_that_cannot_be_are_refused_with_advice(
    said: dict[str, Any], asked: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        chosen(ForeignModel(patches(1), **said), **asked)


@pytest.mark.parametrize("text", ["", "Auto", "12 px"])
def test_an_overlap_is_a_number_or_auto(text: Any) -> None:
    with pytest.raises(UsageError, match="give a number of pixels, or auto"):
        PredictSettings(overlap=text)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"task": "classification"}, "it classifies whole tiles"),
        ({"stride": 4}, "it answers at 1/4 of the resolution"),
        ({"size": (224, 320)}, "it takes pictures of 224 x 320 only"),
        ({"multiple": 32}, "it takes heights and widths that are multiples of 32 only"),
    ],
)
def test_a_stream_refuses_what_is_no_function_of_every_pixel(said: dict[str, Any], reason: str) -> None:
    model = ForeignModel(patches(1), **said)
    model.network = model.own

    assert refusal(model, Size(200, 300)) == reason


def test_a_stream_refuses_channels_that_come_last_and_nothing_else() -> None:
    model = NetworkModel(patches(1, classes=2))
    assert refusal(model, Size(200, 300)) is None

    object.__setattr__(model.spec.input, "layout", "NHWC")

    assert refusal(model, Size(200, 300)) == "its axes are NHWC, and not NCHW"


def test_the_grid_of_a_mask_has_larger_pixels_from_the_same_corner() -> None:
    class View:
        size, mpp, georeference = Size(100, 101), (0.5, 0.25), None
        # Resampled: half of the last row of the view is beyond the slide.
        covered = (99.5 / 100, 1.0)

    view: Any = View()

    grid = mask_grid(view, Size(4, 10))

    assert (grid.size, grid.mpp) == ((25, 11), (2.0, 2.5))
    assert grid.covered == pytest.approx((99.5 / 100, 101 / 110))
