"""The seam certificate against the whole picture at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from axialcli.backends.spec import OutputSpec
from axialcli.backends.torch_model import TorchModel
from axialcli.engine import Background, Certifier, TileEngine
from axialcli.engine.certify import centred, choose_windows, logits_of
from axialcli.errors import UsageError
from axialcli.geometry import Box, Size, WindowFigures
from tests.engine.views import ArrayView, tile_engine
from tests.networks import small_model, small_spec, small_weights

CONTEXT: dict[str, Any] = {"width": (4, 8, 8), "depth": 1, "heads": 2, "span": 7}


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def one_logit_model() -> TorchModel:
    """Two classes, one logit: sigmoid."""
    two = small_spec("axial_segmenter", classes=2, **CONTEXT)
    spec = replace(two, config={**two.config, "classes": 1}, output=OutputSpec(activation="sigmoid"))
    weights = small_weights(spec)
    return TorchModel(
        spec=spec, weights=weights, device=torch.device("cpu"), dtype=torch.float32, sha256="0", where="one"
    )


def certify(
    image_HWC: NDArray[np.uint8],
    model: TorchModel,
    *,
    count: int = 5,
    background: Background | None = None,
    **options: Any,
) -> tuple[Certifier, TileEngine, list[WindowFigures]]:
    """The figures of a tile run."""
    view: Any = ArrayView(image_HWC)
    certifier = Certifier(view, model, count=count, seed="a", background=background, blended=True)
    settings: dict[str, Any] = {"tile": 192, "overlap": 16, "probs": True, **options}
    engine = tile_engine(image_HWC, model, background=background, windows=certifier.windows, **settings)
    return certifier, engine, [one for block in engine.blocks() for one in certifier.compare(block)]


@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    count=st.integers(1, 60),
    seed=st.text(max_size=3),
)
def test_windows_are_different_cells_inside_one_mask_tile_each(
    height: int, width: int, count: int, seed: str
) -> None:
    windows = choose_windows(Size(height, width), count, seed)

    assert windows == choose_windows(Size(height, width), count, seed)
    assert len(set(windows)) == len(windows) == min(count, -(-height // 256) * -(-width // 256))
    for window in windows:
        assert 0 <= window.y0 < window.y1 <= height
        assert 0 <= window.x0 < window.x1 <= width
        assert window.y0 % 256 == window.x0 % 256 == 0
        assert window.y0 // 512 == (window.y1 - 1) // 512
        assert window.x0 // 512 == (window.x1 - 1) // 512
        assert window.height == min(256, height - window.y0)
        assert window.width == min(256, width - window.x0)


def test_every_cell_is_as_likely_as_any_other() -> None:
    """2000 drawings of 4 of 16 cells: 500 times each, within five standard deviations."""
    counts: dict[Box, int] = {}
    for seed in range(2000):
        for window in choose_windows(Size(1000, 900), 4, str(seed)):
            counts[window] = counts.get(window, 0) + 1

    assert len(counts) == 16
    assert all(abs(count - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5 for count in counts.values())


@pytest.mark.parametrize("model", [small_model("axial_segmenter", classes=3, **CONTEXT), one_logit_model()])
def test_a_tile_run_s_figures_are_those_of_a_computation_by_hand(model: TorchModel) -> None:
    """Every pixel of a small picture: blended probabilities against the whole network's logits."""
    image_HWC = noise(700, 600)
    whole_KHW = model.predict(image_HWC.transpose(2, 0, 1)[None], logits=True)[0].astype(np.float64)
    if len(whole_KHW) == 1:
        whole_KHW = np.stack((-whole_KHW[0] / 2, whole_KHW[0] / 2))
    whole_KHW -= whole_KHW.sum(axis=0) / len(whole_KHW)

    certifier, engine, figures = certify(image_HWC, model, count=100, tile=64, overlap=0)

    assert [one.box for one in figures] == list(certifier.windows)
    assert sum(one.box.area_px for one in figures) == 700 * 600
    blended_KHW = np.empty(whole_KHW.shape)
    labels_HW = np.empty((700, 600), np.uint8)
    for block in engine.blocks():
        assert block.probs_KHW is not None
        y, x = slice(block.box.y0, block.box.y1), slice(block.box.x0, block.box.x1)
        blended_KHW[:, y, x] = np.log(block.probs_KHW.astype(np.float64))
        labels_HW[y, x] = block.labels_HW
    blended_KHW -= blended_KHW.sum(axis=0) / len(blended_KHW)
    apart_HW = np.abs(blended_KHW - whole_KHW).max(axis=0)
    for one in figures:
        y, x = slice(one.box.y0, one.box.y1), slice(one.box.x0, one.box.x1)
        assert one.largest == pytest.approx(apart_HW[y, x].max(), abs=2e-5)
        assert one.median == pytest.approx(np.median(apart_HW[y, x]), abs=2e-5)
        first, second = np.sort(whole_KHW, axis=0)[[-1, -2]][:, y, x]
        ties = np.count_nonzero(first - second < 1e-5)
        differing = np.count_nonzero(labels_HW[y, x] != whole_KHW.argmax(axis=0)[y, x])
        assert abs(one.differing - differing) <= ties
    assert max(one.largest for one in figures) > 1e-2
    assert sum(one.differing for one in figures) > 0


@pytest.mark.parametrize("model", [small_model("axial_segmenter", **CONTEXT), one_logit_model()])
def test_crop_with_a_halo_of_the_receptive_field_is_certified(model: TorchModel) -> None:
    _, _, figures = certify(noise(700, 600), model, count=100, overlap=56, blend="crop")

    assert max(one.largest for one in figures) < 1e-4
    assert sum(one.differing for one in figures) <= 2


def test_a_certificate_fills_the_background_as_the_run_does() -> None:
    image_HWC = noise(600, 700)
    image_HWC[:, 200:500] = 250 + (image_HWC[:, 200:500] > 127)
    model = small_model("axial_segmenter", **CONTEXT)
    background = Background((250.0, 250.0, 250.0), 1.0)

    _, _, figures = certify(image_HWC, model, count=100, background=background, overlap=56, blend="crop")

    assert max(one.largest for one in figures) < 1e-4


def test_the_blocks_carry_the_same_logits_with_strips_and_after_some_blocks() -> None:
    model = small_model("axial_segmenter", **CONTEXT)
    certifier, engine, _ = certify(noise(1300, 1100), model, count=12)
    expected = {window: logits for block in engine.blocks() for window, logits in block.windows}
    assert sorted(expected) == list(certifier.windows)
    _, stripped, _ = certify(
        noise(1300, 1100), model, count=12, repeat={"batch": 3, "strips": [0, 512]}, probs=False
    )

    rest = list(stripped.blocks(stripped.boxes()[:2]))

    for block in rest:
        assert block.probs_KHW is None
        inside = [window for window in certifier.windows if block.box.contains(window)]
        assert [window for window, _ in block.windows] == inside
        for window, logits_KHW in block.windows:
            assert np.abs(logits_KHW - expected[window]).max() < 1e-4


def test_the_surroundings_are_the_receptive_field_on_the_network_s_own_grid() -> None:
    model = small_model("axial_segmenter", **CONTEXT)
    assert (model.spec.receptive_field_px, model.spec.network_stride) == (54, 8)
    certifier = Certifier(
        ArrayView(noise(900, 1001)),  # type: ignore[arg-type]
        model,
        count=1,
        seed="",
        background=None,
        blended=False,
    )

    assert certifier.surroundings(Box(256, 512, 512, 768)) == Box(200, 456, 568, 824)
    assert certifier.surroundings(Box(0, 0, 256, 256)) == Box(0, 0, 312, 312)
    assert certifier.surroundings(Box(768, 768, 900, 1001)) == Box(712, 712, 900, 1001)


def test_logits_that_are_equal_but_for_a_constant_per_pixel_do_not_differ() -> None:
    logits_KHW = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    constant_HW = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)

    assert np.abs(centred(logits_KHW) - centred(logits_KHW + constant_HW)).max() < 1e-6
    assert centred(np.full((1, 1, 1), 3, np.float32)).ravel().tolist() == [-1.5, 1.5]
    assert logits_of(np.array([[[0.0]], [[1.0]]], np.float32)).ravel().tolist() == pytest.approx(
        [np.log(1e-12), 0.0]
    )


def test_a_model_that_does_not_state_its_receptive_field_cannot_be_certified() -> None:
    model = small_model()
    model.spec = replace(model.spec, receptive_field_px=None)

    with pytest.raises(UsageError, match="model 'small' does not state one"):
        certify(noise(30, 30), model)
