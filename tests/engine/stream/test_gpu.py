"""The stream on a GPU: line buffers there, copies beside the computation, the same answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from axialcli.backends import Model, load_model
from axialcli.engine.background import Background
from axialcli.engine.stream import StreamEngine
from axialcli.engine.stream.transfer import Download, Uploader
from axialcli.geometry import Block, Box
from tests.engine.stream.test_engine import PLENTY, noise
from tests.engine.views import ArrayView

pytestmark = pytest.mark.gpu

WINDOWS = (Box(0, 0, 200, 200), Box(512, 512, 700, 640))


def blocks(model: Model, done: tuple[Box, ...] = (), **settings: Any) -> list[Block]:
    image_HWC = noise(1300, 1100)
    image_HWC[:, 300:] = 240
    engine = StreamEngine(
        ArrayView(image_HWC), model, max_ram_bytes=PLENTY, probs=True, windows=WINDOWS, **settings
    )
    return list(engine.blocks(done))


@pytest.mark.parametrize("background", [None, Background((240.0,) * 3, 0)], ids=["all", "skipped"])
def test_a_gpu_gives_the_answer_of_the_processor(background: Background | None) -> None:
    on_gpu = blocks(load_model("nuclei", device="cuda"), background=background)
    on_cpu = blocks(load_model("nuclei", device="cpu"))
    for found, expected in zip(on_gpu, on_cpu, strict=True):
        assert found.box == expected.box
        np.testing.assert_allclose(found.probs_KHW, expected.probs_KHW, rtol=0, atol=1e-4)
        for (_, found_KHW), (_, expected_KHW) in zip(found.windows, expected.windows, strict=True):
            np.testing.assert_allclose(found_KHW, expected_KHW, rtol=0, atol=1e-3)


def test_a_continued_run_on_a_gpu_repeats_its_bits() -> None:
    model = load_model("nuclei", device="cuda")
    everything = blocks(model)
    rest = blocks(model, done=tuple(block.box for block in everything[:1]))
    for again, before in zip(rest, everything[1:], strict=True):
        assert np.array_equal(again.labels_HW, before.labels_HW)
        assert np.array_equal(again.probs_KHW, before.probs_KHW)  # type: ignore[arg-type]


def test_copies_arrive_whole() -> None:
    uploader = Uploader(torch.device("cuda"))
    arrays = [noise(700, 900, seed) for seed in range(20)]
    uploads = [uploader.start(array) for array in arrays]
    downloads = [Download(upload.tensor() + 1) for upload in uploads]
    for array, download in zip(arrays, downloads, strict=True):
        assert np.array_equal(download.array(), array + np.uint8(1))
