"""Models made elsewhere, from slide to mask: the same as their own answer to the whole picture at once.

That answer is the reference evaluator's of the onnx package, from pixels that are normalised here.

Shapes: B batch, C channels, K classes, H height, W width.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

import axialcli
from axialcli.hints import ModelHints
from tests.backends.test_wsinfer import by_hand, config, patch_net, write_model
from tests.engine.foreign import filled, pixels_of_tile
from tests.fixtures.foreign_models import classifier, ending, fcn, labels_of_bytes, nhwc, quarter
from tests.fixtures.slides import write_tiled

HEIGHT, WIDTH = 203, 298
"""No multiple of any tile, step or stride here."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PLAIN = ((0.0,) * 3, (1.0,) * 3)

Picture = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]


def picture(height: int = HEIGHT, width: int = WIDTH) -> Picture:
    """Noise of two scales: every pixel has its say, and so has every region."""
    draw = np.random.default_rng(3)
    coarse = draw.integers(20, 200, (-(-height // 32), -(-width // 32), 3)).repeat(32, 0).repeat(32, 1)
    return (coarse[:height, :width] + draw.integers(0, 56, (height, width, 3))).astype(np.uint8)


def at_once(model: ModelProto, images_BHWC: NDArray[Any], *, channels_last: bool = False) -> NDArray[Any]:
    """What the graph answers by its definition."""
    given = images_BHWC if channels_last else images_BHWC.transpose(0, 3, 1, 2)
    (answer,) = ReferenceEvaluator(model).run(None, {"image": np.ascontiguousarray(given)})
    return np.asarray(answer)


def seen(image_HWC: Picture, scale: tuple[Any, Any]) -> NDArray[np.float32]:
    return ((image_HWC / 255 - scale[0]) / scale[1]).astype(np.float32)


def softmax(logits_KHW: Floats) -> Floats:
    powers = np.exp(logits_KHW - logits_KHW.max(0))
    return powers / powers.sum(0)


def mirrored(image_HWC: Picture, tile: int) -> Picture:
    """Out to whole tiles, each with its own mirror image."""
    rows, columns = (
        [pixel for start in range(0, side, tile) for pixel in pixels_of_tile(start, side, tile)]
        for side in image_HWC.shape[:2]
    )
    return image_HWC[np.ix_(rows, columns)]


def of_fcn(model: ModelProto, image_HWC: Picture) -> Floats:
    return softmax(at_once(model, seen(image_HWC, IMAGENET)[None])[0])


def of_nhwc(model: ModelProto, image_HWC: Picture) -> Floats:
    answer_HWK = at_once(model, seen(image_HWC, ((0.5,) * 3, (0.25,) * 3))[None], channels_last=True)[0]
    return softmax(answer_HWK.transpose(2, 0, 1))


def of_labels(model: ModelProto, image_HWC: Picture) -> Floats:
    labels_HW = at_once(model, image_HWC[None])[0]
    return (np.arange(3)[:, None, None] == labels_HW).astype(np.float64)


def of_quarter(model: ModelProto, image_HWC: Picture) -> Floats:
    return softmax(at_once(model, seen(filled(image_HWC, 4), PLAIN)[None])[0])


def of_classifier(model: ModelProto, image_HWC: Picture) -> Floats:
    """One picture of 224 pixels after the other."""
    image_HWC = mirrored(image_HWC, 224)
    down, across = image_HWC.shape[0] // 224, image_HWC.shape[1] // 224
    probs_KHW = np.zeros((5, down, across))
    for y in range(down):
        for x in range(across):
            patch_HWC = image_HWC[224 * y : 224 * y + 224, 224 * x : 224 * x + 224]
            logits_K = at_once(model, seen(patch_HWC, IMAGENET)[None])[0]
            probs_KHW[:, y, x] = softmax(logits_K[:, None, None])[:, 0, 0]
    return probs_KHW


def of_probabilities(model: ModelProto, image_HWC: Picture) -> Floats:
    probs_KHW: Floats = at_once(model, seen(image_HWC, PLAIN)[None])[0]
    return probs_KHW


def of_one_channel(model: ModelProto, image_HWC: Picture) -> Floats:
    p_HW = at_once(model, seen(image_HWC, PLAIN)[None])[0, 0]
    return np.stack((1 - p_HW, p_HW))


def of_one_logit(model: ModelProto, image_HWC: Picture) -> Floats:
    p_HW = 1 / (1 + np.exp(-at_once(model, seen(image_HWC, PLAIN)[None])[0, 0]))
    return np.stack((1 - p_HW, p_HW))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, what its user says, its answer in probabilities [K, H, W], and the size of the slide."""

    model: ModelProto
    answer: Callable[[ModelProto, Picture], Floats]
    hints: ModelHints = field(default_factory=lambda: ModelHints(range="0-1"))
    size: tuple[int, int] = (HEIGHT, WIDTH)
    settings: dict[str, Any] = field(default_factory=lambda: {"tile": 64, "overlap": 8, "blend": "crop"})
    tiles: int = 0
    """How many the run takes."""


CASES = {
    "FCN": Case(model=fcn(), answer=of_fcn, hints=ModelHints(range="imagenet"), tiles=4 * 6),
    "NHWC": Case(model=nhwc(), answer=of_nhwc, hints=ModelHints(mean=(0.5,), std=(0.25,)), tiles=4 * 6),
    "labels": Case(
        model=labels_of_bytes(), answer=of_labels, hints=ModelHints(classes=("a", "b", "c")), tiles=4 * 6
    ),
    "quarter": Case(model=quarter(), answer=of_quarter, tiles=4 * 6),
    "classifier": Case(
        model=classifier(),
        answer=of_classifier,
        hints=ModelHints(range="imagenet"),
        size=(500, 700),
        settings={},
        tiles=3 * 4,
    ),
    "probabilities": Case(model=ending("Softmax", 3, axis=1), answer=of_probabilities, tiles=4 * 6),
    "one sigmoid": Case(model=ending("Sigmoid", 1), answer=of_one_channel, tiles=4 * 6),
    "one logit": Case(model=fcn(classes=1), answer=of_one_logit, tiles=4 * 6),
}


def write_case(folder: Path, case: Case) -> tuple[Path, Path, Picture]:
    """The slide and the model as files, and the slide's pixels."""
    image_HWC = picture(*case.size)
    write_tiled(folder / "slide.tif", image_HWC, mpp=0.5)
    (folder / "model.onnx").write_bytes(case.model.SerializeToString())
    return folder / "slide.tif", folder / "model.onnx", image_HWC


def assert_same_classes(mask: Path, want_KHW: Floats) -> None:
    """A mask's classes are the likeliest ones, wherever the first two differ by more than rounding."""
    ordered_KHW = np.sort(want_KHW, 0)
    sure_HW = ordered_KHW[-1] - ordered_KHW[-2] > 2e-4
    assert sure_HW.mean() > 0.99
    mask_HW = tifffile.imread(mask, level=0)
    assert mask_HW.shape == want_KHW.shape[1:]
    assert np.array_equal(mask_HW[sure_HW], want_KHW.argmax(0)[sure_HW])
    # A mask of one class alone would be no test.
    assert np.bincount(mask_HW.ravel(), minlength=len(want_KHW)).max() < mask_HW.size


@pytest.mark.parametrize("name", CASES)
def test_a_slide_in_tiles_is_the_whole_picture(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    slide, model, image_HWC = write_case(tmp_path, case)

    report = axialcli.predict(
        slide,
        tmp_path / "mask.tif",
        model=model,
        hints=case.hints,
        device="cpu",
        probs=tmp_path / "probs.tif",
        probs_dtype="float16",
        **case.settings,
    )

    want_KHW = case.answer(case.model, image_HWC)
    assert (report["engine"], report["settings"]["tiles"]) == ("tiles", case.tiles)
    assert_same_classes(tmp_path / "mask.tif", want_KHW)
    # float16 has eleven bits.
    got_KHW = tifffile.imread(tmp_path / "probs.tif", level=0).reshape(want_KHW.shape)
    assert np.abs(got_KHW.astype(np.float64) - want_KHW).max() < 1e-3


@pytest.mark.parametrize("name", ["FCN", "NHWC", "quarter"])
def test_tiles_that_share_nothing_have_seams(tmp_path: Path, name: str) -> None:
    """So the test above would fail if tiles were cut wrongly."""
    case = CASES[name]
    slide, model, image_HWC = write_case(tmp_path, case)

    axialcli.predict(
        slide, tmp_path / "mask.tif", model=model, hints=case.hints, device="cpu", tile=64, overlap=0
    )

    want_HW = case.answer(case.model, image_HWC).argmax(0)
    assert np.count_nonzero(tifffile.imread(tmp_path / "mask.tif", level=0) != want_HW) > 20


def axial(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "axialcli", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )


def test_the_command_runs_a_model_from_elsewhere(tmp_path: Path) -> None:
    case = CASES["FCN"]
    slide, _, image_HWC = write_case(tmp_path, case)

    done = axial(
        tmp_path, "predict", slide, "--out", "mask.tif", "--model", "model.onnx",
        "--input-range", "imagenet", "--classes", "glass,stroma,tumour=#ff0000", "--model-mpp", "0.5",
        "--tile", "64", "--overlap", "8", "--blend", "crop", "--json",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert_same_classes(tmp_path / "mask.tif", case.answer(case.model, image_HWC))
    # What was found out is said, once, and nothing else but that tiles stand in for the stream.
    said = done.stderr.splitlines()
    assert len(said) == 2, done.stderr
    assert said[0] == (
        "axial: model.onnx: takes NCHW, 3 channels of float32, any size; segmentation into 3 classes (logits)"
    )
    report = json.loads(done.stdout)
    assert [entry["name"] for entry in report["classes"]] == ["glass", "stroma", "tumour"]
    assert report["runtime"]["provider"] == "CPUExecutionProvider"


def test_what_no_graph_shows_is_one_question(tmp_path: Path) -> None:
    slide, _, _ = write_case(tmp_path, CASES["FCN"])

    done = axial(tmp_path, "predict", slide, "--out", "mask.tif", "--model", "model.onnx")

    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == (
        "axial: error: model.onnx: its graph does not show all, "
        "say it with --input-range 0-1|0-255|imagenet\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "slide.tif"]


def test_a_model_of_wsinfer_runs_on_trust_alone(tmp_path: Path) -> None:
    image_HWC = picture(HEIGHT, WIDTH)
    write_tiled(tmp_path / "slide.tif", image_HWC, mpp=0.25)
    folder = tmp_path / "lymphoma"
    folder.mkdir()
    network = patch_net(2)
    write_model(folder, network, config())
    command = ("predict", "slide.tif", "--out", "mask.tif", "--model", folder, "--json", "--probs", "p.tif")

    refused = axial(tmp_path, *command)
    done = axial(tmp_path, *command, "--probs-dtype", "float16", "--trust-model")

    assert (refused.returncode, refused.stdout) == (4, "")
    assert refused.stderr.startswith(f"axial: error: {folder / 'torchscript_model.pt'}: refused, ")
    assert refused.stderr.count("\n") == 1
    assert done.returncode == 0, done.stderr
    image_HWC = mirrored(image_HWC, 40)
    down, across = image_HWC.shape[0] // 40, image_HWC.shape[1] // 40
    patches_BCHW = image_HWC.reshape(down, 40, across, 40, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, 40, 40)
    want_BK = by_hand(network, patches_BCHW, 28, rounded=False)
    got_KHW = tifffile.imread(tmp_path / "p.tif", level=0)
    assert got_KHW.shape == (2, down, across)
    assert np.abs(got_KHW.reshape(2, -1).T - want_BK).max() < 1e-3
    assert tifffile.imread(tmp_path / "mask.tif").shape == (down, across)
    report = json.loads(done.stdout)
    assert [entry["name"] for entry in report["classes"]] == ["Other", "Tumor"]
    assert report["output"]["mpp"] == [10.0, 10.0]
