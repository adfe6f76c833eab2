"""Classifiers of tiles from slide to table, heatmaps and answer."""

from __future__ import annotations

import csv
import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import rasterio
import tifffile
from numpy.typing import NDArray
from PIL import Image

import axialcli
from axialcli.errors import OutputError, UsageError
from tests.cli.conftest import Axial
from tests.cli.conftest import axial as axial
from tests.engine.foreign import ForeignModel, classifier, noise, pixels_of_tile
from tests.fixtures import foreign_models as foreign
from tests.fixtures.slides import write_geotiff, write_svs, write_tiled
from tests.networks import small_model
from tests.test_output_stride import RedShare, red_squares
from tests.test_pipeline import interrupt_at_the_second_block, sha256

SIDE = 32


def tiles_of(image_HWC: NDArray[np.uint8], model: ForeignModel, overlap: int = 0) -> NDArray[np.float32]:
    """Tile by tile what the network itself answers, [rows, columns, classes]."""
    step = SIDE - 2 * overlap
    places = [
        [pixels_of_tile(cell - overlap, side, SIDE) for cell in range(0, side, step)]
        for side in image_HWC.shape[:2]
    ]
    return np.stack([[model.by_hand(image_HWC[np.ix_(y, x)]) for x in places[1]] for y in places[0]])


def tile_model(classes: int = 4, **said: Any) -> ForeignModel:
    return ForeignModel(
        classifier(classes), classes=classes, task="classification", size=(SIDE, SIDE), **said
    )


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("overlap", [0, 5])
def test_the_table_lists_each_tile_where_it_lies_with_what_the_network_says(
    tmp_path: Path, overlap: int
) -> None:
    image_HWC, model, step = noise(150, 210), tile_model(), SIDE - 2 * overlap
    write_svs(tmp_path / "slide.tif", image_HWC, mpp=0.5, compression="zlib")

    report = axialcli.predict(
        tmp_path / "slide.tif", tmp_path / "mask.tif", model=model, overlap=overlap, csv=tmp_path / "t.csv"
    )

    want = tiles_of(image_HWC, model, overlap)
    lines = read_table(tmp_path / "t.csv")
    assert len(lines) == want.shape[0] * want.shape[1]
    places = [(y, x) for y in range(0, 150, step) for x in range(0, 210, step)]
    for (y, x), line, probs in zip(places, lines, want.reshape(-1, 4), strict=True):
        box = tuple(int(line[key]) for key in ("x", "y", "width", "height"))
        assert box == (x, y, min(step, 210 - x), min(step, 150 - y))
        assert line["class"] == f"class {probs.argmax()}"
        found = [float(line[f"p_class {number}"]) for number in range(4)]
        assert found == pytest.approx(probs.tolist(), abs=1e-5)
    assert {line["class"] for line in lines} >= {"class 0", "class 1"}
    assert "map_x" not in lines[0]
    mask_HW = tifffile.imread(tmp_path / "mask.tif", level=0)
    assert [line["class"] for line in lines] == [f"class {label}" for label in mask_HW.ravel()]
    assert [one["pixels"] for one in report["classes"]] == np.bincount(mask_HW.ravel(), minlength=4).tolist()
    assert report["answer"] is None


def test_boxes_are_of_level_0_where_the_model_wants_another_resolution(tmp_path: Path) -> None:
    write_svs(tmp_path / "slide.tif", noise(320, 480), mpp=0.5, compression="zlib")

    axialcli.predict(
        tmp_path / "slide.tif", tmp_path / "mask.tif", model=tile_model(), mpp=0.8, csv=tmp_path / "t.csv"
    )

    lines = read_table(tmp_path / "t.csv")
    side = SIDE * 0.8 / 0.5
    assert [float(lines[1][key]) for key in ("x", "y", "width", "height")] == [51.2, 0, 51.2, 51.2]
    assert len(lines) == int(np.ceil(320 / side) * np.ceil(480 / side))
    assert float(lines[-1]["x"]) + float(lines[-1]["width"]) == 480


@pytest.mark.parametrize("tags", [{}, {"point": True}, {"matrix": True}])
def test_a_scene_s_tiles_lie_where_gdal_finds_them(tmp_path: Path, tags: dict[str, bool]) -> None:
    write_geotiff(tmp_path / "scene.tif", noise(150, 210), pixel=10.0, **tags)
    model = tile_model()

    axialcli.predict(
        tmp_path / "scene.tif", tmp_path / "classes.tif", model=model, csv=tmp_path / "t.csv",
        heatmaps=[("class 1", tmp_path / "heat.tif")], probs=tmp_path / "probs.tif",
    )  # fmt: skip

    lines = read_table(tmp_path / "t.csv")
    with rasterio.open(tmp_path / "scene.tif") as scene, rasterio.open(tmp_path / "classes.tif") as mask:
        assert mask.res == (320, 320)
        assert mask.crs == scene.crs
        assert (mask.bounds.left, mask.bounds.top) == (scene.bounds.left, scene.bounds.top)
        labels_HW = mask.read(1)
        for number, line in enumerate(lines):
            x, y = float(line["map_x"]), float(line["map_y"])
            assert mask.index(x, y) == divmod(number, mask.width)
            box = [int(line[key]) for key in ("x", "y", "width", "height")]
            centre = (box[1] + box[3] / 2 - 0.5, box[0] + box[2] / 2 - 0.5)
            assert scene.xy(*centre) == pytest.approx((x, y))
            assert line["class"] == f"class {labels_HW[divmod(number, mask.width)]}"
        with rasterio.open(tmp_path / "heat.tif") as heat, rasterio.open(tmp_path / "probs.tif") as probs:
            assert (heat.count, heat.descriptions) == (1, ("class 1",))
            assert heat.transform == mask.transform
            assert np.array_equal(heat.read(1), probs.read(2))


def test_a_scene_finer_than_the_model_is_seen_at_the_model_s_resolution(tmp_path: Path) -> None:
    """What is 10 m for the model are two pixels of a map of 5 m; areas are those of the ground."""
    coarse_HWC, want_HW = red_squares(75, 105, SIDE)
    write_geotiff(tmp_path / "scene.tif", coarse_HWC.repeat(2, 0).repeat(2, 1), pixel=5.0, factors=())
    model = ForeignModel(RedShare(None, 0.5), classes=2, task="classification", size=(SIDE, SIDE))
    model.spec = replace(model.spec, input=replace(model.spec.input, mpp=10e6))

    report = axialcli.predict(tmp_path / "scene.tif", tmp_path / "classes.tif", model=model)

    with rasterio.open(tmp_path / "classes.tif") as mask:
        assert mask.res == (320, 320)
        labels_HW = mask.read(1)
    assert np.array_equal(labels_HW, want_HW)
    # The last row and column of tiles are cut off by the scene's edge.
    covered_HW = np.outer([32, 32, 11], [32, 32, 32, 9])
    for entry in report["classes"]:
        on_scene = covered_HW[labels_HW == entry["label"]].sum()
        assert entry["pixels"] == np.count_nonzero(labels_HW == entry["label"])
        assert entry["share"] == pytest.approx(on_scene / (75 * 105))
        assert entry["area_um2"] == pytest.approx(on_scene * 10e6**2)


@pytest.mark.parametrize("side", [71, 150])
def test_areas_are_those_of_the_scene_and_not_of_whole_pixels(tmp_path: Path, side: int) -> None:
    """71 pixels of 5 m are 35.5 of 10 m, of which the mask has 36."""
    write_geotiff(tmp_path / "scene.tif", noise(side, 90), pixel=5.0, factors=())
    model = tile_model()
    model.spec = replace(model.spec, input=replace(model.spec.input, mpp=10e6))

    report = axialcli.predict(tmp_path / "scene.tif", tmp_path / "classes.tif", model=model)

    assert sum(entry["area_um2"] for entry in report["classes"]) == pytest.approx(side * 90 * 5e6**2)
    assert sum(entry["share"] for entry in report["classes"]) == pytest.approx(1)


@pytest.mark.parametrize("latitude", [60.0, 75.0])
def test_a_scene_in_degrees_is_seen_with_square_pixels(tmp_path: Path, latitude: float) -> None:
    """9e-5 degrees are 10 m from south to north, which the model takes, and much less from west to east."""
    write_geotiff(
        tmp_path / "scene.tif", noise(96, 256), pixel=9e-5, epsg=4326, origin=(25.0, latitude), factors=()
    )
    model = tile_model()
    resolution = {"mpp": 10e6, "mpp_range": (8e6, 12e6)}
    model.spec = replace(model.spec, input=replace(model.spec.input, **resolution))

    report = axialcli.predict(tmp_path / "scene.tif", tmp_path / "classes.tif", model=model)

    assert report["output"]["resampled"]
    across = 256 * 9e-5 * 111.3e3 * np.cos(np.deg2rad(latitude)) / 10
    assert report["output"]["size"] == [4, np.ceil(across / SIDE)]


def test_a_model_for_microscopes_is_not_run_on_a_map(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "scene.tif", noise(96, 96), pixel=10.0, factors=())
    says = (
        "has 1e+07 microns per pixel, and nuclei is made for 0.18 to 0.42: take another model, say the "
        "resolution with --mpp-override, or take the picture as it is with --level 0"
    )
    with pytest.raises(UsageError, match=re.escape(says)):
        axialcli.predict(tmp_path / "scene.tif", tmp_path / "mask.tif", model="nuclei")
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


def test_a_heatmap_is_a_picture_of_the_slide_the_redder_the_more_probable(tmp_path: Path) -> None:
    image_HWC, model = noise(160, 224), tile_model()
    write_tiled(tmp_path / "slide.tif", image_HWC, factors=())

    axialcli.predict(
        tmp_path / "slide.tif", tmp_path / "mask.tif", model=model,
        heatmaps=[("class 1", tmp_path / "one.png"), ("2", tmp_path / "two.png")],
    )  # fmt: skip

    want = tiles_of(image_HWC, model)
    for name, label in (("one.png", 1), ("two.png", 2)):
        drawn = np.asarray(Image.open(tmp_path / name)).astype(float)
        assert drawn.shape == image_HWC.shape
        p = (np.rint(want[..., label] * 255) / 255).repeat(SIDE, 0).repeat(SIDE, 1)[..., None]
        grey = image_HWC.mean(2, keepdims=True)
        colour = (1 - p) * (255, 230, 0) + p * (215, 0, 38)
        assert np.abs(drawn - (grey * (1 - 0.8 * p) + colour * 0.8 * p)).max() <= 1


def test_a_heatmap_of_a_segmentation_is_its_plane_of_the_probabilities(tmp_path: Path) -> None:
    write_tiled(tmp_path / "slide.tif", noise(600, 700), mpp=0.5)

    axialcli.predict(
        tmp_path / "slide.tif", tmp_path / "mask.tif", model=small_model(), probs_dtype="float16",
        probs=tmp_path / "probs.tif", heatmaps=[("1", tmp_path / "heat.tif")],
    )  # fmt: skip

    probs_KHW = tifffile.imread(tmp_path / "probs.tif", level=0)
    assert np.array_equal(tifffile.imread(tmp_path / "heat.tif", level=0), probs_KHW[1])
    with tifffile.TiffFile(tmp_path / "heat.tif") as tiff:
        assert len(tiff.series[0].levels) == 2


def test_an_interrupted_run_lists_all_tiles_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block is 512 rows of tiles; the first one is there when the run is killed."""
    write_tiled(tmp_path / "slide.tif", noise(16 * 520, 20), factors=())
    model = ForeignModel(classifier(3), task="classification", size=(16, 16))
    names = ("mask.tif", "t.csv", "heat.tif", "heat.png")

    def predict(folder: Path) -> dict[str, Any]:
        folder.mkdir(exist_ok=True)
        return axialcli.predict(
            tmp_path / "slide.tif", folder / "mask.tif", model=model, csv=folder / "t.csv",
            heatmaps=[("0", folder / "heat.tif"), ("0", folder / "heat.png")],
        )  # fmt: skip

    predict(tmp_path / "want")
    with monkeypatch.context() as patch:
        interrupt_at_the_second_block(patch)
        with pytest.raises(KeyboardInterrupt):
            predict(tmp_path / "found")
    assert not (tmp_path / "found" / "t.csv").exists()
    report = predict(tmp_path / "found")

    assert report["resumed_blocks"] == 1
    for name in names:
        assert sha256(tmp_path / "found" / name) == sha256(tmp_path / "want" / name), name
    assert len(read_table(tmp_path / "found" / "t.csv")) == 520 * 2
    assert not list((tmp_path / "found").glob("*.partial"))


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A classifier as others make it, an ONNX file, with its description beside it."""
    onnx.save(foreign.classifier(64, classes=3), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


HINTS = ("--input-range", "0-1", "--classes", "forest,river,sea", "--model", "net.onnx")


@pytest.mark.usefixtures("network")
def test_the_command_prints_the_one_answer_of_a_picture_of_one_tile(tmp_path: Path, axial: Axial) -> None:
    Image.fromarray(noise(64, 64)).save(tmp_path / "tile.png")

    said = axial("predict", "tile.png", "--out", "one.tif", *HINTS, "--csv", "one.csv")

    assert said.returncode == 0, said.stderr
    (line,) = read_table(tmp_path / "one.csv")
    probable = float(line[f"p_{line['class']}"])
    assert probable == max(float(line[f"p_{name}"]) for name in ("forest", "river", "sea"))
    assert said.stdout.splitlines()[1] == f"  {line['class']}, probability {probable:.4f}"
    answer = json.loads((tmp_path / "one.tif.json").read_text())["answer"]
    assert answer["class"] == line["class"]
    assert answer["probabilities"][line["class"]] == pytest.approx(probable, abs=1e-6)
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


@pytest.mark.usefixtures("network")
def test_the_command_counts_tiles_and_writes_all_that_was_asked_for(tmp_path: Path, axial: Axial) -> None:
    write_geotiff(tmp_path / "scene.tif", noise(200, 300), pixel=10.0)

    done = axial(
        "predict", "scene.tif", "--out", "classes.tif", *HINTS, "--csv", "t.csv", "--overlap", "8",
        "--heatmap", "river=river.tif", "--heatmap", "sea=sea.png",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    with warnings.catch_warnings(), rasterio.open(tmp_path / "classes.tif") as mask:
        assert (mask.height, mask.width, mask.res) == (5, 7, (480, 480))
    lines = read_table(tmp_path / "t.csv")
    assert len(lines) == 35
    counts = [sum(line["class"] == name for line in lines) for name in ("forest", "river", "sea")]
    shown = [line.split(":")[1].split()[:2] for line in done.stdout.splitlines()[1:]]
    assert shown == [[str(count), "tiles,"] for count in counts]
    assert {"river.tif", "sea.png"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"csv": "t.csv"}, "--csv lists the tiles that a model classifies, and this one classifies pixels"),
        ({"heatmaps": [("forest", "h.tif")]}, "no class 'forest'; the model has class 0, class 1"),
        ({"heatmaps": [("2", "h.tif")]}, "no class '2'"),
        ({"heatmaps": [("1", "h.jpg")]}, r"h\.jpg: a heatmap is a \.tif, or a \.png"),
        ({"heatmaps": [("1", "h.tif"), ("0", "h.tif")]}, r"h\.tif: two outputs have the same name"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiled(tmp_path / "slide.tif", noise(60, 70), mpp=0.5)
    with pytest.raises(UsageError, match=says):
        axialcli.predict("slide.tif", "mask.tif", model=small_model(), **options)
    assert [path.name for path in tmp_path.iterdir()] == ["slide.tif"]


def test_a_table_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    write_tiled(tmp_path / "slide.tif", noise(60, 70))
    (tmp_path / "t.csv").write_text("precious")
    with pytest.raises(OutputError, match=r"t\.csv: exists already"):
        axialcli.predict(
            tmp_path / "slide.tif", tmp_path / "mask.tif", model=tile_model(), csv=tmp_path / "t.csv"
        )
    assert (tmp_path / "t.csv").read_text() == "precious"
