"""External data of ONNX files: found wherever it hides, read beside the model, hashed, not overwritten."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from axialcli.backends import load_model
from axialcli.backends.model_file import file_hash
from axialcli.backends.onnx_file import read_onnx
from axialcli.backends.zoo import model_files
from axialcli.errors import ModelError
from tests.backends.conftest import Axial
from tests.fixtures.external import KERNEL, SECRET, Place, external, model_with
from tests.fixtures.graphs import convolution, make_model, onnx_spec, save, weights

NAME = "it has to be the name of a file beside the model"


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
    assert file_hash(path) == before != hashlib.sha256(path.read_bytes()).hexdigest()
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
