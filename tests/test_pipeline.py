"""The whole way from slide to mask, through `axialcli.predict`."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import rasterio
import skimage.data
import tifffile
import torch
from numpy.typing import NDArray

import axialcli
from axialcli.backends.model_file import write_model
from axialcli.backends.torch_model import TorchModel
from axialcli.engine import TileEngine
from axialcli.errors import ImageError, UsageError
from axialcli.output import Journal
from tests.cli.conftest import command
from tests.fixtures.slides import picture, write_geotiff, write_ome, write_svs, write_tiled
from tests.networks import small_model, small_model_file, small_spec


def red_detector() -> TorchModel:
    """Class 1 where red is above green: a picture can say pixel by pixel what the mask has to be."""
    spec = small_spec("pixel_classifier")
    weights = {
        "head.weight": torch.tensor([[0.0, 0, 0], [8, -8, 0]])[:, :, None, None],
        "head.bias": torch.tensor([0.1, 0.0]),
    }
    return TorchModel(
        spec=spec,
        weights=weights,
        device=torch.device("cpu"),
        dtype=torch.float32,
        sha256="0" * 64,
        where="red",
    )


LANDMARKS = [(64, 96, 32), (640, 1024, 64), (1000, 40, 32), (1200, 1400, 128)]
"""y, x and side of red squares on grey ground."""


@pytest.fixture
def landmarks() -> NDArray[np.uint8]:
    image_HWC = np.full((1360, 1600, 3), 128, np.uint8)
    for y, x, side in LANDMARKS:
        image_HWC[y : y + side, x : x + side] = (255, 0, 0)
    return image_HWC


def assert_landmarks(mask_HW: NDArray[np.uint8], factor_y: float, factor_x: float) -> None:
    """Every square lies where it belongs, within half a pixel of the mask, and nothing else is set."""
    want_HW = np.zeros(mask_HW.shape, bool)
    for y, x, side in LANDMARKS:
        rows = np.arange(mask_HW.shape[0])[:, None] + 0.5
        columns = np.arange(mask_HW.shape[1])[None] + 0.5
        inside = (rows * factor_y > y) & (rows * factor_y < y + side)
        inside = inside & (columns * factor_x > x) & (columns * factor_x < x + side)
        want_HW |= inside
        found = np.argwhere((mask_HW > 0) & _near(mask_HW.shape, y, x, side, factor_y, factor_x))
        centre = (found.mean(0) + 0.5) * (factor_y, factor_x)
        assert np.abs(centre - (y + side / 2, x + side / 2)).max() <= 0.5 * max(factor_y, factor_x)
    assert np.count_nonzero((mask_HW > 0) != want_HW) <= 0.1 * np.count_nonzero(want_HW)


def _near(
    shape: tuple[int, ...], y: int, x: int, side: int, factor_y: float, factor_x: float
) -> NDArray[np.bool_]:
    rows = np.arange(shape[0])[:, None] * factor_y
    columns = np.arange(shape[1])[None] * factor_x
    return (np.abs(rows - y - side / 2) < side) & (np.abs(columns - x - side / 2) < side)


@pytest.mark.parametrize("write", [write_svs, write_ome, write_tiled])
def test_landmarks_lie_on_the_slide_at_every_level(
    tmp_path: Path, landmarks: NDArray[np.uint8], write: Any
) -> None:
    write(tmp_path / "slide.tif", landmarks, mpp=0.5, compression="zlib")

    axialcli.predict(tmp_path / "slide.tif", tmp_path / "mask.tif", model=red_detector())

    with tifffile.TiffFile(tmp_path / "mask.tif") as tiff:
        levels = [level.asarray() for level in tiff.series[0].levels]
    assert np.array_equal(levels[0], (landmarks[..., 0] > landmarks[..., 1]).astype(np.uint8))
    assert len(levels) >= 3
    for number, level_HW in enumerate(levels):
        assert_landmarks(level_HW, 2**number, 2**number)
    slide = openslide.OpenSlide(tmp_path / "mask.tif")
    assert slide.dimensions == (1600, 1360)
    assert slide.level_count == len(levels)
    assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5, rel=1e-6)
    slide.close()


@pytest.mark.parametrize("mpp", [0.7, 1.0, 1.3])
def test_landmarks_lie_on_the_slide_when_mask_and_slide_differ_in_resolution(
    tmp_path: Path, landmarks: NDArray[np.uint8], mpp: float
) -> None:
    write_svs(tmp_path / "slide.tif", landmarks, mpp=0.5, compression="zlib", factors=(4,))

    report = axialcli.predict(tmp_path / "slide.tif", tmp_path / "mask.tif", model=red_detector(), mpp=mpp)

    mask_HW = tifffile.imread(tmp_path / "mask.tif", level=0)
    assert mask_HW.shape == (-(-1360 * 0.5 // mpp), -(-1600 * 0.5 // mpp))
    assert report["output"]["mpp"] == [mpp, mpp]
    assert_landmarks(mask_HW, mpp / 0.5, mpp / 0.5)


def test_a_geotiff_keeps_its_place_at_another_resolution(
    tmp_path: Path, landmarks: NDArray[np.uint8]
) -> None:
    write_geotiff(tmp_path / "scene.tif", landmarks)

    axialcli.predict(tmp_path / "scene.tif", tmp_path / "mask.tif", model=red_detector(), level=1)

    with rasterio.open(tmp_path / "scene.tif") as scene, rasterio.open(tmp_path / "mask.tif") as mask:
        assert mask.crs == scene.crs
        assert mask.bounds == pytest.approx(scene.bounds)
        assert (mask.height, mask.width) == (680, 800)
        labels_HW = mask.read(1)
        for y, x, side in LANDMARKS:
            world = scene.xy(y + side // 2, x + side // 2)
            assert labels_HW[mask.index(*world)] == 1


def test_a_tiff_of_sixteen_bits_gives_the_mask_of_its_eight_bit_twin(tmp_path: Path) -> None:
    image_HWC = picture(300, 400)
    write_tiled(tmp_path / "8.tif", image_HWC)
    write_tiled(tmp_path / "16.tif", image_HWC.astype(np.uint16) * 257)
    masks = []
    for bits in ("8", "16"):
        axialcli.predict(tmp_path / f"{bits}.tif", tmp_path / f"{bits}-mask.tif", model=small_model())
        masks.append(tifffile.imread(tmp_path / f"{bits}-mask.tif", level=0))

    assert np.count_nonzero(masks[0] != masks[1]) <= 2


def test_the_same_run_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    write_tiled(tmp_path / "slide.tif", picture(700, 900), mpp=0.5)
    for name in ("a.tif", "b.tif"):
        axialcli.predict(tmp_path / "slide.tif", tmp_path / name, model=small_model())

    assert sha256(tmp_path / "a.tif") == sha256(tmp_path / "b.tif")


def test_a_run_over_a_damaged_slide_leaves_out_as_it_was_and_says_what_is_done(tmp_path: Path) -> None:
    """The damage lies below the first band, so that there is work to keep."""
    path = write_tiled(tmp_path / "slide.tif", picture(5000, 600), tile=256, factors=()).path
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[-1]  # type: ignore[union-attr]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 100)
    (tmp_path / "mask.tif").write_text("precious")

    with pytest.raises(ImageError, match=r"slide\.tif: .*tile"):
        axialcli.predict(path, tmp_path / "mask.tif", model=small_model(), force=True)

    assert (tmp_path / "mask.tif").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mask.tif", "mask.tif.partial", "slide.tif"]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def long_run(tmp_path: Path) -> list[str]:
    """A command that takes a few seconds and many bands."""
    write_tiled(tmp_path / "slide.tif", picture(5200, 1100), mpp=0.5, tile=256, factors=())
    model = small_model_file(
        tmp_path / "m.safetensors", "axial_segmenter", width=[8, 16, 32], depth=1, heads=2, span=17
    )
    return command(
        ["predict", tmp_path / "slide.tif", "--out", tmp_path / "mask.tif", "--model", model,
         "--probs", tmp_path / "probs.tif"]
    )  # fmt: skip


def test_kill_at_random_moments_then_the_same_command_gives_the_same_bytes(
    tmp_path: Path, long_run: list[str]
) -> None:
    """Killed while it starts, between bands, or while it finishes."""
    outputs = [tmp_path / "mask.tif", tmp_path / "probs.tif"]
    started = time.perf_counter()
    subprocess.run(long_run, check=True, capture_output=True)
    whole_s = time.perf_counter() - started
    want = [sha256(path) for path in outputs]
    for path in outputs:
        path.unlink()
    (tmp_path / "mask.tif.json").unlink()

    draw = random.Random(0)
    for _ in range(4):
        process = subprocess.Popen(long_run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(draw.uniform(0.3, 0.9) * whole_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        if (tmp_path / "mask.tif").exists():
            assert outputs[1].exists()
            break
    if not (tmp_path / "mask.tif").exists():
        journal = tmp_path / "mask.tif.partial" / "journal.txt"
        noted = len(journal.read_bytes().splitlines()) - 1 if journal.exists() else 0
        again = subprocess.run([*long_run, "--json"], check=True, capture_output=True, text=True)
        # What the journal had is not computed again; a torn last line may stand for one band.
        assert json.loads(again.stdout)["resumed_blocks"] >= noted - 1

    assert [sha256(path) for path in outputs] == want
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_with_its_code_and_the_work_is_continued(
    tmp_path: Path, long_run: list[str], number: signal.Signals, code: int
) -> None:
    process = subprocess.Popen(long_run, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "mask.tif.partial" / "journal.txt"
    while not (journal.exists() and len(journal.read_bytes().splitlines()) >= 3):
        assert process.poll() is None, process.stderr
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)

    assert process.returncode == code
    assert errors.startswith("axial: error: ")
    assert errors.count("\n") == 1
    assert not (tmp_path / "mask.tif").exists()
    subprocess.run(long_run, check=True, capture_output=True)
    report = json.loads((tmp_path / "mask.tif.json").read_text())
    assert report["resumed_blocks"] >= 2


def interrupt_at_the_second_block(patch: pytest.MonkeyPatch) -> None:
    real = Journal.record

    def record(journal: Journal, box: Any, counts: Any) -> None:
        if journal.done:
            raise KeyboardInterrupt
        real(journal, box, counts)

    patch.setattr(Journal, "record", record)


def test_another_setting_starts_over_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiled(tmp_path / "slide.tif", picture(1200, 300), mpp=0.5)
    model = small_model()
    with monkeypatch.context() as patch:
        interrupt_at_the_second_block(patch)
        with pytest.raises(KeyboardInterrupt):
            axialcli.predict(tmp_path / "slide.tif", tmp_path / "mask.tif", model=model, engine="tiles")

    report = axialcli.predict(
        tmp_path / "slide.tif", tmp_path / "mask.tif", model=model, engine="tiles", overlap=32
    )

    assert report["resumed_blocks"] == 0
    assert "starting over, the earlier run differed in: settings" in caplog.text


def test_a_continued_run_keeps_its_strips_though_memory_would_plan_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiled(tmp_path / "slide.tif", picture(700, 1100), mpp=0.5)
    model = small_model()
    with monkeypatch.context() as patch:
        interrupt_at_the_second_block(patch)
        patch.setattr(TileEngine, "_strips", lambda engine, budget: [0, 512])
        with pytest.raises(KeyboardInterrupt):
            axialcli.predict(tmp_path / "slide.tif", tmp_path / "mask.tif", model=model, engine="tiles")

    report = axialcli.predict(tmp_path / "slide.tif", tmp_path / "mask.tif", model=model, engine="tiles")

    assert report["resumed_blocks"] == 1
    assert report["settings"]["strips"] == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs setrlimit")
def test_a_full_disk_is_one_line_and_the_same_command_continues(tmp_path: Path, long_run: list[str]) -> None:
    limited = subprocess.run(
        ["bash", "-c", 'ulimit -f 700; exec "$@"', "run", *long_run], capture_output=True, text=True
    )
    assert limited.returncode == 5, limited.stderr
    assert limited.stderr.startswith("axial: error: cannot write ")
    assert limited.stderr.count("\n") == 1
    assert not (tmp_path / "mask.tif").exists()

    again = subprocess.run([*long_run, "--json"], capture_output=True, text=True, check=True)

    assert json.loads(again.stdout)["resumed_blocks"] >= 1


def test_peak_memory_does_not_grow_with_the_height(tmp_path: Path) -> None:
    model = small_model_file(tmp_path / "m.safetensors")
    peaks = []
    for height in (4096, 16384):
        slide, mask = tmp_path / f"{height}.tif", tmp_path / f"{height}-mask.tif"
        subprocess.run(command(["sample", slide, "--size", f"{height}x2048"]), check=True)
        run = subprocess.run(
            command(["predict", slide, "-o", mask, "-m", model, "--json"]),
            check=True,
            capture_output=True,
            text=True,
        )  # fmt: skip
        peaks.append(json.loads(run.stdout)["peak_resident_bytes"])

    assert peaks[1] <= 1.1 * peaks[0]


SLIM: dict[str, Any] = {"width": (4, 8, 8), "depth": 1, "heads": 2, "span": 17}
"""Of an axial segmenter with little to compute."""


def streamed(slide: Path, out: Path, model: Path, *options: str) -> dict[str, Any]:
    """The report of a stream in a process of its own."""
    run = subprocess.run(
        command(["predict", slide, "-o", out, "-m", model, "--engine", "stream", "--json", *options]),
        check=True,
        capture_output=True,
        text=True,
    )
    report: dict[str, Any] = json.loads(run.stdout)
    return report


def test_peak_memory_of_a_stream_does_not_grow_with_the_height(tmp_path: Path) -> None:
    model = small_model_file(tmp_path / "m.safetensors", "axial_segmenter", **SLIM)
    reports = []
    for height in (4096, 16384):
        zeros_HWC = np.zeros((height, 1024, 3), np.uint8)
        slide = write_tiled(tmp_path / f"{height}.tif", zeros_HWC, tile=512, factors=(), mpp=0.5).path
        reports.append(streamed(slide, tmp_path / f"{height}-mask.tif", model))

    low, high = reports
    assert high["settings"]["state_bytes"] == low["settings"]["state_bytes"]
    assert high["peak_resident_bytes"] <= 1.1 * low["peak_resident_bytes"]


def test_max_ram_is_kept_by_a_stream_on_a_wide_slide(tmp_path: Path) -> None:
    model = small_model_file(tmp_path / "m.safetensors", "axial_segmenter", classes=5, **SLIM)
    zeros_HWC = np.zeros((264, 40_000, 1), np.uint8)
    wide = write_tiled(tmp_path / "wide.tif", zeros_HWC, tile=512, factors=(), mpp=0.5).path

    rich = streamed(wide, tmp_path / "rich.tif", model, "--max-ram", "12G")
    poor = streamed(wide, tmp_path / "poor.tif", model, "--max-ram", "440M")

    assert len(rich["settings"]["strips"]) == 1
    assert rich["peak_resident_bytes"] > 440 << 20
    assert len(poor["settings"]["strips"]) > 1
    assert poor["peak_resident_bytes"] < 440 << 20
    masks = [tifffile.imread(tmp_path / name, level=0) for name in ("rich.tif", "poor.tif")]
    assert np.array_equal(*masks)


def test_max_ram_is_kept_on_a_wide_slide(tmp_path: Path) -> None:
    model = small_model_file(tmp_path / "m.safetensors", classes=5)
    wide = write_tiled(
        tmp_path / "wide.tif", np.zeros((600, 60_000, 1), np.uint8), tile=512, factors=(), mpp=0.5
    )
    reports = {}
    for budget in ("12G", "800M"):
        run = subprocess.run(
            command(["predict", wide.path, "-o", tmp_path / f"{budget}.tif", "-m", model, "--max-ram", budget,
                     "--engine", "tiles", "--batch", "1", "--json"]),
            check=True,
            capture_output=True,
            text=True,
        )  # fmt: skip
        reports[budget] = json.loads(run.stdout)

    assert reports["12G"]["settings"]["strips"] == 1
    assert reports["12G"]["peak_resident_bytes"] > 800 << 20
    assert reports["800M"]["settings"]["strips"] > 1
    assert reports["800M"]["peak_resident_bytes"] < 800 << 20
    masks = [tifffile.imread(tmp_path / f"{budget}.tif", level=0) for budget in reports]
    assert np.array_equal(*masks)


def test_the_model_file_of_the_zoo_is_loaded_by_name() -> None:
    model = axialcli.load_model("nuclei")

    probs = model.predict(np.full((1, 3, 64, 64), 240, np.uint8))

    assert probs.shape == (1, 2, 64, 64)
    assert np.abs(probs.sum(1) - 1).max() < 1e-5


def test_a_written_model_predicts_as_the_one_in_memory(tmp_path: Path) -> None:
    model = red_detector()
    write_model(tmp_path / "red.safetensors", model.spec, model.network.state_dict())
    image = picture(40, 50).transpose(2, 0, 1)[None]

    again = axialcli.load_model(tmp_path / "red.safetensors")

    assert np.abs(again.predict(image) - model.predict(image)).max() < 1e-3


@pytest.mark.parametrize("published", [1, 2, 3])
def test_a_kill_while_publishing_is_continued_by_the_same_command(tmp_path: Path, published: int) -> None:
    """Report, overlay and probabilities get their names before the mask: they must not stop the next run."""
    write_tiled(tmp_path / "slide.tif", picture(300, 400), mpp=0.5)
    model = small_model_file(tmp_path / "m.safetensors")
    arguments = ["predict", tmp_path / "slide.tif", "-o", tmp_path / "mask.tif", "-m", model,
                 "--probs", tmp_path / "probs.tif", "--overlay", tmp_path / "overlay.png"]  # fmt: skip
    killer = (
        "import os, signal, sys\n"
        "from axialcli.output import publishing\n"
        "real, count = publishing.publish, 0\n"
        "def publish(temp, final):\n"
        "    global count\n"
        f"    if count == {published}:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    count += 1\n"
        "    real(temp, final)\n"
        "publishing.publish = publish\n"
        "from axialcli.cli.start import main\n"
        f"sys.argv[1:] = {list(map(str, arguments))!r}\n"
        "main()\n"
    )
    killed = subprocess.run([sys.executable, "-c", killer], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "mask.tif").exists()
    sides = [tmp_path / name for name in ("mask.tif.json", "probs.tif", "overlay.png")]
    assert sum(path.exists() for path in sides) == published

    again = subprocess.run(command([*arguments, "--json"]), capture_output=True, text=True)

    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["resumed_blocks"] == 1
    assert all(path.exists() for path in [*sides, tmp_path / "mask.tif"])
    assert not list(tmp_path.glob("*.partial"))


def test_no_input_is_overwritten(tmp_path: Path) -> None:
    slide = write_tiled(tmp_path / "slide.tif", picture(100, 100)).path
    model = small_model_file(tmp_path / "m.safetensors")
    (tmp_path / "link.tif").hardlink_to(slide)
    for out in (slide, model, tmp_path / "link.tif"):
        before = sha256(out)
        with pytest.raises(UsageError, match="is an input; choose another output"):
            axialcli.predict(slide, out, model=model, force=True)
        assert sha256(out) == before


def test_an_open_slide_has_its_own_selection(tmp_path: Path) -> None:
    path = write_tiled(tmp_path / "slide.tif", picture(100, 100)).path
    with (
        axialcli.open_slide(path) as slide,
        pytest.raises(UsageError, match="this slide is open already"),
    ):
        axialcli.predict(slide, tmp_path / "mask.tif", model=small_model(), mpp_override=7.0)


def test_work_on_other_channels_is_not_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiled(tmp_path / "slide.tif", picture(1200, 300), mpp=0.5).path
    model = small_model()
    with monkeypatch.context() as patch:
        interrupt_at_the_second_block(patch)
        with axialcli.open_slide(path) as slide, pytest.raises(KeyboardInterrupt):
            axialcli.predict(slide, tmp_path / "mask.tif", model=model)

    with axialcli.open_slide(path, channels=[2, 1, 0]) as slide:
        report = axialcli.predict(slide, tmp_path / "mask.tif", model=model)
    axialcli.predict(path, tmp_path / "want.tif", model=model, channels=(2, 1, 0))

    assert report["resumed_blocks"] == 0
    assert sha256(tmp_path / "mask.tif") == sha256(tmp_path / "want.tif")


def test_the_real_pictures_of_scikit_image_run(tmp_path: Path) -> None:
    folder = Path(skimage.data.__file__).parent
    pictures = [folder / "ihc.png", folder / "multipage.tif", folder / "multipage_rgb.tif"]
    for path in pictures:
        report = axialcli.predict(path, tmp_path / f"{path.stem}.tif", model="nuclei")
        with axialcli.open_slide(path) as slide:
            assert report["output"]["size"] == list(slide.size)
    ihc_HW = tifffile.imread(tmp_path / "ihc.tif", level=0)
    # Some nuclei are found, and the lumen on the left edge, which is blank, is not one.
    assert 0.02 < ihc_HW.mean() < 0.4
    assert ihc_HW[290:350, :20].mean() < 0.05
