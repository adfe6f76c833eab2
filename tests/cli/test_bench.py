"""`axial bench` as a user runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Axial
from tests.networks import small_model_file

WANTED = {"end to end 64", "decode alone 64", "network alone 64", "stream torch 64", "tiles torch 64"}


def test_all_that_was_asked_for_is_measured_or_said_within_the_time(tmp_path: Path, axial: Axial) -> None:
    model = small_model_file(tmp_path / "m.safetensors")
    asked = ("--model", model, "--resolution", "64", "--backend", "torch", "--seconds", "12")

    done = axial("bench", *asked, "--json", "a.json")

    if done.returncode == 6:
        # Where even the slide took longer, or it alone was made.
        assert re.search(r"^axial: error: .* 12 s: give more --seconds\n$", done.stderr)
        assert not (tmp_path / "a.json").exists()
        return
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads((tmp_path / "a.json").read_text())
    # What ran as a whole names the engine that it ran with.
    measured = {
        re.sub("(end to end|network alone) (stream|tiles)", r"\1", entry["name"]): entry["seconds"]
        for entry in report["measurements"]
    }
    left_out = {entry["name"]: entry["reason"] for entry in report["failures"]}
    assert measured.keys() | left_out.keys() >= WANTED
    assert all(min(seconds) > 0 for seconds in measured.values())
    assert all("--seconds" in reason for reason in left_out.values())
    assert report["model"]["name"] == "small"
    assert "Ceilings of this device" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "m.safetensors"]

    compared = axial("bench", "--compare", "a.json", "a.json")
    assert compared.returncode == 0
    assert "not the same" not in compared.stdout
    assert "faster" not in compared.stdout


@pytest.mark.slow
def test_every_backend_is_measured(tmp_path: Path, axial: Axial) -> None:
    model = small_model_file(tmp_path / "m.safetensors")

    done = axial("bench", "--model", model, "--resolution", "256", "--seconds", "110", "--json", "a.json")

    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["failures"] == []
    found = {entry["name"]: entry for entry in report["measurements"]}
    assert {"stream torch 256", "tiles torch 256", "tiles onnx 256", "tiles compiled 256"} <= found.keys()
    assert found["tiles compiled 256"]["facts"]["compile_s"] > 0
    assert "bound by the " in done.stdout


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--resolution", "0"], 2, "--resolution is 0: choose 64 to 65536 pixels"),
        (["--resolution", "big"], 2, "--resolution is 'big': write numbers such as 1024,2048"),
        (["--engine", "waves"], 2, "--engine is 'waves': choose one of stream, tiles"),
        (["--seconds", "0"], 2, "--seconds is 0: choose 1 to 86400 seconds"),
        (["--compare", "a.json", "b.json"], 2, "a.json: cannot be read (No such file or directory); "),
        (["--plot", "a.svg"], 2, "a.svg: --plot draws a PNG; give a name that ends in .png"),
        (["--json", "there.json"], 5, "there.json: exists already; --force overwrites it"),
        (["--json", "no/a.json"], 5, "no/a.json: there is no folder no; make it first"),
        (
            ["--compare", "x", "y", "--json", "z"],
            2,
            "--compare measures nothing: leave out --json and --plot",
        ),
    ],
)
def test_bad_input_is_one_line_before_anything_is_measured(
    options: list[str], code: int, says: str, tmp_path: Path, axial: Axial
) -> None:
    (tmp_path / "there.json").write_text("precious")

    done = axial("bench", *options)

    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"axial: error: {says}")
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "there.json").read_text() == "precious"


def test_a_model_that_is_not_there_is_one_line(axial: Axial) -> None:
    done = axial("bench", "--model", "nosuch", "--seconds", "100")

    assert done.returncode == 4
    assert done.stderr.startswith("axial: error: no model 'nosuch'")
    assert done.stderr.count("\n") == 1
