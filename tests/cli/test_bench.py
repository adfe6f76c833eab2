"""`axial bench` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Axial
from tests.networks import small_model_file


def test_a_model_is_measured_by_stage_and_engine(tmp_path: Path, axial: Axial) -> None:
    model = small_model_file(tmp_path / "m.safetensors")

    done = axial(
        *("bench", "--model", model, "--resolution", "128", "--backend", "torch", "--seconds", "100"),
        *("--json", "a.json"),
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads((tmp_path / "a.json").read_text())
    found = {entry["name"]: entry for entry in report["measurements"]}
    assert {"stream torch 128", "tiles torch 128", "end to end 128", "network alone"} <= found.keys()
    assert {"decode alone", "encode alone", "matmul float32", "memory"} <= found.keys()
    for entry in found.values():
        assert min(entry["seconds"]) > 0
    for run, total_s in zip(
        found["end to end 128"]["facts"]["runs"], found["end to end 128"]["seconds"], strict=True
    ):
        # What one thread does after the other fits into the whole.
        stages = run["stages"]
        assert {"read", "network", "to device", "from device", "decide", "write", "finish"} <= stages.keys()
        assert stages["plan"] + stages["write"] + stages["finish"] <= total_s
        assert stages["read"] + stages["to device"] <= total_s
        assert stages["network"] + stages["from device"] + stages["decide"] <= total_s
        assert set(run["thread_seconds"]) == {"file", "decode", "encode"}
    assert "bound by the " in done.stdout
    assert report["model"]["name"] == "small"
    assert report["failures"] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "m.safetensors"]

    compared = axial("bench", "--compare", "a.json", "a.json")
    assert compared.returncode == 0
    assert "not the same" not in compared.stdout
    assert "faster" not in compared.stdout


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--resolution", "0"], 2, "--resolution is 0: choose 64 to 65536 pixels"),
        (["--resolution", "big"], 2, "--resolution is 'big': write numbers such as 1024,2048"),
        (["--engine", "waves"], 2, "--engine is 'waves': choose one of stream, tiles"),
        (["--seconds", "0"], 2, "--seconds is 0: choose 1 to 86400 seconds"),
        (["--compare", "a.json", "b.json"], 2, "a.json: cannot be read (No such file or directory); "),
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
