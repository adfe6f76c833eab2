"""What `predict` makes of --engine, --background, --scratch and --certify."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

import axialcli
from axialcli.backends.torch_model import TorchModel
from axialcli.engine.stream import barrier
from axialcli.errors import ModelError, OutputError, UsageError
from axialcli.output import Journal, RunFiles
from tests.cli.conftest import command
from tests.fixtures.slides import picture, write_tiled
from tests.networks import small_model, small_model_file, small_spec, small_weights
from tests.test_pipeline import interrupt_at_the_second_block, sha256

CONTEXT: dict[str, Any] = {"width": (4, 8, 8), "depth": 1, "heads": 2, "span": 7}
WHOLE: dict[str, Any] = {"width": (4, 8, 8), "depth": 1, "heads": 2, "span": None}


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return write_tiled(tmp_path / "slide.tif", picture(1200, 700), mpp=0.5).path


@pytest.fixture
def separable() -> TorchModel:
    """A model of which every token looks at all others."""
    spec = small_spec("axial_segmenter", **CONTEXT)
    spec = replace(spec, config={**spec.config, "attention": "separable"}, receptive_field_px=None)
    return TorchModel(
        spec=spec,
        weights=small_weights(spec),
        device=torch.device("cpu"),
        dtype=torch.float32,
        sha256="0" * 64,
        where="small",
    )


def test_auto_takes_tiles_where_a_model_cannot_be_streamed_and_says_why(
    tmp_path: Path, slide: Path, separable: TorchModel, caplog: pytest.LogCaptureFixture
) -> None:
    report = axialcli.predict(slide, tmp_path / "mask.tif", model=separable)

    assert report["engine"] == "tiles"
    assert "SeparableAttention" in report["engine_reason"]
    assert caplog.messages == [f"model 'small' cannot be streamed, tiles are used: {report['engine_reason']}"]


def test_a_stream_that_cannot_be_is_refused_and_leaves_nothing(
    tmp_path: Path, slide: Path, separable: TorchModel
) -> None:
    with pytest.raises(ModelError, match=r"model 'small' cannot be streamed: .*SeparableAttention"):
        axialcli.predict(slide, tmp_path / "mask.tif", model=separable, engine="stream")

    assert [path.name for path in tmp_path.iterdir()] == ["slide.tif"]


def test_tiles_are_taken_where_they_are_asked_for_and_idle_settings_are_named(
    tmp_path: Path, slide: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = axialcli.predict(
        slide,
        tmp_path / "mask.tif",
        model=small_model(),
        engine="tiles",
        store_dtype="float16",
        scratch=tmp_path,
    )

    assert (report["engine"], report["engine_reason"]) == ("tiles", None)
    assert report["settings"]["scratch"] == str(tmp_path)
    assert caplog.messages == ["--scratch, --store-dtype: no effect with the engine 'tiles'"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_scratch_folder_that_takes_no_files_is_refused(tmp_path: Path, slide: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="locked: this folder cannot be written"):
        axialcli.predict(slide, tmp_path / "mask.tif", model=small_model(), scratch=locked)


def test_a_background_skips_tiles_and_the_mask_is_that_of_the_filled_slide(tmp_path: Path) -> None:
    glass = (240, 241, 239)
    filled_HWC = picture(1400, 1300)
    glass_HW = np.zeros(filled_HWC.shape[:2], np.bool_)
    glass_HW[:, 500:] = True
    filled_HWC[glass_HW] = glass
    image_HWC = filled_HWC.copy()
    image_HWC[glass_HW] += np.random.default_rng(0).integers(0, 3, (int(glass_HW.sum()), 3), dtype=np.uint8)
    slide = write_tiled(tmp_path / "slide.tif", image_HWC, factors=(), mpp=0.5).path
    filled = write_tiled(tmp_path / "filled.tif", filled_HWC, factors=(), mpp=0.5).path
    model = small_model("axial_segmenter", **CONTEXT)

    report = axialcli.predict(
        slide, tmp_path / "mask.tif", model=model, engine="tiles", tile=256, background="#f0f1ef:2"
    )
    plain = axialcli.predict(filled, tmp_path / "plain.tif", model=model, engine="tiles", tile=256)

    masks = [tifffile.imread(tmp_path / name, level=0) for name in ("mask.tif", "plain.tif")]
    assert np.count_nonzero(masks[0] != masks[1]) <= 2
    found = report["background"]
    assert (found["colour"], found["tolerance"], found["said"]) == ([240.0, 241.0, 239.0], 2.0, "given")
    assert found["blank_share"] == pytest.approx(glass_HW.mean(), abs=1e-3)
    assert found["skipped_share"] > 0.4
    assert plain["background"] == {
        "colour": None,
        "tolerance": None,
        "said": "off",
        "blank_share": 0.0,
        "skipped_share": 0.0,
    }


def test_a_certificate_stands_in_the_report_and_the_mask_is_the_same_with_and_without(
    tmp_path: Path, slide: Path
) -> None:
    model = small_model("axial_segmenter", **CONTEXT)
    options: dict[str, Any] = {"model": model, "engine": "tiles", "tile": 128, "overlap": 8}

    report = axialcli.predict(slide, tmp_path / "mask.tif", certify=1000, **options)
    plain = axialcli.predict(slide, tmp_path / "plain.tif", **options)
    exact = axialcli.predict(
        slide, tmp_path / "exact.tif", certify=6, **{**options, "tile": 256, "overlap": 56, "blend": "crop"}
    )

    assert sha256(tmp_path / "mask.tif") == sha256(tmp_path / "plain.tif")
    assert plain["certificate"] is None
    found = report["certificate"]
    assert (found["windows"], found["pixels"], found["receptive_field_px"]) == (15, 1200 * 700, 54)
    assert found["largest_logit_difference"] > found["median_logit_difference"] > 0
    whole_HW = model.predict(picture(1200, 700).transpose(2, 0, 1)[None])[0].argmax(axis=0)
    differing = np.count_nonzero(tifffile.imread(tmp_path / "mask.tif", level=0) != whole_HW)
    assert abs(found["differing_pixels"] - differing) <= 2
    assert found["differing_pixels_share"] == found["differing_pixels"] / (1200 * 700)
    assert exact["certificate"]["windows"] == 6
    assert exact["certificate"]["largest_logit_difference"] <= 1e-4


def test_a_run_that_is_continued_with_more_windows_has_them_all(
    tmp_path: Path, slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first block is done and its mask kept, but it is computed again for its windows."""
    options: dict[str, Any] = {"model": small_model("axial_segmenter", **CONTEXT), "engine": "tiles"}
    want = axialcli.predict(slide, tmp_path / "want.tif", certify=1000, **options)
    with monkeypatch.context() as patch:
        interrupt_at_the_second_block(patch)
        with pytest.raises(KeyboardInterrupt):
            axialcli.predict(slide, tmp_path / "mask.tif", **options)

    report = axialcli.predict(slide, tmp_path / "mask.tif", certify=1000, **options)

    assert report["certificate"] == want["certificate"]
    assert sha256(tmp_path / "mask.tif") == sha256(tmp_path / "want.tif")
    assert report["resumed_blocks"] == 0


def test_a_run_without_windows_continues_one_with_windows(
    tmp_path: Path, slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"model": small_model(), "engine": "tiles"}
    with monkeypatch.context() as patch:
        interrupt_at_the_second_block(patch)
        with pytest.raises(KeyboardInterrupt):
            axialcli.predict(slide, tmp_path / "mask.tif", certify=3, scratch=tmp_path, **options)

    report = axialcli.predict(slide, tmp_path / "mask.tif", **options)

    assert report["resumed_blocks"] == 1
    assert not list(tmp_path.glob("*.partial"))


def test_a_certificate_survives_a_kill(tmp_path: Path) -> None:
    slide = write_tiled(tmp_path / "slide.tif", picture(5200, 1100), mpp=0.5, tile=256, factors=()).path
    model = small_model_file(tmp_path / "m.safetensors", "axial_segmenter", **CONTEXT)
    run = ["predict", slide, "--model", model, "--engine", "tiles", "--certify", "40", "--json"]
    want = json.loads(subprocess.check_output(command([*run, "--out", tmp_path / "want.tif"])))
    journal = tmp_path / "mask.tif.partial" / "journal.txt"
    process = subprocess.Popen(command([*run, "--out", tmp_path / "mask.tif"]), stdout=subprocess.DEVNULL)
    while not (journal.exists() and len(journal.read_bytes().splitlines()) >= 4):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()

    again = json.loads(subprocess.check_output(command([*run, "--out", tmp_path / "mask.tif"])))

    assert again["resumed_blocks"] >= 3
    assert again["certificate"] == want["certificate"]
    assert sha256(tmp_path / "mask.tif") == sha256(tmp_path / "want.tif")


def test_a_model_without_a_receptive_field_is_not_certified(tmp_path: Path, slide: Path) -> None:
    model = small_model()
    model.spec = axialcli.backends.model.ModelSpec(**{**vars(model.spec), "receptive_field_px": None})

    with pytest.raises(UsageError, match="--certify needs a receptive field"):
        axialcli.predict(slide, tmp_path / "mask.tif", model=model, certify=1)

    assert [path.name for path in tmp_path.iterdir()] == ["slide.tif"]


def test_a_stream_is_certified_and_says_which_settings_are_idle(
    tmp_path: Path, slide: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = axialcli.predict(
        slide, tmp_path / "mask.tif", model=small_model(), engine="stream", tile=256, certify=1000
    )

    assert report["engine"] == "stream"
    assert report["certificate"]["pixels"] == 1200 * 700
    assert report["certificate"]["largest_logit_difference"] <= 1e-4
    assert report["certificate"]["differing_pixels"] <= 2
    assert caplog.messages == ["--tile: no effect with the engine 'stream'"]


def test_an_idle_setting_does_not_start_a_run_over(
    tmp_path: Path, slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model()
    with monkeypatch.context() as patch:
        interrupt_at_the_second_block(patch)
        with pytest.raises(KeyboardInterrupt):
            axialcli.predict(slide, tmp_path / "mask.tif", model=model, engine="stream")

    report = axialcli.predict(slide, tmp_path / "mask.tif", model=model, engine="stream", tile=256)

    assert report["resumed_blocks"] == 1


def test_the_other_engine_starts_over_and_says_so(
    tmp_path: Path, slide: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model()
    with monkeypatch.context() as patch:
        interrupt_at_the_second_block(patch)
        with pytest.raises(KeyboardInterrupt):
            axialcli.predict(slide, tmp_path / "mask.tif", model=model, engine="tiles")

    report = axialcli.predict(slide, tmp_path / "mask.tif", model=model, engine="stream")

    assert report["resumed_blocks"] == 0
    assert "starting over, the earlier run differed in: engine" in caplog.text


def test_options_of_a_store_are_idle_where_a_model_needs_none(
    tmp_path: Path, slide: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model("axial_segmenter", **CONTEXT)
    with monkeypatch.context() as patch:
        interrupt_at_the_second_block(patch)
        with pytest.raises(KeyboardInterrupt):
            axialcli.predict(slide, tmp_path / "mask.tif", model=model)
    assert caplog.messages == []

    report = axialcli.predict(
        slide,
        tmp_path / "mask.tif",
        model=model,
        scratch=tmp_path,
        store_dtype="float16",
        probs_dtype="float16",
        background="#f0f0f0:2",
    )

    assert caplog.messages[:2] == [
        "--scratch, --store-dtype: no effect, this model does not look at the whole height",
        "--probs-dtype: no effect without --probs or --heatmap",
    ]
    # Only the background decides anything.
    assert "starting over, the earlier run differed in: background, settings" in caplog.messages[2]
    assert len(caplog.messages) == 3
    assert report["resumed_blocks"] == 0


def test_a_background_is_filled_but_not_skipped_where_pixels_look_everywhere(
    tmp_path: Path, slide: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = small_model("axial_segmenter", **WHOLE)

    report = axialcli.predict(slide, tmp_path / "mask.tif", model=model, background="#f0f0f0:2")

    assert report["background"]["skipped_share"] == 0
    assert caplog.messages == [
        "--background: blank pixels are set to one colour, but none is skipped: "
        "this model looks at whole rows or columns"
    ]


@pytest.fixture
def on_disk(tmp_path: Path) -> dict[str, Any]:
    """Options of a run that keeps its features in a scratch folder."""
    (tmp_path / "scratch").mkdir()
    return {"model": small_model("axial_segmenter", **WHOLE), "scratch": tmp_path / "scratch"}


def fail_to_write(patch: pytest.MonkeyPatch, blocks: int) -> None:
    """The disk is full after so many blocks."""
    real = Journal.record

    def record(journal: Journal, box: Any, counts: Any) -> None:
        if len(journal.done) == blocks:
            raise OutputError("the disk is full")
        real(journal, box, counts)

    patch.setattr(Journal, "record", record)


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_scratch_files_outlive_a_run_that_fails_in_writing(
    tmp_path: Path,
    slide: Path,
    on_disk: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    blocks: int,
) -> None:
    """Also that of the last block, which the engine has finished by then."""
    axialcli.predict(slide, tmp_path / "want.tif", **on_disk)
    assert not list((tmp_path / "scratch").iterdir())
    with monkeypatch.context() as patch:
        fail_to_write(patch, blocks)
        with pytest.raises(OutputError, match="the disk is full"):
            axialcli.predict(slide, tmp_path / "mask.tif", **on_disk)
    assert len(list((tmp_path / "scratch").glob("*/features-*.bin"))) > 0

    with monkeypatch.context() as patch:
        # What was planned and what was passed over is not done again.
        patch.setattr(barrier, "choose_steps", None)
        patch.setattr(barrier.Runner, "run", None)
        report = axialcli.predict(slide, tmp_path / "mask.tif", **on_disk)

    assert report["resumed_blocks"] == blocks
    assert sha256(tmp_path / "mask.tif") == sha256(tmp_path / "want.tif")
    assert not list((tmp_path / "scratch").iterdir())
    assert caplog.messages == []


def test_scratch_files_go_once_the_mask_has_its_name(
    tmp_path: Path, slide: Path, on_disk: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(files: RunFiles, report: Any) -> None:
        raise OutputError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(RunFiles, "publish", fail)
        with pytest.raises(OutputError, match="the disk is full"):
            axialcli.predict(slide, tmp_path / "mask.tif", **on_disk)
    assert len(list((tmp_path / "scratch").glob("*/features-*.bin"))) > 0

    report = axialcli.predict(slide, tmp_path / "mask.tif", **on_disk)

    assert report["resumed_blocks"] == 3
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("engine", ["stream", "tiles"])
def test_a_run_is_continued_with_another_max_ram_as_it_was_planned(
    tmp_path: Path,
    slide: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
) -> None:
    options: dict[str, Any] = {"model": small_model(), "engine": engine}
    want = axialcli.predict(slide, tmp_path / "want.tif", max_ram_bytes=4 << 30, **options)
    for number, (budget, said) in enumerate([(8 << 30, 0), (2 << 30, 1)]):
        mask = tmp_path / f"{number}.tif"
        with monkeypatch.context() as patch:
            interrupt_at_the_second_block(patch)
            with pytest.raises(KeyboardInterrupt):
                axialcli.predict(slide, mask, max_ram_bytes=4 << 30, **options)

        report = axialcli.predict(slide, mask, max_ram_bytes=budget, **options)

        assert report["resumed_blocks"] == 1
        assert report["settings"]["strips"] == want["settings"]["strips"]
        assert len(caplog.messages) == said
    assert "is continued as it was planned, for 4096 MiB of memory and not 2048 MiB" in caplog.text
