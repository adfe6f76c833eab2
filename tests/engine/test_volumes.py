"""Blocks of a volume against the network on the whole of it, and against a blend written out."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from axialcli.backends import Model
from axialcli.config import PredictSettings
from axialcli.engine import Stopwatch, VolumeEngine, choose_blocks, volumes
from axialcli.engine.volumes import SPARE_BYTES
from axialcli.errors import LimitError, ModelError, UsageError
from axialcli.geometry import VolumeSize
from axialcli.image import open_slide
from tests.fixtures.volumes import stack_of, volume_model, volume_spec, write_ome_stack

PLENTY = 1 << 40
TIE = 2e-4


def run(path: Path, model: Model, *, max_ram_bytes: int = PLENTY, **settings: Any) -> tuple[Any, Any, Any]:
    """The labels [D, H, W], the engine's description, and the slide's counts."""
    with open_slide(path) as slide:
        stack = slide.stack()
        blocks = choose_blocks(PredictSettings(**settings), model.spec, stack.size)
        engine = VolumeEngine(stack, model, blocks, max_ram_bytes=max_ram_bytes, stopwatch=Stopwatch())
        labels_DHW = np.full(stack.size, 255, np.uint8)
        for part in engine.parts():
            depth, height, width = part.labels_DHW.shape
            target = labels_DHW[part.z0 : part.z0 + depth, part.y0 : part.y0 + height]
            assert (target == 255).all(), "a voxel is answered once"
            target[:] = part.labels_DHW
            assert width == stack.size.width
        return labels_DHW, engine.describe(), slide.counts


def whole_probs(model: Model, stack_DHWC: NDArray[Any]) -> NDArray[np.float32]:
    """Probabilities [K, D, H, W] of the network on the whole volume at once."""
    return model.predict(np.ascontiguousarray(stack_DHWC.transpose(3, 0, 1, 2)[None]))[0]


def assert_labels(labels_DHW: NDArray[np.uint8], probs_KDHW: NDArray[Any]) -> None:
    """The labels are the likeliest classes, ties aside; and there is more than one class."""
    ordered = np.sort(probs_KDHW, 0)
    clear = ordered[-1] - ordered[-2] > TIE
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(labels_DHW[clear], probs_KDHW.argmax(0)[clear])
    assert len(np.unique(labels_DHW)) == len(probs_KDHW)


@pytest.mark.parametrize("config", [{}, {"z_stride": 2}], ids=str)
@pytest.mark.parametrize("block", [(60, 56, 60), (8, 64, 64), (64, 52, 200)], ids=str)
def test_cropped_blocks_that_share_the_receptive_field_equal_the_whole_volume(
    block: tuple[int, int, int], config: dict[str, Any], tmp_path: Path
) -> None:
    model = volume_model(**config)
    depth = 70 if block[0] == 60 else 6
    stack_DHWC = stack_of(depth, 65, 79)
    path = write_ome_stack(tmp_path / "s.tif", stack_DHWC)

    labels_DHW, described, _ = run(path, model, block=block, overlap="auto", blend="crop")

    assert described["blocks"] > 1
    assert_labels(labels_DHW, whole_probs(model, stack_DHWC))


def blended(model: Model, stack_DHWC: NDArray[Any], block: VolumeSize, overlap: int) -> NDArray[np.float64]:
    """Gaussian blocks added up and divided by the sum of their weights, over the whole volume at once."""
    size = stack_DHWC.shape[:3]
    classes = len(model.spec.classes)
    total, weights = np.zeros((classes, *size)), np.zeros(size)
    starts = []
    for length, side in zip(size, block, strict=True):
        step = (side - 2 * overlap) // 4 * 4
        ends = [at for at in range(0, length, step) if at == 0 or length > at - step + side]
        starts.append(ends if side < length else [0])
    for corner in itertools.product(*starts):
        box = tuple(
            slice(at, min(at + side, length)) for at, side, length in zip(corner, block, size, strict=True)
        )
        weight = np.ones(())
        for part, side, length in zip(box, block, size, strict=True):
            places = np.arange(part.stop - part.start) + 0.5 - side / 2
            bell = np.exp(-0.5 * (places / (side / 8)) ** 2) if side < length else np.ones(len(places))
            weight = weight[..., None] * bell
        total[(slice(None), *box)] += whole_probs(model, stack_DHWC[box]) * weight
        weights[box] += weight
    return total / weights


@pytest.mark.parametrize("block", [(8, 24, 32), (16, 20, 100), (4, 80, 80)], ids=str)
def test_gaussian_blocks_are_averaged_by_their_weights(block: tuple[int, int, int], tmp_path: Path) -> None:
    model = volume_model()
    stack_DHWC = stack_of(13, 50, 61, dtype=np.uint16)
    path = write_ome_stack(tmp_path / "s.tif", stack_DHWC)

    overlap = 0 if block[0] == 4 else 2
    labels_DHW, _, _ = run(path, model, block=block, overlap=overlap)

    assert_labels(labels_DHW, blended(model, stack_DHWC, VolumeSize(*block), overlap))


def test_less_memory_means_strips_and_the_same_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "peak_resident_bytes", lambda: 0)
    model = volume_model()
    path = write_ome_stack(tmp_path / "s.tif", stack_of(10, 200, 48), tile=(64, 64), compression="zlib")
    settings: dict[str, Any] = {"block": (8, 32, 48), "overlap": 2}
    # 8 planes of 48 columns; a row of pixels of a strip takes 4 bytes, one of sums and labels 28.
    of_all_rows = 8 * 48 * 200 * 32

    whole_DHW, roomy, _ = run(path, model, max_ram_bytes=SPARE_BYTES + of_all_rows, **settings)
    labels_DHW, tight, _ = run(path, model, max_ram_bytes=SPARE_BYTES + of_all_rows // 2, **settings)

    assert (roomy["strips"], roomy["blocks"]) == (1, 7 * 2)
    assert tight["strips"] > 2
    assert tight["blocks"] == 2 * (7 + tight["strips"] - 1)
    np.testing.assert_array_equal(labels_DHW, whole_DHW)


def test_memory_that_holds_no_strip_is_refused(tmp_path: Path) -> None:
    path = write_ome_stack(tmp_path / "s.tif", stack_of(12, 90, 90))

    with pytest.raises(LimitError, match=r"--max-ram of 1 MiB is too little: .* or a smaller --block"):
        run(path, volume_model(), max_ram_bytes=1 << 20, block=(8, 32, 32))


def test_every_segment_is_decoded_once(tmp_path: Path) -> None:
    stack_DHWC = stack_of(11, 96, 96, 2)
    path = write_ome_stack(tmp_path / "s.tif", stack_DHWC, "CZYX", tile=(32, 32), compression="zlib")

    _, described, counts = run(path, volume_model(channels=2), block=(8, 32, 32), overlap=1)

    assert described["blocks"] > 11
    assert counts.decoded_segments == 11 * 2 * 9


def test_a_cancelled_run_stops_after_the_block_in_work(tmp_path: Path) -> None:
    model = volume_model()
    with open_slide(write_ome_stack(tmp_path / "s.tif", stack_of(40, 64, 64))) as slide:
        stack = slide.stack()
        blocks = choose_blocks(PredictSettings(block=(8, 32, 32)), model.spec, stack.size)
        engine = VolumeEngine(stack, model, blocks, max_ram_bytes=PLENTY, stopwatch=Stopwatch())
        parts = engine.parts()
        next(parts)
        engine.cancel()
        assert list(parts) == []


def test_a_network_that_answers_another_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = volume_model()
    monkeypatch.setattr(model, "run", lambda images: torch.zeros(1, 3, 2, 2, 2))

    with pytest.raises(ModelError, match=r"answers \[1, 3, 2, 2, 2\] to a block of \[3, 9, 9\] voxels"):
        run(write_ome_stack(tmp_path / "s.tif", stack_of(3, 9, 9)), model)


@pytest.mark.parametrize(
    ("size", "settings", "block", "overlap"),
    [
        ((10, 100, 100), {}, (10, 100, 100), (0, 0, 0)),
        ((100, 1000, 1000), {}, (32, 256, 256), (4, 32, 32)),
        ((100, 1000, 200), {"overlap": 10}, (32, 256, 200), (10, 10, 0)),
        ((10, 1000, 1000), {"overlap": "auto"}, (10, 256, 256), (0, 20, 20)),
        ((10, 90, 30), {"block": (4, 40, 40), "overlap": 0}, (4, 40, 30), (0, 0, 0)),
    ],
)
def test_blocks_are_no_longer_than_the_volume_and_share_nothing_where_one_covers_it(
    size: Any, settings: dict[str, Any], block: Any, overlap: Any
) -> None:
    made = choose_blocks(PredictSettings(**settings), volume_spec(), VolumeSize(*size))

    assert (made.block, made.overlap) == (block, overlap)
    for spans, length in zip((made.layers, made.rows, made.columns), size, strict=True):
        covered = np.zeros(length)
        for span in spans:
            assert span.first % 4 == 0
            covered[span.start : span.stop] += span.weight
        np.testing.assert_allclose(covered, 1, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"block": (8, 32, 32), "overlap": "auto"}, "8 voxels along the depth, which with an overlap of 20"),
        ({"block": (60, 32, 60), "overlap": 15}, "32 voxels along the height, .* give 34 at least"),
        ({"block": (60, 60, 3)}, "3 voxels along the width, which leave no step .* give 4 at least"),
    ],
)
def test_blocks_without_a_step_forward_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        choose_blocks(PredictSettings(**settings), volume_spec(), VolumeSize(70, 70, 70))


def test_an_overlap_of_the_receptive_field_needs_one() -> None:
    with pytest.raises(UsageError, match="does not state one: give a number"):
        choose_blocks(PredictSettings(overlap="auto"), volume_spec(span=None), VolumeSize(70, 70, 70))
