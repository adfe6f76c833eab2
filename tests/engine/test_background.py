"""Blank glass: which pixels it is, what filling does, and what skipping may not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import axialcli
from axialcli.config import BackgroundColour, parse_background
from axialcli.engine import Background, FoundBackground, TileEngine, find_background
from axialcli.errors import UsageError
from axialcli.geometry import Size
from axialcli.image.sample import write_sample
from tests.engine.views import tile_engine
from tests.fixtures.slides import picture, write_tiled
from tests.networks import small_model

GLASS = (240, 241, 239)


def naive_blank(image_HWC: NDArray[Any], colour: tuple[float, ...], tolerance: float) -> NDArray[np.bool_]:
    """Pixel by pixel and channel by channel, in Python's own numbers."""
    height, width, channels = image_HWC.shape
    found = [
        [
            all(abs(float(image_HWC[y, x, c]) - colour[c]) <= tolerance for c in range(channels))
            for x in range(width)
        ]
        for y in range(height)
    ]
    return np.array(found, np.bool_).reshape(height, width)


@given(
    dtype=st.sampled_from(["uint8", "uint16", "int16", "float32"]),
    channels=st.integers(1, 6),
    height=st.integers(1, 9),
    width=st.integers(1, 40),
    tolerance=st.sampled_from([0, 1, 3, 12, 255]),
    base=st.sampled_from([0, 2, 120, 255]),
    seed=st.integers(0, 99),
)
def test_blank_pixels_are_those_within_the_tolerance_and_get_the_colour(
    dtype: str, channels: int, height: int, width: int, tolerance: int, base: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    reach = max(2 * tolerance, 1)
    colour = tuple(float(min(base + c, 255)) for c in range(channels))
    around = rng.integers(-reach, reach + 1, (height, width, channels)) + np.asarray(colour)
    image_HWC = np.where(rng.random((height, width, 1)) < 0.4, colour, around).clip(0, 255).astype(dtype)
    want_HW = naive_blank(image_HWC, colour, tolerance)
    want_HWC = image_HWC.copy()
    want_HWC[want_HW] = colour
    background = Background(colour, float(tolerance))

    assert np.array_equal(background.blank(image_HWC), want_HW)
    filled_HWC, blank_HW = background.fill(image_HWC)

    assert filled_HWC is image_HWC
    assert np.array_equal(blank_HW, want_HW)
    assert np.array_equal(filled_HWC, want_HWC)


def test_rows_of_all_kinds_are_filled_in_a_picture_of_many_chunks() -> None:
    image_HWC = np.random.default_rng(0).integers(0, 200, (300, 1000, 3), dtype=np.uint8)
    image_HWC[50:150] = GLASS
    image_HWC[150:250, 300:700] = GLASS
    want_HW = (image_HWC == GLASS).all(axis=2)
    image_HWC[want_HW] += np.random.default_rng(1).integers(0, 3, (want_HW.sum(), 3), dtype=np.uint8)

    filled_HWC, blank_HW = Background(tuple(map(float, GLASS)), 2.0).fill(image_HWC)

    assert np.array_equal(blank_HW, want_HW)
    assert (filled_HWC[want_HW] == GLASS).all()


def test_nan_is_never_blank() -> None:
    image_HWC = np.full((2, 3, 2), 7.0, np.float32)
    image_HWC[0, 1, 1] = np.nan

    _, blank_HW = Background((7.0, 7.0), 1e9).fill(image_HWC)

    assert blank_HW.tolist() == [[True, False, True], [True, True, True]]


def test_pixels_that_cannot_be_filled_in_place_or_have_other_channels_are_refused() -> None:
    background = Background((1.0, 1.0, 1.0), 0.0)
    with pytest.raises(ValueError, match="contiguous"):
        background.fill(np.zeros((4, 8, 3), np.uint8)[:, ::2])
    with pytest.raises(ValueError, match="a background of 3 channels, a picture of 1"):
        background.blank(np.zeros((4, 8, 1), np.uint8))


def glassy(height: int, width: int, share: float, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """A picture whose columns left of `share` are glass with noise of one; and the same, filled."""
    image_HWC = np.random.default_rng(seed).integers(0, 200, (height, width, 3), dtype=np.uint8)
    filled_HWC = image_HWC.copy()
    glass = np.zeros((height, width), np.bool_)
    glass[: int(height * 0.8), : int(width * share)] = True
    filled_HWC[glass] = GLASS
    noise = np.random.default_rng(seed + 1).integers(-1, 2, (int(glass.sum()), 3))
    image_HWC[glass] = (np.asarray(GLASS) + noise).astype(np.uint8)
    return image_HWC, filled_HWC


def engine_over(image_HWC: NDArray[np.uint8], model: Any, **options: Any) -> TileEngine:
    return tile_engine(image_HWC, model, **{"tile": 128, "overlap": 16, "probs": True, **options})


@pytest.mark.parametrize(("height", "width"), [(500, 640), (321, 777), (100, 90)])
@pytest.mark.parametrize("repeat", [None, {"batch": 2, "strips": [0, 512]}])
def test_skipping_gives_the_mask_of_the_filled_picture(
    height: int, width: int, repeat: dict[str, Any] | None
) -> None:
    if repeat and width <= 512:
        repeat = {"batch": 2, "strips": [0]}
    model = small_model("axial_segmenter", width=(4, 8, 8), depth=1, heads=2, span=7)
    image_HWC, filled_HWC = glassy(height, width, 0.7)
    background = Background(tuple(map(float, GLASS)), 2.0)

    skipping = engine_over(image_HWC, model, background=background, repeat=repeat)
    blocks = list(skipping.blocks())
    plain = list(engine_over(filled_HWC, model, repeat=repeat).blocks())

    for block, want in zip(blocks, plain, strict=True):
        assert block.box == want.box
        assert block.probs_KHW is not None
        assert want.probs_KHW is not None
        assert np.abs(block.probs_KHW - want.probs_KHW).max() < 2e-6
        sure_HW = np.abs(want.probs_KHW[1] - want.probs_KHW[0]) > 1e-5
        assert sure_HW.mean() > 0.99
        assert np.array_equal(block.labels_HW[sure_HW], want.labels_HW[sure_HW])


def test_the_shares_are_those_of_the_picture() -> None:
    image_HWC, filled_HWC = glassy(500, 640, 0.7)
    background = Background(tuple(map(float, GLASS)), 2.0)
    engine = engine_over(image_HWC, small_model(), background=background)

    list(engine.blocks())

    glass_HW = (filled_HWC == GLASS).all(axis=2)
    tiles = [
        bool(glass_HW[row.start : row.stop, column.start : column.stop].all())
        for row in engine.plan.rows
        for column in engine.plan.strips[0][2]
    ]
    assert any(tiles)
    assert engine.describe()["skipped_share"] == pytest.approx(np.mean(tiles), abs=1e-4)
    assert engine.describe()["blank_share"] == pytest.approx(glass_HW.mean(), abs=1e-4)


def test_tiles_of_nothing_but_glass_do_not_reach_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a blank picture, one tile of each shape does."""
    model = small_model()
    ran = []
    run = model.run
    monkeypatch.setattr(model, "run", lambda images: (ran.append(tuple(images.shape)), run(images))[1])
    image_HWC = np.full((300, 300, 3), GLASS, np.uint8)
    engine = engine_over(
        image_HWC, model, background=Background(GLASS, 0.0), repeat={"batch": 2, "strips": [0]}
    )

    list(engine.blocks())

    assert sorted(ran) == [(1, 3, 108, 108), (1, 3, 108, 128), (1, 3, 128, 108), (1, 3, 128, 128)]
    assert engine.describe()["skipped_share"] == 1.0


def test_a_slide_without_blank_pixels_is_unchanged_to_the_bit() -> None:
    image_HWC = np.random.default_rng(0).integers(0, 200, (300, 400, 3), dtype=np.uint8)
    model = small_model("axial_segmenter", width=(4, 8, 8), depth=1, heads=2, span=7)

    with_background = engine_over(image_HWC, model, background=Background(GLASS, 5.0)).blocks()

    for block, want in zip(with_background, engine_over(image_HWC, model).blocks(), strict=True):
        assert np.array_equal(block.labels_HW, want.labels_HW)
        assert np.array_equal(block.probs_KHW, want.probs_KHW)  # type: ignore[arg-type]


def test_what_a_background_looks_like_on_the_command_line() -> None:
    assert parse_background("#f4F402:6") == BackgroundColour(colour=(0xF4, 0xF4, 0x02), tolerance=6)
    assert parse_background("auto") == "auto"
    assert parse_background("off") == "off"
    for text in ("", "white", "#fff:3", "#f4f4f4", "#f4f4f4:256", "#f4f4f4:-1", "#f4f4f4:1.5", "f4f4f4:1"):
        with pytest.raises(UsageError, match="choose auto, off, or a colour and a tolerance"):
            parse_background(text)


def found_on(path: Path, asked: str) -> FoundBackground:
    with axialcli.open_slide(path) as slide:
        return find_background(asked, slide, slide.view(level=0))


@pytest.mark.parametrize(("dtype", "scale"), [(np.uint8, 1), (np.uint16, 257), (np.float32, 1)])
def test_a_given_colour_is_scaled_to_the_slide(tmp_path: Path, dtype: Any, scale: int) -> None:
    write_tiled(tmp_path / "s.tif", picture(40, 50).astype(dtype))

    found = found_on(tmp_path / "s.tif", "#f0a002:6")

    assert found.background == Background((240.0 * scale, 160.0 * scale, 2.0 * scale), 6.0 * scale)
    assert found.describe()["said"] == "given"


def test_a_given_colour_has_to_fit_the_channels(tmp_path: Path) -> None:
    write_tiled(tmp_path / "s.tif", picture(40, 50, 1))

    grey = found_on(tmp_path / "s.tif", "#0a0a0a:3")
    assert grey.background == Background((10.0,), 3.0)
    with pytest.raises(UsageError, match="the slide has 1 channel"):
        found_on(tmp_path / "s.tif", "#0a0a0b:3")


def test_a_given_colour_comes_with_its_share_of_the_slide(tmp_path: Path) -> None:
    image_HWC = picture(640, 800)
    image_HWC[:, :600] = (244, 244, 244)
    write_tiled(tmp_path / "s.tif", image_HWC)

    found = found_on(tmp_path / "s.tif", "#f4f4f4:0")

    assert found.background is not None
    assert found.background.share == pytest.approx(0.75, abs=0.01)
    none = found_on(tmp_path / "s.tif", "#00ff00:0")
    assert none.background is not None
    assert none.background.share == 0


def test_auto_finds_bright_glass_and_half_as_much_again_as_its_noise(tmp_path: Path) -> None:
    image_HWC = picture(1500, 1800)
    glass_HW = np.zeros(image_HWC.shape[:2], np.bool_)
    glass_HW[:, 700:] = True
    noise = np.random.default_rng(0).integers(-2, 3, (int(glass_HW.sum()), 3))
    image_HWC[glass_HW] = np.asarray(GLASS) + noise
    write_tiled(tmp_path / "s.tif", image_HWC, factors=())

    found = found_on(tmp_path / "s.tif", "auto")

    assert found.background == Background(tuple(map(float, GLASS)), 3.0)
    assert found.describe() == {"colour": [240.0, 241.0, 239.0], "tolerance": 3.0, "said": found.said}
    assert "61 %" in found.said


def test_auto_finds_the_dark_ground_of_fluorescence_in_the_slide_s_own_values(tmp_path: Path) -> None:
    """Twelve bits in sixteen: a thumbnail's grey levels are neither of the two."""
    rng = np.random.default_rng(0)
    image_HWC = rng.integers(197, 204, (900, 900, 1)).astype(np.uint16)
    image_HWC[100:300, 100:300] = rng.integers(1000, 4095, (200, 200, 1))
    write_tiled(tmp_path / "s.tif", image_HWC, factors=())

    found = found_on(tmp_path / "s.tif", "auto")

    assert found.background == Background((200.0,), 5.0)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_auto_finds_nothing_where_nothing_is_clear(tmp_path: Path, channels: int) -> None:
    write_tiled(tmp_path / "s.tif", picture(500, 600, channels, seed=3), factors=())

    found = found_on(tmp_path / "s.tif", "auto")

    assert found.background is None
    assert found.describe()["said"].startswith("none: ")
    assert found.describe()["colour"] is None


def test_auto_finds_the_glass_of_the_sample_slide(tmp_path: Path) -> None:
    write_sample(tmp_path / "s.tif", Size(1024, 1024), blank=1.0)
    write_sample(tmp_path / "half.tif", Size(3000, 3000), blank=0.5, seed=1)
    with axialcli.open_slide(tmp_path / "s.tif") as slide:
        glass_C = np.median(slide.read(0, (0, 0, 1024, 1024)).reshape(-1, 3), axis=0)

    found = found_on(tmp_path / "half.tif", "auto")

    assert found.background is not None
    assert np.abs(np.asarray(found.background.colour_C) - glass_C).max() <= 1
    assert 1 <= found.background.tolerance <= 12
