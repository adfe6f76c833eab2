"""Which processor ONNX Runtime is given, with which settings, and what its errors become."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import helper

from axialcli.backends import load_model, onnx_session
from axialcli.backends.onnx_session import CPU, CUDA, TENSORRT, choose_device, engine_cache, ort_errors
from axialcli.errors import AllocationError, LimitError, ModelError, UsageError
from tests.fixtures.graphs import convolution, make_model, onnx_spec, random_kernel, save, weights


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that says that it has a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)


def built_with(monkeypatch: pytest.MonkeyPatch, *providers: str) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [*providers, CPU])


def model_file(path: Path) -> Path:
    node, weight = convolution(random_kernel(3))
    return save(path / "m.onnx", make_model([node], [weight], spec=onnx_spec()))


def test_a_gpu_that_is_only_listed_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel for GPUs lists CUDA and TensorRT on every machine."""
    built_with(monkeypatch, TENSORRT, CUDA)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert choose_device("auto", tensorrt=False) == torch.device("cpu")
    assert choose_device("cpu", tensorrt=False) == torch.device("cpu")
    with pytest.raises(UsageError, match="there is no cuda device here"):
        choose_device("cuda", tensorrt=False)
    with pytest.raises(UsageError, match="TensorRT needs a cuda device; there is none here"):
        choose_device("auto", tensorrt=True)
    with pytest.raises(UsageError, match="ONNX models run on cpu or cuda"):
        choose_device("mps", tensorrt=False)


@pytest.mark.usefixtures("cuda")
def test_a_gpu_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    built_with(monkeypatch, TENSORRT, CUDA)

    assert choose_device("auto", tensorrt=False) == torch.device("cuda", 1)
    assert choose_device("cuda", tensorrt=True) == torch.device("cuda", 1)
    assert choose_device("cpu", tensorrt=False) == torch.device("cpu")
    with pytest.raises(UsageError, match=r"TensorRT needs a cuda device$"):
        choose_device("cpu", tensorrt=True)


@pytest.mark.usefixtures("cuda")
def test_a_library_without_cuda_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    built_with(monkeypatch)

    with caplog.at_level(logging.WARNING, logger="axial"):
        assert choose_device("auto", tensorrt=False) == torch.device("cpu")

    assert [record.getMessage() for record in caplog.records] == [
        "the GPU is not used: this onnxruntime has no CUDA; install onnxruntime-gpu"
    ]
    with pytest.raises(UsageError, match="this onnxruntime has no CUDAExecutionProvider"):
        choose_device("cuda", tensorrt=False)
    with pytest.raises(UsageError, match="this onnxruntime has no TensorrtExecutionProvider"):
        choose_device("auto", tensorrt=True)


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize(("backend", "library"), [("auto", "CUDA"), ("tensorrt", "Tensorrt")])
def test_a_session_that_falls_back_is_one_warning_and_runs_on_the_cpu(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: Any,
    backend: Any,
    library: str,
) -> None:
    """ONNX Runtime itself leaves out a provider whose libraries are missing, and says so only on stderr."""
    built_with(monkeypatch, TENSORRT, CUDA)
    monkeypatch.setattr(onnx_session, "_providers", lambda device, tensorrt: [(CPU, {})])

    with caplog.at_level(logging.WARNING, logger="axial"):
        model = load_model(model_file(tmp_path), backend=backend)

    assert model.device == torch.device("cpu")
    assert model.runtime()["provider"] == CPU
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == [
        f"ONNX Runtime cannot load {library}ExecutionProvider; CPUExecutionProvider runs it"
    ]
    assert np.isfinite(model.predict(np.zeros((1, 3, 8, 8), np.uint8))).all()
    assert capfd.readouterr() == ("", "")


def test_providers_stand_in_order_with_settings_that_repeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gpu = torch.device("cuda", 1)

    assert onnx_session._providers(torch.device("cpu"), tensorrt=False) == [(CPU, {})]
    names = [name for name, _ in onnx_session._providers(gpu, tensorrt=False)]
    assert names == [CUDA, CPU]
    chain = onnx_session._providers(gpu, tensorrt=True)
    assert [name for name, _ in chain] == [TENSORRT, CUDA, CPU]
    assert chain[0][1]["trt_engine_cache_path"] == str(tmp_path / "axial/tensorrt")
    assert chain[1][1]["device_id"] == 1
    assert chain[1][1]["use_tf32"] == 0


def test_engines_are_kept_in_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = engine_cache()
    assert folder == tmp_path / "cache/axial/tensorrt"
    assert folder.stat().st_mode & 0o077 == 0

    # A relative path is to be ignored, says the standard.
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert engine_cache() == tmp_path / ".cache/axial/tensorrt"


def test_threads_are_those_of_torch_and_do_not_spin(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        model = load_model(model_file(tmp_path), device="cpu")
    finally:
        torch.set_num_threads(before)

    options = model._session.get_session_options()  # type: ignore[attr-defined]
    assert model.runtime()["threads"] == options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 1
    assert options.use_deterministic_compute
    for pool in ("intra_op", "inter_op"):
        assert options.get_session_config_entry(f"session.{pool}.allow_spinning") == "0"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bfc_arena.cc Failed to allocate memory for 4",
            AllocationError,
        ),
        ("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc", AllocationError),
        ("[ONNXRuntimeError] : 1 : FAIL : CUDA error 2: out of memory", AllocationError),
        ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions\n Got: 4", ModelError),
    ],
)
def test_errors_are_limits_or_refusals_in_one_line(text: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as error, ort_errors("m.onnx", "does not run"):
        raise onnx_session.state.Fail(text)

    assert "\n" not in str(error.value)
    assert type(error.value) is kind


def test_memory_that_runs_out_within_a_run_is_a_limit(tmp_path: Path) -> None:
    """A real one: a graph that asks for 12 terabytes once its input is 1000 pixels wide."""
    nodes = [
        helper.make_node("Shape", ["x"], ["all"]),
        helper.make_node("Gather", ["all", "last"], ["w"]),
        helper.make_node("Mul", ["w", "w"], ["w2"]),
        helper.make_node("Mul", ["w2", "w2"], ["w4"]),
        helper.make_node("ConstantOfShape", ["w4"], ["z"]),
        helper.make_node("ReduceMax", ["z"], ["m"]),
        helper.make_node("Add", ["x", "m"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", make_model(nodes, [weights("last", np.array([3]))], spec=onnx_spec()))
    model = load_model(path, device="cpu")

    with pytest.raises(LimitError, match="out of memory: use a smaller --batch"):
        model.predict(np.zeros((1, 3, 8, 1000), np.uint8))
    assert model.predict(np.zeros((1, 3, 8, 8), np.uint8)).shape == (1, 3, 8, 8)


@pytest.mark.gpu
def test_the_gpu_answers_what_the_cpu_answers(tmp_path: Path) -> None:
    path = model_file(tmp_path)
    pixels_BCHW = np.random.default_rng(0).integers(0, 256, (2, 3, 70, 90), dtype=np.uint8)
    on_gpu, on_cpu = load_model(path, device="cuda"), load_model(path, device="cpu")

    assert on_gpu.runtime()["provider"] == CUDA
    images_BCHW = torch.from_numpy(pixels_BCHW)
    logits_BKHW = on_gpu.predict(images_BCHW, logits=True)
    assert logits_BKHW.device.type == "cuda"
    wanted_BKHW = on_cpu.predict(images_BCHW, logits=True)
    np.testing.assert_allclose(logits_BKHW.cpu(), wanted_BKHW, rtol=0, atol=1e-4)


GROWTH = """
import sys
import numpy as np
from axialcli.backends import load_model

def peak_mib():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return int(lines["VmHWM"].split()[0]) // 1024

model = load_model(sys.argv[1], device="cpu")
images_BCHW = np.zeros((2, 3, 512, 512), np.uint8)
peaks = [peak_mib()]
for shape in [(2, 512, 512), (2, 512, 512), (1, 512, 512), (2, 300, 512), (2, 512, 512)]:
    model.predict(images_BCHW[: shape[0], :, : shape[1], : shape[2]])
    peaks.append(peak_mib())
print(*peaks)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_batch_takes_more_memory_than_the_first(tmp_path: Path) -> None:
    """The first one is what engines plan with."""
    wide = [convolution(random_kernel(24), "x", "a"), convolution(random_kernel(24, 24), "a", "b")]
    wide += [convolution(random_kernel(24, 24), "b", "c"), convolution(random_kernel(3, 24), "c", "y")]
    graph = make_model([node for node, _ in wide], [weight for _, weight in wide], spec=onnx_spec())
    path = save(tmp_path / "m.onnx", graph)

    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(path)], capture_output=True, text=True, check=True
    )

    before, first, *later = map(int, done.stdout.split())
    assert first - before > 60
    assert max(later) - first < 32
