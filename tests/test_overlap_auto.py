"""`--overlap auto` from slide to mask: exact with crop, and honest about what it costs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import tifffile

import axialcli
from tests.cli.conftest import command
from tests.engine.foreign import noise
from tests.fixtures.slides import write_tiled
from tests.networks import small_model, small_model_file


def test_crop_with_auto_gives_the_mask_of_the_stream(tmp_path: Path) -> None:
    write_tiled(tmp_path / "slide.tif", noise(700, 640), mpp=0.5)
    model = small_model("axial_segmenter", width=(4, 8, 8), depth=1, heads=2, span=7)
    report = axialcli.predict(
        tmp_path / "slide.tif", tmp_path / "tiles.tif", model=model, engine="tiles", tile=256,
        blend="crop", overlap="auto",
    )  # fmt: skip
    axialcli.predict(tmp_path / "slide.tif", tmp_path / "stream.tif", model=model, engine="stream")

    assert (report["settings"]["tile"], report["settings"]["overlap"]) == (256, 56)
    masks = [tifffile.imread(tmp_path / name, level=0) for name in ("tiles.tif", "stream.tif")]
    assert np.count_nonzero(masks[0] != masks[1]) <= 4
    assert 0.05 < masks[1].mean() < 0.95


def test_the_command_prints_what_auto_costs(tmp_path: Path) -> None:
    write_tiled(tmp_path / "slide.tif", noise(200, 220), mpp=0.5)
    small_model_file(tmp_path / "m.safetensors", "axial_segmenter", width=[4, 8, 8], depth=1, heads=2, span=7)
    arguments = ["predict", "slide.tif", "-o", "mask.tif", "-m", "m.safetensors", "--engine", "tiles"]

    def axial(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command([*arguments, *options]), cwd=tmp_path, capture_output=True, text=True)

    done = axial("--tile", "256", "--overlap", "auto", "--blend", "crop", "--json")
    refused = axial("--overlap", "auto", "--tile", "96", "--force")
    misread = axial("--overlap", "wide", "--force")

    assert done.stderr == (
        "axial: --overlap auto: 56 pixels, the receptive field; tiles of 256 x 256 compute each pixel "
        "3.16 times; --tile 512 would compute it 1.64 times\n"
    )
    assert json.loads(done.stdout)["settings"]["overlap"] == 56
    assert (refused.returncode, misread.returncode) == (2, 2)
    assert refused.stderr == (
        "axial: error: --overlap auto: 56 pixels on each side leave nothing of a tile of 96 x 96: "
        "give --tile 120 at least; --tile 224 computes each pixel 4 times or less\n"
    )
    assert misread.stderr == "axial: error: --overlap is 'wide': give a number of pixels, or auto\n"
