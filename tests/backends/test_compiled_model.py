"""The compiled backend: the masks of torch, one shape compiled, and a clear word where it cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import torch._inductor.config as inductor

import axialcli
from axialcli.backends.compiled_model import CompiledModel
from axialcli.errors import AllocationError, ModelError
from tests.backends.conftest import Axial
from tests.fixtures.slides import picture, write_tiled
from tests.networks import small_model, small_model_file

SIDE, BATCH = 64, 4
AXIAL = {"width": (4, 8, 8), "depth": 1, "heads": 2, "span": 7}

# Of torch's own, when its compiler is loaded.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")


class Watched:
    """Stands in for a compiled network, and notes the shapes that it is given."""

    def __init__(self, model: CompiledModel) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self._real, model._compiled = model._compiled, self

    def __call__(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(images_BCHW.shape))
        answer: torch.Tensor = self._real(images_BCHW)
        return answer


@pytest.fixture(autouse=True)
def nothing_compiled_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    torch.compiler.reset()


@pytest.fixture
def model() -> CompiledModel:
    return CompiledModel(small_model())


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """A row of it is a full batch of whole tiles, one more whole tile, and a narrow one."""
    return write_tiled(tmp_path / "slide.tif", picture(200, 5 * 48 + 40), mpp=0.5).path


def test_masks_are_those_of_torch_and_whole_tiles_alone_are_compiled(tmp_path: Path, slide: Path) -> None:
    eager = small_model("axial_segmenter", **AXIAL)
    model = CompiledModel(eager)
    watched = Watched(model)
    how = {"engine": "tiles", "tile": SIDE, "overlap": 8, "batch": BATCH, "probs": tmp_path / "probs.tif"}

    report = axialcli.predict(slide, tmp_path / "compiled.tif", model=model, **how)
    found = tifffile.imread(tmp_path / "probs.tif")
    axialcli.predict(slide, tmp_path / "eager.tif", model=eager, force=True, **how)
    wanted = tifffile.imread(tmp_path / "probs.tif")

    assert report["model"]["backend"] == "compiled"
    # Two batches of the plan, and two in each of three rows of whole tiles; the fourth row is lower.
    assert watched.shapes == [(BATCH, 3, SIDE, SIDE)] * 8
    assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 1
    clear = np.abs(wanted[0].astype(int) - wanted[1].astype(int)) > 2
    masks = [tifffile.imread(tmp_path / name) for name in ("compiled.tif", "eager.tif")]
    assert np.array_equal(masks[0][clear], masks[1][clear])


def test_auto_takes_tiles_and_says_so(
    tmp_path: Path, slide: Path, model: CompiledModel, caplog: pytest.LogCaptureFixture
) -> None:
    report = axialcli.predict(slide, tmp_path / "mask.tif", model=model)

    assert report["engine"] == "tiles"
    assert [text for text in caplog.messages if "backend 'compiled' does not show its operators" in text]


def test_half_the_batch_is_the_shape_to_come_where_memory_ran_out(model: CompiledModel) -> None:
    watched, pixels = Watched(model), torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    model.expect(4, 16, 16)
    model.predict(pixels)
    assert watched.shapes == []

    model.expect(2, 16, 16)
    model.predict(pixels)
    assert watched.shapes == [(2, 3, 16, 16)]


def test_a_machine_without_a_compiler_is_told_of(
    model: CompiledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    model.expect(1, 16, 16)

    with pytest.raises(ModelError, match=r"'small' cannot be compiled here \(.*\): leave --backend at auto"):
        model.predict(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


def test_memory_that_ran_out_while_compiling_is_a_matter_of_memory(
    model: CompiledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(images_BCHW: torch.Tensor) -> torch.Tensor:
        raise torch._dynamo.exc.TorchDynamoException("CUDA error: out of memory")

    monkeypatch.setattr(model, "_compiled", fails)
    model.expect(1, 16, 16)

    with pytest.raises(AllocationError):
        model.predict(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


@pytest.mark.parametrize("backend", ["compiled", "torch"])
def test_an_onnx_file_is_not_compiled(tmp_path: Path, axial: Axial, slide: Path, backend: str) -> None:
    (tmp_path / "net.onnx").write_bytes(b"")

    code, _, err = axial(
        "predict", slide, "--out", tmp_path / "m.tif", "--model", tmp_path / "net.onnx", "--backend", backend
    )

    assert code != 0
    assert f"--backend is '{backend}', which does not run {tmp_path / 'net.onnx'}" in err


def test_the_command_takes_it(tmp_path: Path, axial: Axial, slide: Path) -> None:
    file = small_model_file(tmp_path / "small.safetensors")

    code, _, err = axial(
        "predict",
        slide,
        "--out",
        tmp_path / "m.tif",
        "--model",
        file,
        "--backend",
        "compiled",
        "--engine",
        "stream",
    )

    assert code == 4
    assert "backend 'compiled' does not show its operators; use --engine tiles" in err
    assert not (tmp_path / "m.tif").exists()
