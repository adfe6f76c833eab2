"""The options that describe a foreign model mean what their help says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from axialcli.cli.model_options import model_hints
from axialcli.errors import UsageError
from axialcli.hints import ModelHints

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("options", "hints"),
    [
        ({}, {}),
        ({"input_range": "imagenet"}, {"range": "imagenet"}),
        ({"input_range": "0.5:0.25"}, {"mean": (0.5,), "std": (0.25,)}),
        ({"input_range": "-1,0,1e-1:1,2,3"}, {"mean": (-1, 0, 0.1), "std": (1, 2, 3)}),
        ({"input_size": "224x299"}, {"size": (224, 299)}),
        ({"input_size": "x32"}, {"multiple": 32}),
        ({"classes": "4"}, {"classes": 4}),
        ({"classes": "a, b"}, {"classes": ("a", "b")}),
        ({"classes": "a,b=#FF0010"}, {"classes": ("a", "b"), "colours": (None, (255, 0, 16))}),
        ({"layout_in": "NHWC", "task": "classification"}, {"layout": "NHWC", "task": "classification"}),
        ({"input_channels": 4, "output_stride": 2}, {"channels": 4, "stride": 2}),
        ({"activation": "none", "model_mpp": 0.5, "threshold": 0}, {"activation": "none", "mpp": 0.5,
                                                                    "threshold": 0}),
    ],
)  # fmt: skip
def test_options_become_hints(options: dict[str, Any], hints: dict[str, Any]) -> None:
    assert model_hints(**options) == ModelHints(**hints)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"input_range": "0-2"}, "--input-range is '0-2': choose one of 0-1, 0-255, imagenet"),
        ({"input_range": "a:b"}, "--input-range is 'a:b': write MEAN:STD"),
        ({"input_range": "0.5:"}, "--input-range is '0.5:': write MEAN:STD"),
        ({"input_range": "0.5:0"}, "--input-range has the std"),
        ({"input_range": "nan:1"}, "--input-range has the mean"),
        ({"input_size": "224"}, "--input-size is '224': write HxW"),
        ({"input_size": "0x224"}, "--input-size is 0: choose 1 to 16384"),
        ({"input_size": "x0"}, "--input-size is 0: choose 1 to 4096"),
        ({"classes": "65537"}, "--classes gives 65537: a mask holds 2 to 65536"),
        ({"classes": "1"}, "--classes gives 1: a mask holds 2 to 65536"),
        ({"classes": "a"}, "--classes gives 1"),
        ({"classes": "a,a"}, "--classes has a name twice"),
        ({"classes": "a,"}, "'' is not a name"),
        ({"classes": "a,b\x1b[0m"}, "is not a name"),
        ({"classes": "a,b=red"}, "--classes has the colour 'red'"),
        ({"layout_in": "CHW"}, "--layout-in is 'CHW': choose one of NCHW, NHWC"),
        ({"activation": "relu"}, "--activation is 'relu'"),
        ({"task": "detection"}, "--task is 'detection'"),
        ({"input_channels": 0}, "--input-channels is 0"),
        ({"output_stride": 5000}, "--output-stride is 5000"),
        ({"model_mpp": float("nan")}, "--model-mpp is nan"),
        ({"threshold": 1.5}, "--threshold is 1.5"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        model_hints(**options)
    assert says in str(caught.value)


def test_hints_name_the_options_that_gave_them() -> None:
    hints = model_hints(input_range="0.5:1", classes="a,b=#000000", input_size="x4")

    assert hints.flags == ["--input-range", "--input-size", "--classes"]
    assert ModelHints().flags == []


def test_options_do_not_wait_for_torch() -> None:
    heavy = "{'torch', 'onnx', 'onnxruntime'}"
    program = f"import sys, axialcli.cli.model_options\nprint(*{heavy} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", program], text=True, cwd=ROOT).split() == []
