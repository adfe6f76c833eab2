"""External data of ONNX files: nothing outside of the model's own folder is ever opened."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from axialcli.backends import load_model
from axialcli.backends.onnx_file import read_onnx
from axialcli.backends.zoo import model_files
from axialcli.errors import ModelError
from tests.backends.conftest import Axial
from tests.fixtures.graphs import convolution, make_model, onnx_spec, random_kernel, save, weights

KERNEL = random_kernel(3)
SECRET = KERNEL.tobytes()
"""The file outside holds just the right weights: were it read, the model would load."""

Entries = dict[str, str]

_watched: list[list[str]] = []


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _watched:
        _watched[-1].append(str(arguments[0]))


sys.addaudithook(_watch)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The paths of all files that are opened while the test runs, by any code of this process."""
    _watched.append([])
    yield _watched[-1]
    _watched.pop()


class Place:
    """A model's folder, and a file outside of it."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "model"
        self.secret = root / "outside" / "secret.bin"
        self.folder.mkdir()
        self.secret.parent.mkdir()
        self.secret.write_bytes(SECRET)

    def beside(self, content: bytes = SECRET, name: str = "w.bin") -> Path:
        """A file of external data where it may be."""
        (self.folder / name).write_bytes(content)
        return self.folder / name


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def external(tensor: onnx.TensorProto, entries: Entries) -> onnx.TensorProto:
    """The same tensor with its numbers elsewhere."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def model_with(entries: Entries) -> onnx.ModelProto:
    node, weight = convolution(KERNEL)
    return make_model([node], [external(weight, entries)], spec=onnx_spec())


def linked(place: Place) -> Entries:
    (place.folder / "w.bin").symlink_to(place.secret)
    return {"location": "w.bin"}


def linked_inside(place: Place) -> Entries:
    place.beside(name="real.bin")
    (place.folder / "w.bin").symlink_to("real.bin")
    return {"location": "w.bin"}


def linked_folder(place: Place) -> Entries:
    (place.folder / "sub").symlink_to(place.secret.parent)
    return {"location": "sub/secret.bin"}


def folder_below(place: Place) -> Entries:
    (place.folder / "sub").mkdir()
    (place.folder / "sub/w.bin").write_bytes(SECRET)
    return {"location": "sub/w.bin"}


def hard_link(place: Place) -> Entries:
    (place.folder / "w.bin").hardlink_to(place.secret)
    return {"location": "w.bin"}


def folder_as_file(place: Place) -> Entries:
    (place.folder / "w.bin").mkdir()
    return {"location": "w.bin"}


def pipe(place: Place) -> Entries:
    os.mkfifo(place.folder / "w.bin")
    return {"location": "w.bin"}


def through(location: str) -> Callable[[Place], Entries]:
    return lambda place: {"location": location.format(root=place.root)}


def within(**entries: str) -> Callable[[Place], Entries]:
    def make(place: Place) -> Entries:
        place.beside()
        return {"location": "w.bin", **entries}

    return make


NAME = "it has to be the name of a file beside the model"
SIZE = "is not 324 bytes within 'w.bin'"

ESCAPES: list[tuple[str, Callable[[Place], Entries], str]] = [
    ("parent folder", through("../outside/secret.bin"), NAME),
    ("parent folder by a detour", through("x/../../outside/secret.bin"), NAME),
    ("parent folder, other slashes", through("..\\outside\\secret.bin"), NAME),
    ("absolute", through("{root}/outside/secret.bin"), NAME),
    ("absolute, twice the slash", through("//{root}/outside/secret.bin"), NAME),
    ("drive letter", through("C:secret.bin"), NAME),
    ("address", through("file://{root}/outside/secret.bin"), NAME),
    ("memory of the process", through("*/_ORT_MEM_ADDR_/*"), NAME),
    ("device", through("/dev/zero"), NAME),
    ("process", through("/proc/self/environ"), NAME),
    ("the folder itself", through("."), NAME),
    ("the folder above", through(".."), NAME),
    ("no name", through(""), NAME),
    ("a name with a zero", through("w.bin\0/../../outside/secret.bin"), NAME),
    ("a name of two lines", through("w.bin\nx"), NAME),
    ("a name too long", through("x" * 256), NAME),
    ("folder below", folder_below, NAME),
    ("linked folder below", linked_folder, NAME),
    ("link", linked, "not a plain file"),
    ("link within the folder", linked_inside, "not a plain file"),
    ("hard link", hard_link, "it has a second name (hard link)"),
    ("folder as a file", folder_as_file, "not a plain file"),
    ("pipe", pipe, "not a plain file"),
    ("missing file", through("w.bin"), "cannot be read (No such file or directory)"),
    ("offset at the end", within(offset="324"), SIZE),
    ("offset so that the end is outside", within(offset="1"), SIZE),
    ("negative offset", within(offset="-4"), SIZE),
    ("offset beyond 64 bits", within(offset=str(2**64)), SIZE),
    ("offset that wraps around", within(offset=str(2**63 - 1)), SIZE),
    ("offset of other digits", within(offset="\N{ARABIC-INDIC DIGIT ZERO}"), SIZE),
    ("length beyond the end", within(length="328"), SIZE),
    ("length too short", within(length="4"), SIZE),
    ("negative length", within(length="-1"), SIZE),
]


@pytest.mark.parametrize(("make", "says"), [case[1:] for case in ESCAPES], ids=[case[0] for case in ESCAPES])
def test_external_data_elsewhere_is_refused_unopened(
    place: Place,
    make: Callable[[Place], Entries],
    says: str,
    opened: list[str],
    axial: Axial,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = save(place.folder / "m.onnx", model_with(make(place)))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(place.root / "slide.png")
    # Were a path taken as relative to where the command is given, it would end here.
    monkeypatch.chdir(place.secret.parent)
    opened.clear()

    code, out, err = axial("predict", place.root / "slide.png", "--out", "mask.tif", "--model", path)

    assert (code, out) == (4, "")
    # The line is cut to the width of a terminal; the error itself is whole.
    assert err.startswith(f"axial: error: {place.folder}"[:150])
    assert err.count("\n") == 1
    with pytest.raises(ModelError) as error:
        load_model(path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert str(path) in opened
    outside = ("secret", "sub", "dev/zero", "environ", "_ORT_")
    assert [name for name in opened if any(word in name for word in outside)] == []
    if says != SIZE:
        assert [name for name in opened if name.endswith("w.bin")] == []
    assert list(place.secret.parent.iterdir()) == [place.secret]


def initialiser(tensor: onnx.TensorProto) -> onnx.ModelProto:
    node, _ = convolution(KERNEL)
    return make_model([node], [tensor], spec=onnx_spec())


def constant(tensor: onnx.TensorProto) -> onnx.ModelProto:
    node, _ = convolution(KERNEL)
    return make_model([helper.make_node("Constant", [], ["y.weight"], value=tensor), node], spec=onnx_spec())


def subgraph(tensor: onnx.TensorProto) -> onnx.ModelProto:
    """A branch that is never taken."""
    node, _ = convolution(KERNEL)
    answer = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    branch = helper.make_graph([node], "branch", [], answer, [tensor])
    always = weights("always", np.array(True))
    choice = helper.make_node("If", ["always"], ["y"], then_branch=branch, else_branch=branch)
    return make_model([choice], [always], spec=onnx_spec())


def function(tensor: onnx.TensorProto) -> onnx.ModelProto:
    body = [
        helper.make_node("Constant", [], ["w"], value=tensor),
        helper.make_node("Conv", ["a", "w"], ["b"], pads=[1] * 4),
    ]
    own = helper.make_function("own", "Apply", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    return make_model(
        [helper.make_node("Apply", ["x"], ["y"], domain="own")],
        spec=onnx_spec(),
        functions=[own],
        opsets=[helper.make_opsetid("own", 1)],
    )


def sparse(tensor: onnx.TensorProto) -> onnx.ModelProto:
    """All 81 numbers of the kernel as a sparse tensor."""
    tensor.dims[:] = [81]
    places = weights("places", np.arange(81))
    model = make_model([convolution(KERNEL)[0]], spec=onnx_spec())
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, places, KERNEL.shape))
    return model


@pytest.mark.parametrize("hide", [initialiser, constant, subgraph, function, sparse])
def test_no_place_in_a_file_hides_external_data(
    place: Place, hide: Callable[[onnx.TensorProto], onnx.ModelProto], opened: list[str]
) -> None:
    weight = convolution(KERNEL)[1]
    path = save(place.folder / "m.onnx", hide(external(weight, {"location": "../outside/secret.bin"})))

    for read in (load_model, read_onnx, model_files):
        with pytest.raises(ModelError, match=NAME):
            read(path)
    assert [name for name in opened if "secret" in name] == []

    # The same with a file that may be read: its weights arrive.
    data = place.beside()
    weight = convolution(KERNEL)[1]
    save(path, hide(external(weight, {"location": "w.bin", "offset": "0", "length": "324"})))
    assert SECRET in read_onnx(path).to_bytes()
    assert b"w.bin" not in read_onnx(path).to_bytes()
    assert data in model_files(path)


def test_what_a_model_is_read_from_is_hashed(place: Place) -> None:
    path = save(place.folder / "m.onnx", model_with({"location": "w.bin"}))
    place.beside()
    before = read_onnx(path).sha256
    place.beside(b"\1" + SECRET[1:])

    assert read_onnx(path).sha256 != before
    # What no tensor uses counts too: nothing about the files stays unsaid.
    place.beside(SECRET + b"\0")
    assert read_onnx(path).sha256 != before
    place.beside()
    assert read_onnx(path).sha256 == before


def test_a_mask_does_not_overwrite_external_data(place: Place, axial: Axial) -> None:
    path = save(place.folder / "m.onnx", model_with({"location": "w.bin"}))
    data = place.beside()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(place.root / "slide.png")

    code, _, err = axial("predict", place.root / "slide.png", "--out", data, "--model", path, "--force")

    assert code in (2, 5)
    assert "w.bin" in err
    assert data.read_bytes() == SECRET


def test_two_locations_for_one_tensor_are_refused(place: Place) -> None:
    model = model_with({"location": "w.bin"})
    model.graph.initializer[0].external_data.add(key="location", value="v.bin")
    place.beside()
    place.beside(name="v.bin")

    with pytest.raises(ModelError, match="says its external 'location' twice"):
        load_model(save(place.folder / "m.onnx", model))


def test_a_location_that_is_not_used_is_checked_all_the_same(place: Place) -> None:
    """A tensor that has its numbers itself, and names a file as well."""
    node, weight = convolution(KERNEL)
    weight.external_data.add(key="location", value="../outside/secret.bin")

    with pytest.raises(ModelError, match=NAME):
        load_model(save(place.folder / "m.onnx", make_model([node], [weight], spec=onnx_spec())))
