"""More classes than a byte tells apart: from the network to the mask, and to all that is made of it."""

from __future__ import annotations

import csv
import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import rasterio
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning
from torch import nn

import axialcli
from axialcli.config import ClassInfo
from axialcli.errors import LimitError, UsageError
from axialcli.evaluate import evaluate
from tests.backends.conftest import Axial
from tests.backends.conftest import axial as axial
from tests.engine.foreign import ForeignModel, classifier, noise
from tests.engine.stream.models import NetworkModel
from tests.fixtures import foreign_models as foreign
from tests.fixtures.slides import write_geotiff, write_svs, write_tiled
from tests.output.readers import levels_in_gdal, levels_in_tifffile
from tests.test_pipeline import interrupt_at_the_second_block, sha256

SIDE, ROWS, COLUMNS, IMAGENET = 224, 3, 4, 1000


def colours(side: int, rows: int = ROWS, columns: int = COLUMNS) -> NDArray[np.uint8]:
    """Tiles of a colour each, with some noise, put together [H, W, 3]."""
    rng = np.random.default_rng(0)
    flat = rng.integers(0, 200, (rows, columns, 3)).repeat(side, 0).repeat(side, 1)
    return (flat + rng.integers(0, 56, flat.shape)).astype(np.uint8)


def tiles_of(image_HWC: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """[tile, side, side, 3], row-major."""
    rows, columns = image_HWC.shape[0] // side, image_HWC.shape[1] // side
    return image_HWC.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)


def tile_model(classes: int = IMAGENET, side: int = 32, **said: Any) -> ForeignModel:
    return ForeignModel(
        classifier(classes), classes=classes, task="classification", size=(side, side), **said
    )


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """A classifier of ImageNet's size as others save it, with random weights."""
    onnx.save(foreign.classifier(SIDE, classes=IMAGENET), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def labels_by_hand(network: Path, image_HWC: NDArray[np.uint8]) -> NDArray[Any]:
    """The network's own argmax for each tile, run by ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    answers = [
        session.run(None, {"image": (tile.astype(np.float32) / 255).transpose(2, 0, 1)[None]})[0].argmax()
        for tile in tiles_of(image_HWC, SIDE)
    ]
    return np.array(answers).reshape(image_HWC.shape[0] // SIDE, -1)


@pytest.mark.parametrize("layout", ["ome", "ome-strict", "generic"])
def test_each_tile_has_the_class_that_the_network_gives_it(
    tmp_path: Path, imagenet: Path, layout: Any
) -> None:
    image_HWC = colours(SIDE)
    write_tiled(tmp_path / "slide.tif", image_HWC, factors=(), mpp=0.5)
    want_HW = labels_by_hand(imagenet, image_HWC)
    assert len(np.unique(want_HW[want_HW > 255])) >= 3

    hints = axialcli.ModelHints(range="0-1", classes=IMAGENET)
    report = axialcli.predict(
        tmp_path / "slide.tif", tmp_path / "mask.tif", model=imagenet, hints=hints, layout=layout
    )

    (found_HW,) = levels_in_tifffile(tmp_path / "mask.tif")
    assert found_HW.dtype == np.uint16
    np.testing.assert_array_equal(found_HW, want_HW)
    np.testing.assert_array_equal(levels_in_gdal(tmp_path / "mask.tif")[0], want_HW)
    with Image.open(tmp_path / "mask.tif") as picture:
        np.testing.assert_array_equal(np.asarray(picture), want_HW)
    labels, pixels = np.unique(want_HW, return_counts=True)
    assert report["class_count"] == IMAGENET
    assert [(one["label"], one["name"], one["pixels"]) for one in report["classes"]] == [
        (label, f"class {label}", count) for label, count in zip(labels, pixels, strict=True)
    ]
    with tifffile.TiffFile(tmp_path / "mask.tif") as tiff:
        assert tiff.pages[0].photometric.name == "MINISBLACK"
        description = tiff.pages[0].description
    assert ('Type="uint16"' in description) == (layout != "generic")
    assert "class 999" in description


def test_a_scene_s_classes_are_named_where_gdal_looks(tmp_path: Path, imagenet: Path) -> None:
    image_HWC = colours(SIDE)
    write_geotiff(tmp_path / "scene.tif", image_HWC, pixel=10.0)

    axialcli.predict(
        tmp_path / "scene.tif", tmp_path / "mask.tif", model=imagenet,
        hints=axialcli.ModelHints(range="0-1", classes=IMAGENET),
    )  # fmt: skip

    with rasterio.open(tmp_path / "mask.tif") as mask:
        assert mask.dtypes == ("uint16",)
        assert mask.res == (10 * SIDE, 10 * SIDE)
        assert mask.tags(1)["CLASS_999"] == "class 999"
        np.testing.assert_array_equal(mask.read(1), labels_by_hand(imagenet, image_HWC))


def test_a_mask_of_256_classes_has_8_bits_and_one_of_257_has_16(tmp_path: Path) -> None:
    write_tiled(tmp_path / "slide.tif", colours(32, 8, 8), factors=(), mpp=0.5)

    for classes, dtype in ((256, np.uint8), (257, np.uint16)):
        out, model = tmp_path / f"{classes}.tif", tile_model(classes)
        axialcli.predict(tmp_path / "slide.tif", out, model=model, layout="generic")
        (found_HW,) = levels_in_tifffile(out)
        want = [model.by_hand(tile).argmax() for tile in tiles_of(colours(32, 8, 8), 32)]
        assert found_HW.dtype == dtype
        assert found_HW.ravel().tolist() == want
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(out) as mask:
                assert [one.name for one in mask.colorinterp] == ["palette" if classes == 256 else "gray"]


def test_8_bits_hold_the_last_of_256_classes_in_both_engines(tmp_path: Path) -> None:
    write_tiled(tmp_path / "slide.tif", noise(90, 120), factors=(), mpp=0.5)
    model = of(NetworkModel(last_class_wins(256)), 256)

    for engine in ("tiles", "stream"):
        axialcli.predict(tmp_path / "slide.tif", tmp_path / f"{engine}.tif", model=model, engine=engine)
        found_HW = tifffile.imread(tmp_path / f"{engine}.tif", level=0)
        assert (found_HW.dtype, found_HW.min(), found_HW.max()) == (np.uint8, 255, 255)


def last_class_wins(classes: int) -> nn.Sequential:
    head = nn.Conv2d(3, classes, 1)
    nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.copy_(torch.arange(classes))
    return nn.Sequential(head).eval()


def of(model: NetworkModel, classes: int) -> NetworkModel:
    """The model with so many classes in its description."""
    entries = tuple(ClassInfo(name=f"c{number}", colour=(number % 256, 9, 9)) for number in range(classes))
    model.spec = dataclasses.replace(model.spec, classes=entries)
    return model


@pytest.mark.parametrize("engine", ["tiles", "stream"])
def test_pixels_of_300_classes_and_their_pyramid_are_the_network_s_own(tmp_path: Path, engine: Any) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 300, 3, padding=1)).eval()
    image_HWC = noise(30, 540)
    write_tiled(tmp_path / "slide.tif", image_HWC, factors=(), mpp=0.5)
    with torch.inference_mode():
        pixels = torch.from_numpy(image_HWC).permute(2, 0, 1)[None].float()
        want_HW = network((pixels / 255 - 0.5) / 0.25)[0].argmax(0).numpy()
    assert len(np.unique(want_HW[want_HW > 255])) > 3

    axialcli.predict(
        tmp_path / "slide.tif", tmp_path / "mask.tif", model=of(NetworkModel(network), 300), engine=engine
    )

    levels = levels_in_tifffile(tmp_path / "mask.tif")
    assert [level.dtype for level in levels] == [np.uint16, np.uint16]
    assert np.count_nonzero(levels[0] != want_HW) <= want_HW.size * 1e-4  # ties
    for found, expected in zip(levels_in_gdal(tmp_path / "mask.tif"), levels, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_all_that_is_made_of_a_mask_knows_classes_above_255(tmp_path: Path) -> None:
    image_HWC, model = colours(32), tile_model(800)
    write_svs(tmp_path / "slide.tif", image_HWC, mpp=0.5, compression="zlib")
    want = np.stack([model.by_hand(tile) for tile in tiles_of(image_HWC, 32)])
    label = int(want.argmax(1).max())
    assert label > 255

    axialcli.predict(
        tmp_path / "slide.tif", tmp_path / "mask.tif", model=model, overlay=tmp_path / "over.png",
        probs=tmp_path / "probs.tif", csv=tmp_path / "t.csv",
        heatmaps=[(str(label), tmp_path / "heat.tif"), (f"class {label}", tmp_path / "heat.png")],
    )  # fmt: skip

    mask_HW = tifffile.imread(tmp_path / "mask.tif", level=0)
    assert mask_HW.ravel().tolist() == want.argmax(1).tolist()
    probs_KHW = tifffile.imread(tmp_path / "probs.tif", level=0)
    np.testing.assert_array_equal(probs_KHW, np.rint(want.T.reshape(800, ROWS, COLUMNS) * 255))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "heat.tif", level=0), probs_KHW[label])
    with (tmp_path / "t.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["class"] for line in lines] == [f"class {one}" for one in want.argmax(1)]
    for line, probs in zip(lines, want, strict=True):
        assert float(line["p_class 799"]) == pytest.approx(float(probs[799]), abs=1e-6)
    drawn = np.asarray(Image.open(tmp_path / "over.png")).astype(float)
    for tile, (chosen, place) in enumerate(zip(want.argmax(1), np.ndindex(ROWS, COLUMNS), strict=True)):
        y, x = (32 * at + 16 for at in place)
        colour = np.array(model.spec.classes[chosen].colour)
        plain = image_HWC[y, x].astype(float)
        assert np.abs(drawn[y, x] - (plain + 0.45 * (colour - plain))).max() <= 1 or chosen == 0, tile


def test_an_interrupted_run_of_1000_classes_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiled(tmp_path / "slide.tif", noise(16 * 520, 20), factors=())
    model = tile_model(side=16)
    axialcli.predict(tmp_path / "slide.tif", tmp_path / "want.tif", model=model)

    with monkeypatch.context() as patch:
        interrupt_at_the_second_block(patch)
        with pytest.raises(KeyboardInterrupt):
            axialcli.predict(tmp_path / "slide.tif", tmp_path / "mask.tif", model=model)
    report = axialcli.predict(tmp_path / "slide.tif", tmp_path / "mask.tif", model=model)

    assert report["resumed_blocks"] == 1
    assert tifffile.imread(tmp_path / "mask.tif", level=0).max() > 255
    assert sum(one["pixels"] for one in report["classes"]) == 520 * 2
    assert sha256(tmp_path / "mask.tif") == sha256(tmp_path / "want.tif")


def test_the_table_is_the_same_however_few_rows_are_read_back_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiled(tmp_path / "slide.tif", noise(16 * 40, 20), factors=())
    tables = []
    for number, size in enumerate((1 << 30, 1, 1000)):
        monkeypatch.setattr("axialcli.output.tile_table._READ_BYTES", size)
        table = tmp_path / f"{number}.csv"
        axialcli.predict(
            tmp_path / "slide.tif", tmp_path / f"{number}.tif", model=tile_model(5, 16), csv=table
        )
        tables.append(table.read_bytes())
    assert tables[0].count(b"\n") == 1 + 40 * 2
    assert tables[0] == tables[1] == tables[2]


def test_probabilities_that_fit_no_memory_are_refused_before_any_work(tmp_path: Path) -> None:
    write_tiled(tmp_path / "slide.tif", noise(16 * 64, 16 * 64), factors=())
    model = tile_model(20_000, 16)
    with pytest.raises(LimitError, match="--max-ram"):
        axialcli.predict(
            tmp_path / "slide.tif", tmp_path / "mask.tif", model=model, probs=tmp_path / "p.tif",
            max_ram_bytes=2 << 30,
        )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["slide.tif"]


def test_names_that_two_classes_share_are_told_apart_by_their_labels(tmp_path: Path) -> None:
    model = tile_model(300)
    names = [*(f"c{number}" for number in range(298)), "crane", "crane"]
    entries = tuple(ClassInfo(name=name, colour=(1, 2, 3)) for name in names)
    model.spec = dataclasses.replace(model.spec, classes=entries)
    write_tiled(tmp_path / "slide.tif", noise(32, 32), factors=())

    report = axialcli.predict(
        tmp_path / "slide.tif", tmp_path / "mask.tif", model=model, csv=tmp_path / "t.csv",
        heatmaps=[("crane (298)", tmp_path / "heat.tif")],
    )  # fmt: skip

    want = model.by_hand(noise(32, 32))
    found = report["answer"]["probabilities"]
    assert len(found) == 300
    assert (found["crane (298)"], found["crane (299)"]) == pytest.approx((want[298], want[299]), abs=1e-6)
    heading = (tmp_path / "t.csv").read_text().splitlines()[0]
    assert heading.endswith(",p_c297,p_crane (298),p_crane (299)")
    with pytest.raises(UsageError, match=r"no class 'crane'; the model has c0, .* and 284 more$"):
        axialcli.predict(
            tmp_path / "slide.tif", tmp_path / "mask.tif", model=model, force=True,
            heatmaps=[("crane", tmp_path / "heat.tif")],
        )  # fmt: skip


HINTS = ("--input-range", "0-1", "--classes", "1000")


@pytest.mark.usefixtures("imagenet")
def test_the_command_says_which_of_1000_classes_a_picture_of_one_tile_has(
    tmp_path: Path, axial: Axial
) -> None:
    image_HWC = colours(SIDE)
    want_HW = labels_by_hand(tmp_path / "net.onnx", image_HWC)
    y, x = np.argwhere(want_HW > 255)[0] * SIDE
    Image.fromarray(image_HWC[y : y + SIDE, x : x + SIDE]).save(tmp_path / "tile.png")

    code, out, err = axial(
        "predict",
        tmp_path / "tile.png",
        "--out",
        tmp_path / "one.tif",
        "--model",
        tmp_path / "net.onnx",
        *HINTS,
    )

    assert code == 0, err
    label = want_HW[y // SIDE, x // SIDE]
    assert out.splitlines()[1].startswith(f"  class {label}, probability 0.")


@pytest.mark.usefixtures("imagenet")
def test_the_summary_shows_those_that_occur_the_largest_first(tmp_path: Path, axial: Axial) -> None:
    image_HWC = colours(SIDE)
    write_tiled(tmp_path / "slide.tif", image_HWC, factors=(), mpp=0.5)
    want_HW = labels_by_hand(tmp_path / "net.onnx", image_HWC)

    code, out, err = axial(
        "predict",
        tmp_path / "slide.tif",
        "--out",
        tmp_path / "mask.tif",
        "--model",
        tmp_path / "net.onnx",
        *HINTS,
        "--palette",
    )

    assert code == 0, err
    assert "warning: --palette: no effect, a mask of more than 256 classes has 16 bits" in err
    labels, counts = np.unique(want_HW, return_counts=True)
    order = sorted(zip(labels.tolist(), counts.tolist(), strict=True), key=lambda one: -one[1])
    assert [line.split(",")[0] for line in out.splitlines()[1:]] == [
        f"  class {label}: {count} tiles" for label, count in order
    ]


def test_a_summary_of_many_classes_says_how_many_more_there_are(tmp_path: Path, axial: Axial) -> None:
    rng = np.random.default_rng(1)
    labels = np.concatenate((np.arange(300, 330), np.full(70, 999))).astype(np.uint16).reshape(10, 10)
    truth = labels.copy()
    truth[rng.random(labels.shape) < 0.1] = 300
    Image.fromarray(labels).save(tmp_path / "pred.png")
    Image.fromarray(truth).save(tmp_path / "truth.png")

    _, out, _ = axial("evaluate", tmp_path / "pred.png", tmp_path / "truth.png")

    lines = out.splitlines()
    assert lines[1].split()[0] == "999"
    assert lines[-2] == "and 11 more classes; --json lists them"


def test_a_description_on_the_terminal_names_the_first_classes(axial: Axial, imagenet: Path) -> None:
    shown = ("models", "show", imagenet, "--input-range", "0-1", "--classes", "1000")
    _, out, _ = axial(*shown)
    line = next(line for line in out.splitlines() if line.startswith("classes "))
    assert line.split(None, 1)[1].startswith("1000: class 0, class 1, ")
    assert line.endswith("class 15 and 984 more (--json lists them)")
    _, out, _ = axial(*shown, "--json")
    assert len(json.loads(out)["classes"]) == IMAGENET


def test_a_mask_of_1000_classes_is_compared_with_the_truth(tmp_path: Path) -> None:
    image_HWC, model = colours(32), tile_model()
    write_tiled(tmp_path / "slide.tif", image_HWC, factors=(), mpp=0.5)
    axialcli.predict(tmp_path / "slide.tif", tmp_path / "mask.tif", model=model)
    truth_HW = np.array([model.by_hand(tile).argmax() for tile in tiles_of(image_HWC, 32)], np.uint16)
    truth_HW = truth_HW.reshape(ROWS, COLUMNS)
    right = int(truth_HW[0, 0])
    truth_HW[0, 0] = 256 + right % 256
    tifffile.imwrite(tmp_path / "truth.tif", truth_HW)

    report = evaluate(tmp_path / "mask.tif", tmp_path / "truth.tif", by_size=True)

    wrong = int(truth_HW[0, 0] != right)
    assert report["pooled"]["agreement"] == (12 - wrong) / 12
    names = {one["name"] for one in report["pooled"]["classes"]}
    assert names == {f"class {label}" for label in {right, *truth_HW.ravel().tolist()}}
