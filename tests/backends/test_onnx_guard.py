"""The guard: whatever a model does in its trial, this process lives and says so in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from axialcli.backends import onnx_child
from axialcli.backends.onnx_guard import Guard, GuardLimits
from axialcli.errors import ModelError
from tests.fixtures.graphs import convolution, make_model, naive_convolution, random_kernel, weights

KERNEL = random_kernel(3)
NODE, WEIGHT = convolution(KERNEL)
GOOD = make_model([NODE], [WEIGHT]).SerializeToString()
IMAGES_BCHW = np.random.default_rng(0).normal(size=(2, 3, 9, 12)).astype(np.float32)


def endless() -> bytes:
    """A loop of 2**62 rounds."""
    scalar = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Neg", ["v"], ["w"])],
        "body",
        [scalar("i", TensorProto.INT64, []), scalar("c", TensorProto.BOOL, []), scalar("v", 1, None)],
        [scalar("d", TensorProto.BOOL, []), scalar("w", 1, None)],
    )
    loop = helper.make_node("Loop", ["n", "go", "x"], ["y"], body=body)
    ends = [weights("n", np.array(2**62)), weights("go", np.array(True))]
    return make_model([loop], ends).SerializeToString()


def doubling() -> bytes:
    """Forty functions, each calling the next one twice: small to read, endless to unfold."""
    functions = []
    opsets = [helper.make_opsetid("own", 1), helper.make_opsetid("", 17)]
    for level in range(40):
        below = f"f{level + 1}"
        body = [helper.make_node(below, ["a"], ["b"], domain="own")]
        body.append(helper.make_node(below, ["b"], ["c"], domain="own"))
        if level == 39:
            body = [helper.make_node("Relu", ["a"], ["c"])]
        functions.append(helper.make_function("own", f"f{level}", ["a"], ["c"], body, opsets))
    call = helper.make_node("f0", ["x"], ["y"], domain="own")
    return make_model([call], functions=functions, opsets=opsets[:1]).SerializeToString()


def test_a_model_is_loaded_once_and_run_often() -> None:
    with Guard(GOOD, "m.onnx") as guard:
        for images_BCHW in (IMAGES_BCHW, IMAGES_BCHW[:, :, ::2], IMAGES_BCHW[:1]):
            output = guard.run(images_BCHW)
            np.testing.assert_allclose(output, naive_convolution(images_BCHW, KERNEL), rtol=0, atol=1e-5)


def test_a_run_that_fails_says_why_and_the_next_one_works() -> None:
    with Guard(GOOD, "m.onnx") as guard:
        reason = guard.run(IMAGES_BCHW[:, :2])
        assert isinstance(reason, str)
        assert "Got: 2 Expected: 3" in reason
        assert "\n" not in reason
        assert not isinstance(guard.run(IMAGES_BCHW), str)


def test_a_model_that_is_refused_says_why() -> None:
    bad = make_model([helper.make_node("Conv", ["x", "nowhere"], ["y"])]).SerializeToString()

    with (
        pytest.raises(ModelError, match=r"\Am\.onnx: ONNX Runtime refuses it \([^\n]*\)\Z"),
        Guard(bad, "m.onnx"),
    ):
        pass


def test_a_crash_is_one_line() -> None:
    with Guard(GOOD, "m.onnx") as guard:
        os.kill(guard._child.pid, signal.SIGSEGV)
        with pytest.raises(
            ModelError, match=r"\Am\.onnx: refused, its trial run crashed \(Segmentation fault\)\Z"
        ):
            guard.run(IMAGES_BCHW)


def test_a_hang_ends_after_the_time_that_it_is_given() -> None:
    limits = GuardLimits(load_s=2, run_s=1)
    started = time.monotonic()

    with (
        pytest.raises(ModelError, match="trial run took more than 1 s"),
        Guard(endless(), "m.onnx", limits) as guard,
    ):
        guard.run(IMAGES_BCHW)
    with pytest.raises(ModelError, match="trial run took more than 2 s"), Guard(doubling(), "m.onnx", limits):
        pass

    assert time.monotonic() - started < 20


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of address space is Linux's")
def test_memory_beyond_the_limit_is_refused() -> None:
    shape = weights("shape", np.array([1, 3, 20_000, 20_000]))
    grow = make_model([helper.make_node("Expand", ["x", "shape"], ["y"])], [shape]).SerializeToString()

    with Guard(grow, "m.onnx", GuardLimits(memory_bytes=3 << 30)) as guard:
        reason = guard.run(np.zeros((1, 3, 1, 1), np.float32))
    assert isinstance(reason, str)
    assert "allocate" in reason


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of processor time is tested on Linux")
def test_a_child_whose_parent_is_gone_ends_by_itself() -> None:
    """No clock of the parent's runs any more: the processor time that is left ends it."""
    with (
        pytest.raises(ModelError, match=r"trial run crashed \((CPU time limit exceeded|Killed)\)"),
        Guard(endless(), "m.onnx", GuardLimits(cpu_s=2)) as guard,
    ):
        guard.run(IMAGES_BCHW)


def test_the_child_can_open_no_file_once_the_model_is_there(tmp_path: Path) -> None:
    """Its own limit, tried from within: after it, even what was readable does not open."""
    (tmp_path / "f").write_text("x")
    program = (
        "import sys; from importlib.util import spec_from_file_location as s, module_from_spec as m\n"
        f"spec = s('child', {onnx_child.__file__!r}); child = m(spec); spec.loader.exec_module(child)\n"
        f"open({str(tmp_path / 'f')!r}).close(); child._limit(8 << 30, 60)\n"
        f"open({str(tmp_path / 'f')!r})\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "Too many open files" in done.stderr.splitlines()[-1]
    assert done.stderr.count('File "<string>", line 4') == 1


def test_the_child_loads_neither_torch_nor_files_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('taken from the folder')")
    (tmp_path / "json.py").write_text("raise SystemExit('taken from the folder')")
    monkeypatch.chdir(tmp_path)

    with Guard(GOOD, "m.onnx") as guard:
        maps = Path(f"/proc/{guard._child.pid}/maps")
        loaded = maps.read_text() if maps.exists() else ""
        assert not isinstance(guard.run(IMAGES_BCHW), str)

    assert "torch" not in loaded


def test_no_child_is_left() -> None:
    with Guard(GOOD, "m.onnx") as guard:
        child = guard._child
    assert child.returncode is not None

    refused = Guard(b"nonsense", "m.onnx")
    with pytest.raises(ModelError):
        refused.__enter__()
    assert refused._child.returncode is not None


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff" * 8,
        b"\2\0\0\0\0\0\0\0{}",
        b"\3\0\0\0\0\0\0\0abc",
        b'\x0b\0\0\0\0\0\0\0{"bytes":9}',
        b'\x0c\0\0\0\0\0\0\0{"bytes":-1}',
        b'\x19\0\0\0\0\0\0\0{"bytes":0,"dtype":"|O8"}',
    ],
)
def test_a_child_that_talks_nonsense_is_not_believed(
    tmp_path: Path, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child.py"
    child.write_text(f"import os, sys; os.write(1, {answer!r}); os.close(1); sys.stdin.read()")
    monkeypatch.setattr(onnx_child, "__file__", str(child))

    with pytest.raises(ModelError, match=r"\Am\.onnx: refused, its trial run [^\n]*\Z"):
        Guard(GOOD, "m.onnx", GuardLimits(load_s=20)).__enter__()
