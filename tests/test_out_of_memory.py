"""Memory runs out in the middle of a run: less at once goes on, and the mask is the same outside ties."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from torch import Tensor

import axialcli
from axialcli.backends.torch_model import TorchModel
from axialcli.cli.app import run
from axialcli.engine.stream.flow import Flow
from axialcli.engine.stream.scratch import Scratch
from axialcli.errors import AllocationError
from axialcli.geometry import Box
from axialcli.image import SlideView
from axialcli.output import Journal
from tests.fixtures.slides import picture, write_tiled
from tests.networks import small_model, small_model_file

NETWORK: dict[str, Any] = {"width": (4, 8, 8), "depth": 1, "heads": 2, "span": 3}
HEIGHT, WIDTH = 1300, 1100
NO_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allo"
)


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return write_tiled(tmp_path / "slide.tif", picture(HEIGHT, WIDTH), mpp=0.5, tile=256, factors=()).path


@pytest.fixture
def model() -> TorchModel:
    return small_model("axial_segmenter", **NETWORK)


@pytest.fixture
def clear(model: TorchModel) -> NDArray[np.bool_]:
    """The pixels that are no tie, by the network on the whole picture."""
    probs_KHW = model.predict(picture(HEIGHT, WIDTH).transpose(2, 0, 1)[None])[0]
    return np.asarray(np.abs(probs_KHW[1] - probs_KHW[0]) > 2e-4)


def mask(path: Path) -> NDArray[np.uint8]:
    return np.asarray(tifffile.imread(path, level=0))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def tiles_fit(most: int, *, below: int = 0) -> Iterator[list[int]]:
    """Batches of more tiles fail. below: only once so many batches have run. Gives the sizes that ran."""
    ran: list[int] = []
    real = TorchModel.run

    def limited(self: TorchModel, images_BCHW: Tensor) -> Tensor:
        if len(images_BCHW) > most and len(ran) >= below:
            raise RuntimeError(NO_MEMORY)
        ran.append(len(images_BCHW))
        return real(self, images_BCHW)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchModel, "run", limited)
        yield ran


@contextmanager
def reads_fit(most: int, *, below: int = 0) -> Iterator[None]:
    """No memory for more pixels of width at once, from row `below` of the slide on."""
    real = SlideView.read

    def limited(self: SlideView, box: Box) -> NDArray[Any]:
        if box.width > most and box.y1 > below:
            raise MemoryError
        return real(self, box)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SlideView, "read", limited)
        yield


@contextmanager
def steps_fit(most: int, *, below: int = 0) -> Iterator[None]:
    """No memory for higher steps of a stream, from row `below` of the slide on."""
    real = Flow.run

    def limited(self: Flow, step: int, fed: dict[int, Tensor]) -> dict[int, tuple[int, Tensor]]:
        if any(rows.shape[2] > most for rows in fed.values()) and self.schedule.rows(0, step)[1] > below:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(self, step, fed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Flow, "run", limited)
        yield


def test_the_first_batch_is_halved_until_it_fits(
    tmp_path: Path,
    slide: Path,
    model: TorchModel,
    clear: NDArray[np.bool_],
    caplog: pytest.LogCaptureFixture,
) -> None:
    options: dict[str, Any] = {"model": model, "engine": "tiles", "tile": 256, "batch": 4}
    plain = axialcli.predict(slide, tmp_path / "plain.tif", **options)
    with tiles_fit(1) as ran:
        report = axialcli.predict(slide, tmp_path / "mask.tif", **options)

    assert plain["halved"] == {}
    assert report["halved"] == {"batch": 2}
    assert report["settings"]["batch"] == 1
    assert set(ran) == {1}
    assert caplog.messages == [
        f"memory ran out in a first batch; going on with batches of {n}" for n in (2, 1)
    ]
    assert (mask(tmp_path / "mask.tif") == mask(tmp_path / "plain.tif"))[clear].all()


def test_a_batch_in_the_middle_is_halved_and_finished_blocks_stay(
    tmp_path: Path,
    slide: Path,
    model: TorchModel,
    clear: NDArray[np.bool_],
    caplog: pytest.LogCaptureFixture,
) -> None:
    options: dict[str, Any] = {"model": model, "engine": "tiles", "tile": 256, "batch": 4}
    axialcli.predict(slide, tmp_path / "plain.tif", **options)
    # Two batches are tried before the start, and a row of 8 tiles is three batches.
    with tiles_fit(2, below=2 + 8 * 3) as ran:
        report = axialcli.predict(slide, tmp_path / "mask.tif", **options)

    assert report["halved"] == {"batch": 1}
    assert report["resumed_blocks"] == 0
    assert caplog.messages == ["memory ran out; going on with batches of 2"]
    # 10 rows of 8 tiles; of what was done before, the rows that no finished block holds are run again.
    assert set(ran[2 + 8 * 3 :]) == {1, 2}
    assert 10 * 8 < sum(ran[2:]) <= 10 * 8 + 5 * 8
    assert (mask(tmp_path / "mask.tif") == mask(tmp_path / "plain.tif"))[clear].all()


Limit = Callable[..., Any]

LESS: dict[str, tuple[dict[str, Any], Callable[[], Any], dict[str, int]]] = {
    "tiles: batch, then strips": (
        {"engine": "tiles", "tile": 256, "batch": 2},
        lambda: reads_fit(1000, below=900),
        {"batch": 1, "strips": 1},
    ),
    "stream: steps": ({"engine": "stream"}, lambda: steps_fit(400, below=900), {"steps": 1}),
    "stream: steps, then strips": (
        {"engine": "stream"},
        lambda: reads_fit(1000, below=900),
        {"steps": 5, "strips": 1},
    ),
    "stream with background": (
        {"engine": "stream", "background": "#f4f4f4:6"},
        lambda: steps_fit(400, below=900),
        {"steps": 1},
    ),
}


def interrupt_at_block(patch: pytest.MonkeyPatch, number: int) -> None:
    real = Journal.record

    def record(journal: Journal, box: Any, counts: Any) -> None:
        if len(journal.done) == number:
            raise KeyboardInterrupt
        real(journal, box, counts)

    patch.setattr(Journal, "record", record)


@pytest.mark.parametrize(("options", "limit", "halved"), LESS.values(), ids=LESS.keys())
def test_less_at_once_gives_the_same_mask_and_a_kill_the_same_bytes(
    tmp_path: Path,
    slide: Path,
    model: TorchModel,
    clear: NDArray[np.bool_],
    options: dict[str, Any],
    limit: Limit,
    halved: dict[str, int],
) -> None:
    axialcli.predict(slide, tmp_path / "plain.tif", model=model, probs=tmp_path / "plain-p.tif", **options)
    outputs = tmp_path / "mask.tif", tmp_path / "probs.tif"
    with limit():
        report = axialcli.predict(slide, outputs[0], model=model, probs=outputs[1], **options)
    assert report["halved"] == halved
    assert (mask(outputs[0]) == mask(tmp_path / "plain.tif"))[clear].all()
    assert np.abs(mask(outputs[1]).astype(int) - mask(tmp_path / "plain-p.tif")).max() <= 1
    pixels = sum(entry["pixels"] for entry in report["classes"])
    assert pixels == HEIGHT * WIDTH
    want = [sha256(path) for path in outputs]

    # A run that is killed after the halving repeats it, though there is memory enough by then.
    again: dict[str, Any] = {"model": model, "probs": outputs[1], "force": True, **options}
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at_block(patch, 2)
        with limit(), pytest.raises(KeyboardInterrupt):
            axialcli.predict(slide, outputs[0], **again)
    report = axialcli.predict(slide, outputs[0], **again)
    assert report["resumed_blocks"] == 2
    assert report["halved"] == halved
    assert [sha256(path) for path in outputs] == want


@pytest.fixture
def own_logger() -> Iterator[None]:
    """The command sets handlers; later tests find the logger as it was."""
    logger = logging.getLogger("axial")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.mark.usefixtures("own_logger")
@pytest.mark.parametrize("engine", ["tiles", "stream"])
def test_nothing_left_to_halve_is_code_6_and_leaves_nothing(
    tmp_path: Path, slide: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small_model_file(tmp_path / "m.safetensors", "axial_segmenter", **NETWORK)
    before = sorted(tmp_path.iterdir())
    arguments = ["predict", slide, "--out", tmp_path / "mask.tif", "--model", path, "--engine", engine]
    with reads_fit(100):
        code = run([str(argument) for argument in arguments])

    assert code == 6
    *warnings, last = capsys.readouterr().err.splitlines()
    assert last.startswith("axial: error: out of memory: ")
    assert len(warnings) > 2
    said = [line for line in warnings if "column strips: " not in line]
    assert all(line.startswith("axial: warning: memory ran out; going on with ") for line in said)
    assert sorted(tmp_path.iterdir()) == before


def test_what_was_finished_before_code_6_is_continued(tmp_path: Path, slide: Path, model: TorchModel) -> None:
    out = tmp_path / "mask.tif"
    with reads_fit(100, below=1100), pytest.raises(AllocationError):
        axialcli.predict(slide, out, model=model, engine="stream")
    assert not out.exists()

    report = axialcli.predict(slide, out, model=model, engine="stream")

    assert report["resumed_blocks"] == 2
    axialcli.predict(slide, tmp_path / "plain.tif", model=model, engine="stream")
    assert (mask(out) != mask(tmp_path / "plain.tif")).mean() < 1e-4


REAL = """
import json, resource, sys
import torch, axialcli
from pathlib import Path
slide, model, out = sys.argv[1:]
small = axialcli.load_model(model)
options = {"model": small, "engine": "tiles", "tile": 512, "overlap": 32}
# Threads, libraries and code exist before the limit does.
axialcli.predict(slide, out + ".plain.tif", batch=1, **options)
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (280 << 20), resource.RLIM_INFINITY))
report = axialcli.predict(slide, out, batch=64, **options)
print(json.dumps(report["halved"]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and RLIMIT_AS")
def test_passes_on_disk_outlive_memory_that_runs_out_while_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tall = write_tiled(tmp_path / "tall.tif", picture(2100, 100), mpp=0.5, tile=256, factors=()).path
    network = small_model("axial_segmenter", **{**NETWORK, "span": None})
    passes: list[int] = []
    note, record = Scratch.note, Journal.record

    def noted(self: Scratch, stage: int, at: int = 0) -> None:
        passes.append(stage)
        note(self, stage, at)

    def failing(self: Journal, *args: Any) -> None:
        monkeypatch.setattr(Journal, "record", record)
        raise MemoryError

    monkeypatch.setattr(Scratch, "note", noted)
    monkeypatch.setattr(Journal, "record", failing)

    report = axialcli.predict(tall, tmp_path / "m.tif", model=network, scratch=tmp_path)

    assert report["halved"] == {"steps": 1}
    assert passes == [1, 2]


def test_a_real_limit_of_the_address_space(tmp_path: Path) -> None:
    """27 tiles of 512 pixels, with three channels and five classes, are 220 MB, and twice that on the way."""
    image_HWC = np.tile(picture(600, 600), (1, 20, 1))
    slide = write_tiled(tmp_path / "slide.tif", image_HWC, factors=(), mpp=0.5).path
    path = small_model_file(tmp_path / "m.safetensors", "pixel_classifier", classes=5)
    finished = subprocess.run(
        [sys.executable, "-c", REAL, str(slide), str(path), str(tmp_path / "mask.tif")],
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["batch"] >= 1
    assert np.array_equal(mask(tmp_path / "mask.tif"), mask(tmp_path / "mask.tif.plain.tif"))
