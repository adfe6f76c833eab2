"""Foreign ONNX models: what is found is right, what cannot be is asked for, contradictions are refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from axialcli.backends.foreign import describe_foreign
from axialcli.backends.foreign_words import KINDS
from axialcli.backends.spec import ModelSpec
from axialcli.errors import AxialError, ModelError, UsageError
from axialcli.hints import ModelHints
from tests.fixtures.foreign_models import (
    SessionProbe,
    classifier,
    constant,
    ending,
    fcn,
    graph_model,
    labels_of_bytes,
    nhwc,
    pooled,
    quarter,
    resized_back,
    u_net,
)

UNIT = {"range": "0-1"}
PATH = Path("foreign.onnx")


def described(model: ModelProto, path: Path = PATH, **hints: Any) -> ModelSpec:
    return describe_foreign(path, model, SessionProbe(model), ModelHints(**hints))


def refused(model: ModelProto, path: Path = PATH, **hints: Any) -> AxialError:
    with pytest.raises(AxialError) as caught:
        described(model, path, **hints)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def facts(spec: ModelSpec) -> dict[str, Any]:
    """The description in a few words, those that say nothing special left out."""
    usual = {
        "task": "segmentation",
        "layout": "NCHW",
        "channels": 3,
        "size": None,
        "multiple": 1,
        "activation": "softmax",
        "stride": 1,
        "network_stride": 1,
    }
    found = {
        "task": spec.task,
        "layout": spec.input.layout,
        "channels": len(spec.input.channels),
        "size": spec.input.size,
        "multiple": spec.input.multiple,
        "activation": spec.output.activation,
        "stride": spec.output.stride,
        "classes": len(spec.classes),
        "network_stride": spec.network_stride,
    }
    return {key: value for key, value in found.items() if usual.get(key, "") != value}


def softmax_then_resize() -> ModelProto:
    resize = helper.make_node("Resize", ["squashed", "", "same"], ["answer"], mode="linear")
    model = ending("Softmax", 3, then=[resize], axis=1)
    model.graph.initializer.append(constant("same", [1, 1, 1, 1], np.float32))
    return model


def softmax_by_hand() -> ModelProto:
    nodes = [
        helper.make_node("ReduceSum", ["squashed", "axis"], ["sum"], keepdims=1),
        helper.make_node("Div", ["squashed", "sum"], ["answer"]),
    ]
    model = ending("Exp", 3, then=nodes)
    model.graph.initializer.append(constant("axis", [1], np.int64))
    return model


def labels_as_floats() -> ModelProto:
    return ending("ArgMax", 3, axis=1, then=[helper.make_node("Cast", ["squashed"], ["answer"], to=1)])


def yes_or_no() -> ModelProto:
    model = ending("Greater", 1)
    model.graph.node[-1].input.append("half")
    model.graph.initializer.append(constant("half", [0.5], np.float32))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.BOOL
    return model


def any_channels(layout: str) -> ModelProto:
    """The mean over the channels, however many."""
    axis = 1 if layout == "NCHW" else 3
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["grey"], axes=[axis]),
        helper.make_node("Mul", ["grey", "large"], ["answer"]),
    ]
    dims = ["b", "x", "y", "z"]
    return graph_model(nodes, given=dims, answered=None, initializers=[constant("large", [90.0], np.float32)])


def silent(model: ModelProto) -> ModelProto:
    """The same graph, which says nothing of its input's shape."""
    model.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["a", "b", "c", "d"])
    )
    return model


def only(side: int, model: ModelProto) -> ModelProto:
    """A graph that adds a table of one size to the pixels and does not say so."""
    for node in model.graph.node:
        node.input[:] = ["placed" if name == "image" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Add", ["image", "table"], ["placed"]))
    model.graph.initializer.append(constant("table", np.zeros((1, 1, side, side)), np.float32))
    return model


@pytest.mark.parametrize(
    ("model", "hints", "want"),
    [
        (fcn(), UNIT, {"classes": 3}),
        (fcn(dtype=np.float16), UNIT, {"classes": 3}),
        (fcn(channels=1), UNIT, {"classes": 3, "channels": 1}),
        (fcn(channels=5), UNIT, {"classes": 3, "channels": 5}),
        (silent(fcn()), UNIT, {"classes": 3}),
        (silent(fcn(channels=1)), UNIT, {"classes": 3, "channels": 1}),
        (silent(nhwc()), UNIT, {"classes": 4, "layout": "NHWC"}),
        (fcn(classes=1), UNIT, {"classes": 2, "activation": "sigmoid"}),
        (nhwc(), UNIT, {"classes": 4, "layout": "NHWC"}),
        (nhwc(out=False), UNIT, {"classes": 4, "layout": "NHWC"}),
        (ending("Transpose", 5, perm=[0, 2, 3, 1]), UNIT, {"classes": 5}),
        (labels_of_bytes(), {"classes": 3}, {"classes": 3, "activation": "labels"}),
        (labels_as_floats(), {**UNIT, "classes": 3}, {"classes": 3, "activation": "labels"}),
        (yes_or_no(), UNIT, {"classes": 2, "activation": "labels"}),
        (classifier(), UNIT, {"classes": 5, "size": (224, 224), "task": "classification"}),
        (quarter(), UNIT, {"classes": 3, "multiple": 4, "stride": 4, "network_stride": 4}),
        (ending("Softmax", 3, axis=1), UNIT, {"classes": 3, "activation": "none"}),
        (softmax_then_resize(), UNIT, {"classes": 3, "activation": "none"}),
        (softmax_by_hand(), UNIT, {"classes": 3, "activation": "none"}),
        (ending("LogSoftmax", 3, axis=1), UNIT, {"classes": 3}),
        (ending("Sigmoid", 3), UNIT, {"classes": 3, "activation": "none"}),
        (ending("Sigmoid", 1), UNIT, {"classes": 2, "activation": "none"}),
        (u_net(5), UNIT, {"classes": 2, "multiple": 32, "network_stride": 32}),
        (u_net(3), UNIT, {"classes": 2, "multiple": 8, "network_stride": 8}),
        (resized_back(3), UNIT, {"classes": 2, "network_stride": 8}),
        (pooled(flat=True), UNIT, {"classes": 4, "task": "classification"}),
        (pooled(flat=False), UNIT, {"classes": 4, "task": "classification"}),
        (only(224, fcn()), UNIT, {"classes": 3, "size": (224, 224)}),
        (only(96, fcn()), {**UNIT, "size": (96, 96)}, {"classes": 3, "size": (96, 96)}),
        (any_channels("NHWC"), {**UNIT, "layout": "NHWC", "channels": 7},
         {"classes": 2, "layout": "NHWC", "channels": 7, "activation": "sigmoid"}),
    ],
)  # fmt: skip
def test_a_graph_is_found_out_with_the_fewest_hints(
    model: ModelProto, hints: dict[str, Any], want: dict[str, Any]
) -> None:
    assert facts(described(model, **hints)) == want


def test_a_network_that_takes_one_picture_at_a_time_is_found_out() -> None:
    assert described(resized_back(alone=True), **UNIT).config == {"batch": 1}
    assert described(resized_back(), **UNIT).config == {}
    # This one says so itself.
    assert described(classifier(), **UNIT).config == {}


@pytest.mark.parametrize("depth", [1, 2, 4, 6])
def test_the_multiple_is_the_smallest_that_the_network_takes(depth: int) -> None:
    model = u_net(depth)
    spec = described(model, **UNIT)
    probe = SessionProbe(model)

    assert spec.input.multiple == 2**depth
    # By trying every size: exactly the multiples are taken.
    taken = [
        side for side in range(2**depth, 3 * 2**depth + 1) if not isinstance(probe((1, 3, side, side)), str)
    ]
    assert taken == [2**depth, 2 * 2**depth, 3 * 2**depth]


@pytest.mark.parametrize(
    ("scale", "seen"),
    [
        ({"range": "0-1"}, lambda v: v / 255),
        ({"range": "0-255"}, lambda v: v),
        ({"range": "imagenet"},
         lambda v: (v / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        ({"mean": (0.5,), "std": (0.25,)}, lambda v: (v / 255 - 0.5) / 0.25),
        ({"mean": (0.1, 0.2, 0.3), "std": (1.0, 2.0, 4.0)},
         lambda v: (v / 255 - [0.1, 0.2, 0.3]) / [1, 2, 4]),
    ],
)  # fmt: skip
def test_the_value_scale_is_what_was_said(scale: dict[str, Any], seen: Any) -> None:
    spec = described(fcn(), **scale)
    pixel_C = np.array([10.0, 100.0, 250.0])

    got_C = (pixel_C / 255 - spec.input.mean) / spec.input.std

    assert np.abs(got_C - seen(pixel_C)).max() < 1e-9


def test_bytes_need_no_value_scale_and_stay_as_they_are() -> None:
    spec = described(labels_of_bytes(), classes=("a", "b", "c"))

    assert (100 / 255 - spec.input.mean[0]) / spec.input.std[0] == pytest.approx(100)
    assert described(labels_of_bytes(), classes=3, range="0-255").input == spec.input


def test_names_colours_resolution_and_threshold_are_taken_over() -> None:
    spec = described(
        fcn(classes=1),
        **UNIT,
        classes=("glass", "tumour"),
        colours=(None, (1, 2, 3)),
        mpp=0.5,
        threshold=0.7,
    )

    assert [entry.name for entry in spec.classes] == ["glass", "tumour"]
    assert spec.classes[1].colour == (1, 2, 3)
    assert (spec.input.mpp, spec.output.threshold) == (0.5, 0.7)
    assert (spec.name, spec.architecture) == ("foreign", "onnx")
    assert ModelSpec.from_json(spec.to_json(), "again") == spec


def test_default_colours_differ() -> None:
    spec = described(fcn(classes=40), **UNIT)

    assert len({entry.colour for entry in spec.classes}) == 40


@pytest.mark.parametrize(
    ("model", "hints", "flags"),
    [
        (fcn(), {}, {"--input-range"}),
        (labels_of_bytes(), {}, {"--classes"}),
        (labels_as_floats(), {}, {"--input-range", "--classes"}),
        (any_channels("NCHW"), {}, {"--input-range", "--layout-in", "--input-channels"}),
        (any_channels("NCHW"), {"layout": "NCHW"}, {"--input-range", "--input-channels"}),
        (any_channels("NCHW"), {"channels": 3, **UNIT}, {"--layout-in"}),
        (ending("Clip", 1), {}, {"--input-range"}),
        (ending("Softplus", 1, then=[helper.make_node("Tanh", ["squashed"], ["answer"])]), {},
         {"--input-range", "--activation"}),
    ],
)  # fmt: skip
def test_all_that_is_missing_is_asked_for_in_one_error(
    model: ModelProto, hints: dict[str, Any], flags: set[str]
) -> None:
    error = refused(model, **hints)

    assert isinstance(error, ModelError)
    assert {word for word in str(error).split() if word.startswith("--")} == flags
    assert "foreign.onnx" in str(error)
    # The command line shows no more than this of an error.
    assert len(str(error)) < 200 - len("axial: error: ")


@pytest.mark.parametrize(
    ("model", "hints", "says"),
    [
        (fcn(), {"layout": "NHWC"}, '--layout-in is NHWC, but the input is [?, 3, ?, ?]'),
        (fcn(), {"channels": 1}, "--input-channels is 1, but the input is [?, 3, ?, ?]"),
        (fcn(), {"classes": 4}, "--classes is 4, but the graph answers 3 classes"),
        (fcn(), {"classes": ("a", "b")}, "--classes is a,b, but the graph answers 3 classes"),
        (fcn(), {"activation": "sigmoid"}, '--activation is sigmoid, but the graph answers logits'),
        (fcn(), {"activation": "none"}, "but the graph answers numbers outside 0 to 1"),
        (fcn(), {"activation": "labels"}, "but the graph answers fractions"),
        (fcn(), {"task": "classification"}, "--task is classification, but the graph answers like segm"),
        (fcn(), {"stride": 2}, "--output-stride is 2, but the graph answers every 1 pixels"),
        (fcn(classes=1), {"activation": "softmax"}, "--activation is softmax, but"),
        (fcn(channels=5), {"range": "imagenet"}, "--input-range is imagenet, but the network takes 5 chan"),
        (ending("Softmax", 3, axis=1), {"activation": "softmax"}, "but the graph answers probabilities"),
        (ending("Sigmoid", 1), {"activation": "sigmoid"}, "but the graph answers probabilities of class 1"),
        (classifier(), {"size": (256, 256)}, "--input-size is 256x256, but the graph says 224x224"),
        (classifier(), {"stride": 224}, "--output-stride is 224, but the graph answers once a picture"),
        (classifier(), {"multiple": 100}, "--input-size is x100, but the graph says 224x224"),
        (classifier(), {"task": "segmentation"}, "but the graph answers like classification"),
        (only(96, fcn()), {"size": (64, 96)}, "--input-size is 64x96, but the network does not take it"),
        (u_net(5), {"multiple": 16}, "--input-size is x16, but the network does not take that"),
        (quarter(), {"multiple": 2}, "--input-size is x2, but the network does not take that"),
        (labels_of_bytes(), {"classes": 2}, "--classes is 2, but the graph answers label 2"),
        (labels_of_bytes(), {"classes": 3, "range": "0-1"}, "--input-range is 0-1, but the network takes p"),
        (labels_of_bytes(), {"classes": 3, "activation": "none"}, "but the graph answers whole numbers"),
    ],
)  # fmt: skip
def test_options_that_contradict_the_graph_are_refused(
    model: ModelProto, hints: dict[str, Any], says: str
) -> None:
    if model.graph.input[0].type.tensor_type.elem_type != TensorProto.UINT8 and "range" not in hints:
        hints = {**hints, **UNIT}

    error = refused(model, **hints)

    assert isinstance(error, UsageError)
    assert says in str(error)
    assert str(error).startswith("foreign.onnx: ")


def beside(folder: Path, said: object) -> Path:
    """A model's path, with that description beside it."""
    path = folder / "foreign.onnx"
    path.with_name("foreign.onnx.json").write_text(said if isinstance(said, str) else json.dumps(said))
    return path


def test_a_part_of_a_description_beside_the_model_is_enough(tmp_path: Path) -> None:
    said = {
        "name": "lumen",
        "input": {"range": "0-255", "channels": ["a", "b", "c"], "mpp": 2, "mpp_range": [1, 4]},
        "classes": [{"name": "no"}, {"name": "yes", "colour": "#0a0b0c"}, {"name": "maybe"}],
        "receptive_field_px": 2,
        "licence": "MIT",
    }
    spec = described(fcn(), beside(tmp_path, said))

    assert (spec.name, spec.licence, spec.receptive_field_px) == ("lumen", "MIT", 2)
    assert spec.input.channels == ("a", "b", "c")
    assert (spec.input.mpp, spec.input.mpp_range) == (2, (1, 4))
    assert spec.input.std == pytest.approx((1 / 255,) * 3)
    assert [entry.name for entry in spec.classes] == ["no", "yes", "maybe"]
    assert spec.classes[1].colour == (10, 11, 12)


def test_a_whole_description_beside_the_model_is_kept(tmp_path: Path) -> None:
    spec = described(u_net(3), **UNIT, classes=("a", "b"), mpp=0.5)

    assert described(u_net(3), beside(tmp_path, spec.to_json())) == spec


def test_options_win_over_the_file_beside_the_model(tmp_path: Path) -> None:
    said = {"input": {"mean": [0.5], "std": [0.5], "mpp": 1}, "classes": [{"name": n} for n in "abc"]}

    spec = described(fcn(), beside(tmp_path, said), range="0-1", mpp=0.25, classes=("x", "y", "z"))

    assert (spec.input.mean, spec.input.std, spec.input.mpp) == ((0, 0, 0), (1, 1, 1), 0.25)
    assert [entry.name for entry in spec.classes] == ["x", "y", "z"]
    counted = described(fcn(), beside(tmp_path, said), range="0-1", classes=3)
    assert [entry.name for entry in counted.classes] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a JSON object"),
        ({"format": 2}, "model format 2 is not known"),
        ({"input": []}, "input is not a JSON object"),
        ({"inputs": {}}, "'inputs' is no key"),
        ({"input": {"means": [0]}}, "'input.means' is no key"),
        ({"input": {"mean": [0, True, 0]}}, "input.mean is [0, True, 0], which it cannot be"),
        ({"input": {"mean": [0]}}, "mean and std belong together, std is missing"),
        ({"input": {"mean": [0], "std": [1], "range": "0-1"}}, "input.range says the mean and std already"),
        ({"input": {"size": [64]}}, "input.size is [64]"),
        ({"architecture": "onnx"}, "architecture is 'onnx'"),
        ({"name": "a\nb"}, "name is"),
        ({"input": {"layout": "CHW"}}, "input.layout is 'CHW'"),
        ({"input": {"mpp": 10**400}}, "input.mpp is 1000"),
        ({"classes": [{"colour": "#000000"}]}, "classes is"),
        ({"classes": [{"name": "a", "color": "#000000"}] * 2}, "classes is"),
        ({"classes": [{"name": "a", "colour": "red"}] * 3, "input": {"range": "0-1"}}, "not written #rrggbb"),
        ({"classes": 2, "input": {"range": "0-1"}}, "classes is 2, but the graph answers 3 classes"),
        ({"output": {"stride": 4}, "input": {"range": "0-1"}}, "output.stride is 4, but the graph answers"),
    ],
)  # fmt: skip
def test_a_damaged_description_beside_the_model_is_refused(tmp_path: Path, said: object, says: str) -> None:
    error = refused(fcn(), beside(tmp_path, said))

    assert isinstance(error, ModelError)
    assert says in str(error)
    assert "foreign.onnx" in str(error)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["NHWC", 3]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
LEAVES = [
    *((key,) for key, kind in KINDS.items() if callable(kind)),
    *((key, below) for key, kind in KINDS.items() if not callable(kind) for below in kind),
]
PROBE = SessionProbe(fcn())


def outcome(path: Path) -> ModelSpec | AxialError:
    try:
        return describe_foreign(path, fcn(), PROBE, ModelHints(range="0-1"))
    except AxialError as error:
        return error


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.sampled_from(LEAVES), value=JSON)
def test_any_value_beside_the_model_is_taken_or_refused(
    tmp_path: Path, keys: tuple[str, ...], value: object
) -> None:
    for key in reversed(keys):
        value = {key: value}

    found = outcome(beside(tmp_path, value))

    if isinstance(found, AxialError):
        assert len(str(found).splitlines()) == 1
        assert "foreign.onnx" in str(found)
    else:
        assert len(found.classes) == 3


def two_inputs() -> ModelProto:
    model = fcn()
    model.graph.input.append(helper.make_tensor_value_info("prompt", TensorProto.FLOAT, [1]))
    return model


def old_style() -> ModelProto:
    """Weights are inputs as well, as before IR version 4."""
    model = fcn()
    for weight in model.graph.initializer:
        info = helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        model.graph.input.append(info)
    return model


def of_shape(model: ModelProto, shape: list[Any], kind: int = TensorProto.FLOAT) -> ModelProto:
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", kind, shape))
    return model


def never(shape: tuple[int, ...]) -> str:
    """For models whose signature is reason enough."""
    raise AssertionError(f"{shape} was tried")


LATE = ("NaN", "it answers", "no whole", "73728")
"""What shows only when the network is run."""


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (two_inputs(), "wants 2 inputs (image, prompt), not one"),
        (of_shape(fcn(), ["n", 3, "t", "h", "w"]), "input image has 5 axes"),
        (of_shape(fcn(), ["n", 3, "h", "w"], TensorProto.INT32), "takes int32, not one of float32, float16"),
        (of_shape(fcn(), ["n", 3, "h", "w"], TensorProto.DOUBLE), "takes float64"),
        (of_shape(fcn(), ["n", 300, "h", "w"]), "has no axis of channels"),
        (ending("Log", 3), "NaN or infinity"),
        (ending("Flatten", 3, axis=2), "it answers [3, 24576], which is not one entry per picture"),
        (ending("Flatten", 3), "73728 classes; a mask holds 2 to 65536"),
        (ending("Slice", 3), "no whole share of them"),
    ],
)  # fmt: skip
def test_what_is_no_model_of_one_picture_is_refused(model: ModelProto, says: str) -> None:
    if model.graph.node[-1].op_type == "Slice":
        for name, value in (("from", [0]), ("to", [-1]), ("axis", [2])):
            model.graph.initializer.append(constant(name, value, np.int64))
            model.graph.node[-1].input.append(name)

    runs = SessionProbe(model) if says.startswith(LATE) else never

    with pytest.raises(ModelError) as caught:
        describe_foreign(PATH, model, runs, ModelHints(range="0-1"))

    assert says in str(caught.value)


def test_a_description_that_does_not_hold_together_names_the_file() -> None:
    error = refused(fcn(), **UNIT, threshold=0.5)

    assert str(error) == "foreign.onnx: model 'foreign': a threshold needs two classes, not 3"


def test_weights_that_are_inputs_do_not_count() -> None:
    assert described(old_style(), **UNIT) == described(fcn(), **UNIT)


def test_what_was_found_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "axial")

    described(u_net(5), **UNIT)

    assert [record.getMessage() for record in caplog.records] == [
        "foreign.onnx: takes NCHW, 3 channels of float32, sizes in multiples of 32; "
        "segmentation into 2 classes (logits); tiles start at multiples of 32; "
        "resolution not known, --model-mpp says it"
    ]
