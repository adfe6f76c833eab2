"""Hostile ONNX files: what would unpack, unfold or reach too far is refused before anything runs it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from axialcli.backends import load_model, onnx_wire
from axialcli.backends.model_file import read_spec
from axialcli.backends.onnx_check import MAX_NODES
from axialcli.backends.onnx_file import read_onnx
from axialcli.backends.zoo import model_files
from axialcli.errors import ModelError
from tests.backends.conftest import Axial
from tests.fixtures.graphs import convolution, make_model, onnx_spec, random_kernel, save

PIXELS_BCHW = np.random.default_rng(1).integers(0, 256, (1, 3, 20, 20), dtype=np.uint8)


def plain(**more: Any) -> onnx.ModelProto:
    """Two convolutions of one pixel: little but structure."""
    (first, weight_1) = convolution(random_kernel(4, 3, 1), "x", "a")
    (second, weight_2) = convolution(random_kernel(3, 4, 1), "r", "y")
    return make_model([first, helper.make_node("Relu", ["a"], ["r"]), second], [weight_1, weight_2], **more)


def repeated(field: bytes, times: int) -> bytes:
    """A graph that holds one field many times over."""
    body = field * times
    return b"\x08\x08\x3a" + onnx_varint(len(body)) + body


def onnx_varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def deep(levels: int) -> bytes:
    """A graph in a node in a graph …: a message of one field, each inside the next."""
    inner = b""
    for _ in range(levels):
        # Attribute's graph (6), node's attribute (5), graph's node (1).
        for key in (b"\x32", b"\x2a", b"\x0a"):
            inner = key + onnx_varint(len(inner)) + inner
    return b"\x08\x08\x3a" + onnx_varint(len(inner)) + inner


BOMBS = [
    ("empty nodes", repeated(b"\x0a\x00", 2_100_000), "more than 2000000 entries"),
    ("nested graphs", deep(1000), "nested more than 64 deep"),
    ("too many nodes", repeated(b"\x0a\x02\x22\x00", MAX_NODES + 1), f"a network has 1 to {MAX_NODES}"),
    ("endless number", b"\x08" + b"\xff" * 50, "not a whole ONNX file"),
    ("length beyond the end", b"\x08\x08\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "not a whole ONNX file"),
    ("group", b"\x08\x08\x3b\x3c", "not a whole ONNX file"),
    ("nothing", b"", "has no graph"),
    ("zeros", bytes(5000), None),
    ("text", b"a network" * 99, None),
    ("zip", b"PK\x03\x04" + bytes(99), None),
    ("the format of ONNX Runtime", b"\x08\x00\x00\x00ORTM" + bytes(200), None),
]


@pytest.mark.parametrize(("data", "says"), [bomb[1:] for bomb in BOMBS], ids=[bomb[0] for bomb in BOMBS])
def test_bombs_are_refused_before_they_are_unpacked(
    tmp_path: Path, data: bytes, says: str | None, axial: Axial
) -> None:
    (tmp_path / "m.onnx").write_bytes(data)

    started = time.monotonic()
    code, out, err = axial("models", "show", tmp_path / "m.onnx")

    assert time.monotonic() - started < 20
    assert (code, out) == (4, "")
    assert err.startswith("axial: error: ")
    assert err.count("\n") == 1
    if says is not None:
        with pytest.raises(ModelError, match=says):
            read_onnx(tmp_path / "m.onnx")


def test_lists_that_unpack_to_eightfold_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = helper.make_tensor("w", TensorProto.INT64, [1000], np.zeros(1000, np.int64))
    path = save(tmp_path / "m.onnx", make_model([helper.make_node("Relu", ["x"], ["y"])], [tensor]))
    monkeypatch.setattr(onnx_wire, "MAX_PACKED_BYTES", 8000)
    read_onnx(path)

    monkeypatch.setattr(onnx_wire, "MAX_PACKED_BYTES", 7999)
    with pytest.raises(ModelError, match="would unpack to more than 2 GiB"):
        read_onnx(path)


def test_a_file_larger_than_any_model_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "m.onnx").open("wb") as file:
        file.truncate(3 << 30)

    for read in (load_model, model_files):
        with pytest.raises(ModelError, match=r"m\.onnx: 3221225472 bytes; an ONNX model has at most 2 GiB"):
            read(tmp_path / "m.onnx")


def with_tensor(**changes: Any) -> onnx.ModelProto:
    model = plain()
    for key, value in changes.items():
        if key == "dims":
            model.graph.initializer[0].dims[:] = value
        else:
            setattr(model.graph.initializer[0], key, value)
    return model


def of_domain(domain: str, operator: str = "Relu", **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node(operator, ["x"], ["y"], domain=domain, **attributes)
    return make_model([node], opsets=[helper.make_opsetid(domain, 1)])


def of_shape(*shape: int | str, element: int = TensorProto.FLOAT) -> onnx.ModelProto:
    return make_model([helper.make_node("Relu", ["x"], ["y"])], shape=shape, element=element)


def two_inputs() -> onnx.ModelProto:
    model = plain()
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))
    return model


def same_data_often() -> onnx.ModelProto:
    """A hundred tensors of 300 MB each."""
    model = plain()
    for number in range(100):
        tensor = model.graph.initializer.add(name=f"t{number}", data_type=TensorProto.FLOAT)
        tensor.dims[:] = [75_000_000]
    return model


REFUSED: list[tuple[str, Callable[[], onnx.ModelProto], str]] = [
    ("unknown domain", lambda: of_domain("evil"), "operator 'Relu' of 'evil' is refused"),
    ("internal domain", lambda: of_domain("com.ms.internal.nhwc"), "only standard operators are run"),
    ("an operator that opens files", lambda: of_domain("com.microsoft", "EPContext"), "'EPContext'"),
    ("unknown operator", lambda: of_domain("", "Fly"), "ONNX Runtime refuses it"),
    ("shape too large for its bytes", lambda: with_tensor(dims=[10**9]), "alone would have more than 2 GiB"),
    ("shape that overflows", lambda: with_tensor(dims=[2**62, 2**62]), "alone would have more than 2 GiB"),
    ("negative shape", lambda: with_tensor(dims=[-4, -3]), "has an impossible shape"),
    ("many axes", lambda: with_tensor(dims=[1] * 17), "has an impossible shape"),
    ("shape and bytes differ", lambda: with_tensor(dims=[4, 3, 1, 2]), "has 48 bytes, its shape needs 96"),
    ("type of texts", lambda: with_tensor(data_type=TensorProto.STRING), "holds type 8, which is refused"),
    ("type unknown", lambda: with_tensor(data_type=99), "holds type 99"),
    ("not a number", lambda: with_tensor(raw_data=np.full(12, math.nan, "f4").tobytes()), "holds NaN"),
    ("too much in all", same_data_often, "its weights have more than 2 GiB"),
    ("two inputs", two_inputs, "2 inputs and 1 outputs"),
    (
        "five axes",
        lambda: of_shape(1, 3, 4, 4, 4),
        "takes volumes; of .onnx files, axial runs those that take pictures",
    ),
    ("sides too long", lambda: of_shape(1, 3, 10**12, 4), "four axes up to 16384 are read"),
    ("input of texts", lambda: of_shape(1, 3, 4, 4, element=TensorProto.STRING), "its input has type 8"),
    ("no nodes", lambda: make_model([]), "0 operators"),
]


@pytest.mark.parametrize(
    ("make", "says"), [case[1:] for case in REFUSED], ids=[case[0].replace(" ", "_") for case in REFUSED]
)
def test_what_no_network_needs_is_refused(
    tmp_path: Path, make: Callable[[], onnx.ModelProto], says: str, axial: Axial
) -> None:
    path = save(tmp_path / "m.onnx", make())
    (tmp_path / "m.onnx.json").write_text(onnx_spec().to_json())

    with pytest.raises(ModelError, match=rf"\A[^\n]*m\.onnx: [^\n]*{says}[^\n]*\Z"):
        load_model(path, device="cpu")
    assert axial("models", "show", path)[0] == 4


def test_functions_of_the_file_itself_are_run(tmp_path: Path) -> None:
    """torch's exporter may leave some behind."""
    body = [helper.make_node("Mul", ["a", "a"], ["b"])]
    square = helper.make_function("own", "Square", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    model = make_model(
        [helper.make_node("Square", ["x"], ["y"], domain="own")],
        spec=onnx_spec(mean=(0, 0, 0), std=(1, 1, 1)),
        functions=[square],
        opsets=[helper.make_opsetid("own", 1)],
    )

    found = load_model(save(tmp_path / "m.onnx", model), device="cpu").predict(PIXELS_BCHW, logits=True)

    np.testing.assert_allclose(found, (PIXELS_BCHW / 255) ** 2, rtol=0, atol=1e-6)


def test_a_file_that_says_nothing_about_itself_asks_for_what_its_graph_does_not_show(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", plain())
    for read in (load_model, read_spec):
        with pytest.raises(ModelError, match=r"its graph does not show all, say it with .*--input-range"):
            read(path)


def test_a_file_that_poses_as_another_format_is_read_as_what_it_is(tmp_path: Path) -> None:
    """Where ONNX Runtime finds ORTM in the fifth byte, it takes another parser by itself."""
    model = plain(spec=onnx_spec())
    model.ir_version, model.producer_name = 8, "ORTM"
    assert read_onnx(save(tmp_path / "m.onnx", model)).to_bytes()[4:8] == b"ORTM"

    found = load_model(tmp_path / "m.onnx", device="cpu").predict(PIXELS_BCHW)

    model.producer_name = "axial"
    wanted = load_model(save(tmp_path / "n.onnx", model), device="cpu").predict(PIXELS_BCHW)
    assert np.array_equal(found, wanted)


def test_fields_that_only_another_parser_knows_are_removed(tmp_path: Path) -> None:
    data = plain(spec=onnx_spec()).SerializeToString()
    # Field 2000 of the model, a text.
    unknown = b"\x82\x7d\x06secret"
    (tmp_path / "m.onnx").write_bytes(data + unknown)

    assert b"secret" not in read_onnx(tmp_path / "m.onnx").to_bytes()
