"""The process itself: signals at any moment, standard output that goes away."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from axialcli.cli.app import run
from axialcli.cli.start import Stopped
from axialcli.config import scratch_folder
from tests.cli.conftest import Axial, command
from tests.fixtures.slides import picture, write_tiled
from tests.networks import small_model_file


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("pause_s", [0.0, 0.01, 0.1])
def test_two_signals_end_the_run_as_one_does(tmp_path: Path, number: int, pause_s: float) -> None:
    write_tiled(tmp_path / "slide.tif", picture(4000, 1000), mpp=0.5, tile=256, factors=())
    model = small_model_file(
        tmp_path / "m.safetensors", "axial_segmenter", width=[8, 16, 32], depth=1, heads=2
    )
    process = subprocess.Popen(
        command(["predict", tmp_path / "slide.tif", "-o", tmp_path / "mask.tif", "-m", model]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "mask.tif.partial" / "journal.txt").exists():
        assert process.poll() is None
        time.sleep(0.02)
    for _ in range(2):
        process.send_signal(number)
        time.sleep(pause_s)
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 128 + number
    assert errors.count("\n") == 1
    assert errors.startswith("axial: error: ")
    assert ("the same command continues" in errors) == (tmp_path / "mask.tif.partial").exists()


@pytest.mark.parametrize("left", ["mask.tif.partial", "scratch", None])
def test_only_what_left_work_behind_says_that_it_continues(left: str | None, tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()

    def stop(*_: object, **__: object) -> None:
        if left == "scratch":
            scratch_folder(tmp_path / "features", str((tmp_path / "mask.tif").resolve())).mkdir()
        elif left:
            (tmp_path / left).mkdir()
        raise Stopped(signal.SIGTERM)

    write_tiled(tmp_path / "slide.tif", picture(100, 100))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("axialcli.pipeline.predict", stop)
        # Of the process, not of the run: the logger would stay as it makes it.
        patch.setattr("axialcli.cli.predict.show_messages", lambda: None)
        patch.setattr("sys.stderr", errors := io.StringIO())
        options = ["--out", str(tmp_path / "mask.tif"), "--scratch", str(tmp_path / "features")]
        code = run(["predict", str(tmp_path / "slide.tif"), *options])

    assert code == 143
    continues = "; the same command continues the run" if left else ""
    assert errors.getvalue() == f"axial: error: terminated{continues}\n"


def test_a_signal_while_libraries_are_loaded_is_no_traceback(tmp_path: Path) -> None:
    """The handlers are there before typer, rich and the rest are imported."""
    code = (
        "import os, signal, sys\n"
        "class Late:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer':\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.meta_path.insert(0, Late())\n"
        "from axialcli.cli.start import main\n"
        "sys.argv[1:] = ['--version']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 143
    assert done.stderr == "axial: error: terminated\n"


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    write_tiled(tmp_path / "slide.tif", picture(100, 100))
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run(command(["info", tmp_path / "slide.tif"]), stdout=writer, stderr=subprocess.PIPE)

    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_standard_output_on_a_full_disk_is_one_line(tmp_path: Path) -> None:
    write_tiled(tmp_path / "slide.tif", picture(100, 100))
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command(["info", tmp_path / "slide.tif"]), stdout=full, stderr=subprocess.PIPE, text=True
        )

    assert done.returncode == 5
    assert done.stderr == "axial: error: cannot write to standard output: No space left on device\n"


def test_names_are_not_read_as_markup(tmp_path: Path, axial: Axial) -> None:
    write_tiled(tmp_path / "[red]x[b].tif", picture(100, 100))

    assert "[red]x[b].tif" in axial("info", "[red]x[b].tif").stdout


def test_no_arguments_print_the_help_and_nothing_else(axial: Axial) -> None:
    done = axial()

    assert done.returncode == 2
    assert "predict" in done.stdout
    assert done.stderr == ""


def test_help_and_info_load_no_torch(tmp_path: Path) -> None:
    write_tiled(tmp_path / "slide.tif", picture(100, 100))
    for arguments in (["--help"], ["info", str(tmp_path / "slide.tif")]):
        code = (
            "import sys\n"
            "from axialcli.cli.app import run\n"
            f"run({arguments!r})\n"
            "sys.exit('torch' in sys.modules)\n"
        )
        assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
