"""Damaged and hostile ONNX files: exit code 4 and one line, or a model that is harmless; never a crash."""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from axialcli.backends import load_model
from axialcli.errors import ModelError
from tests.backends.conftest import Axial
from tests.fixtures.graphs import convolution, make_model, onnx_spec, random_kernel, weights

KERNEL = random_kernel(3)
PIXELS_BCHW = np.random.default_rng(1).integers(0, 256, (1, 3, 20, 20), dtype=np.uint8)


def plain(**more: Any) -> onnx.ModelProto:
    """Two convolutions of one pixel: little but structure."""
    (first, weight_1) = convolution(random_kernel(4, 3, 1), "x", "a")
    (second, weight_2) = convolution(random_kernel(3, 4, 1), "r", "y")
    return make_model([first, helper.make_node("Relu", ["a"], ["r"]), second], [weight_1, weight_2], **more)


def branched() -> onnx.ModelProto:
    """A graph with a subgraph, a constant and arithmetic on shapes."""
    node, weight = convolution(KERNEL, "x", "z")
    answer = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    branch = helper.make_graph([node], "branch", [], answer, [weight])
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "first"], ["n"]),
        helper.make_node("Constant", [], ["one"], value=weights("", np.array(1))),
        helper.make_node("Less", ["n", "one"], ["never"]),
        helper.make_node("If", ["never"], ["y"], then_branch=branch, else_branch=branch),
    ]
    return make_model(nodes, [weights("first", np.array(0))])


def cut(data: bytes, noise: np.random.Generator) -> bytes:
    return data[: int(noise.integers(len(data)))]


def flip(data: bytes, noise: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    for place in noise.integers(0, len(data), int(noise.integers(1, 4))):
        damaged[place] ^= 1 << int(noise.integers(8))
    return bytes(damaged)


def swap(data: bytes, noise: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    length = int(noise.integers(1, 9))
    here, there = (int(v) for v in noise.integers(0, len(data) - length, 2))
    damaged[here : here + length], damaged[there : there + length] = (
        data[there : there + length],
        data[here : here + length],
    )
    return bytes(damaged)


@pytest.mark.parametrize("damage", [cut, flip, swap])
def test_a_hundred_damaged_files(
    tmp_path: Path, damage: Callable[[bytes, np.random.Generator], bytes], axial: Axial
) -> None:
    """A third each: all in one file, its description beside it, and a graph with branches."""
    spec = onnx_spec()
    models = [plain(spec=spec), plain(), branched()]
    whole = [model.SerializeToString() for model in models]
    (tmp_path / "m.onnx.json").write_text(spec.to_json())
    noise = np.random.default_rng(7)
    codes: collections.Counter[int] = collections.Counter()

    for count in range(100):
        path = tmp_path / "m.onnx"
        path.write_bytes(damage(whole[count % 3], noise))
        code, out, err = axial("models", "show", path)
        codes[code] += 1
        if code == 0:
            # What was hit are names, notes or single weights: it is a network, if not the same one.
            assert "sha256" in out
            assert err == ""
            assert np.isfinite(load_model(path, device="cpu").predict(PIXELS_BCHW)).all()
        else:
            assert code == 4, err
            assert out == ""
            assert err.startswith("axial: error: ")
            assert "m.onnx" in err
            assert err.count("\n") == 1

    assert set(codes) <= {0, 4}
    assert codes[4] >= 35, codes


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    """The description stands last in the file, so no shorter file is whole."""
    whole = plain(spec=onnx_spec()).SerializeToString()

    for length in range(0, len(whole), 7):
        (tmp_path / "m.onnx").write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"\A[^\n]*m\.onnx[^\n]*\Z"):
            load_model(tmp_path / "m.onnx", device="cpu")
