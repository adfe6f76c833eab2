"""Reports: what follows from their figures, what is refused, what changed, and their picture."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from axialcli.bench import plot
from axialcli.bench.compare import compare, differences
from axialcli.bench.flops import flops_per_px
from axialcli.bench.report import bound, named, read_report, share_of_matmul
from axialcli.bench.settings import BenchSettings
from axialcli.cli.bench_tables import changes_text, report_text
from axialcli.errors import UsageError
from axialcli.nn.attention import AxialAttention

MEASURED = {"name": "a", "kind": "b", "seconds": [1.0], "facts": {}}
REST = {"axial_bench": 1}


def entry(name: str, kind: str, seconds: list[float], **facts: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "seconds": seconds, "facts": facts}


def engine(name: str, side: int, seconds: list[float], **facts: Any) -> dict[str, Any]:
    own = {"px": side**2, "computed_px": 2 * side**2, "dtype": "float32", "gpu_bytes": None}
    return entry(f"{name} {side}", "engine", seconds, **(own | {"peak_resident_bytes": 5_000_000} | facts))


def report(**more: Any) -> dict[str, Any]:
    run = {
        "engine": "stream",
        "start_up": {"imports": 1.5, "model": 0.25},
        "end": 0.5,
        "stages": {"read": 0.5, "network": 7.0},
        "thread_seconds": {"decode": 0.75},
        "peak_resident_bytes": 7_000_000,
    }
    return {
        "axial_bench": 1,
        "settings": {},
        "machine": {
            "processor": "P9",
            "cores": 2,
            "memory_bytes": 8 << 30,
            "gpu": None,
            "versions": {"torch": "3"},
        },
        "model": {"name": "m", "sha256": "ab", "device": "cpu", "dtype": "float32"},
        "flops_per_px": 1000.0,
        "seconds": 99.0,
        "measurements": [
            entry("matmul float32", "ceiling", [1.0, 0.5], amount=8_000_000_000, unit="flop"),
            engine("stream torch", 1000, [1.0, 0.5, 2.0]),
            entry("end to end stream 1000", "end_to_end", [11.0], px=1_000_000, runs=[run]),
            entry("network alone stream 1000", "network", [10.0, 9.0, 12.0]),
            entry("decode alone 1000", "decode", [2.0], px=1_000_000, threads=2),
            entry("encode alone 1000", "encode", [0.25], px=1_000_000),
        ],
        "failures": [{"name": "tiles onnx 1000", "reason": "[b]no[/b] such library"}],
        **more,
    }


def test_the_share_of_the_matmul_rate_counts_every_pixel_that_was_computed() -> None:
    found = report()
    row = named(found, "stream torch 1000")
    assert row is not None
    # 2 Mpx of 1000 operations in a second, of 16 GFLOP/s.
    assert share_of_matmul(found, row) == pytest.approx(2e6 * 1000 / 16e9)
    assert share_of_matmul(report(flops_per_px=None), row) is None


def test_the_slowest_stage_alone_is_what_the_whole_is_held_against() -> None:
    assert bound(report()) == ("network", 1.1)


def test_the_tables_say_what_was_measured_and_what_was_not() -> None:
    text = report_text(report())

    for words in (
        "bound by the network: the whole takes 1.10 times as long as that alone",
        "P9, 2 cores, 8 GiB, torch 3",
        "16.0 GFLOP/s",
        "[b]no[/b] such library",
        "decode, summed over threads",
        "1.5",
    ):
        assert words in text
    (row,) = (line.split() for line in text.splitlines() if line.startswith("stream torch"))
    assert row == ["stream", "torch", "1000²", "1.00", "75", "%", "1.000", "5", "12", "%", "3"]


def test_operations_are_counted_as_on_paper() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    assert flops_per_px(network, 3, side=16) == 2 * (3 * 8 * 9 + 8 * 2)


def test_operations_of_attention_count_both_products() -> None:
    class Attention(nn.Module):
        def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
            tokens_BLC = image_BCHW.flatten(2).transpose(1, 2)
            return nn.functional.scaled_dot_product_attention(tokens_BLC, tokens_BLC, tokens_BLC)

    # 64 tokens of 4 channels: each with each, scores and sum.
    assert flops_per_px(Attention(), 4, side=8) == 2 * 2 * 64 * 4


def test_operations_of_attention_along_an_axis_count_the_keys_that_a_query_sees() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.along = AxialAttention(channels=4, heads=1, axis="width", span=5, positions="bias")

        def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
            tokens_BHWC: torch.Tensor = self.along(image_BCHW.movedim(1, -1))
            return tokens_BHWC.movedim(-1, 1)

    # Four projections of 4 x 4, and 4 channels with 5 keys for scores and sum.
    assert flops_per_px(Attention(), 4, side=64) == 2 * (4 * 4 * 4 + 2 * 4 * 5)


def test_what_is_not_known_is_not_in_the_heading() -> None:
    text = report_text(report(machine=None))
    assert text.startswith("model m on cpu in float32")


def test_other_resolutions_and_engines_are_circumstances() -> None:
    one = report(settings={"resolutions": [1024], "engines": ["stream"]})
    two = report(settings={"resolutions": [1024, 2048], "engines": ["tiles"]})
    assert list(differences(one, two)) == ["resolutions: 1024 and 1024, 2048", "engines: stream and tiles"]


def test_a_report_comes_back_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(report()))
    assert read_report(tmp_path / "a.json") == report()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read"),
        ("{", "is no JSON"),
        ("[1]", "is no report of axial bench"),
        ('{"a": 1}', "is no report of axial bench"),
        ('{"axial_bench": 7}', "another version"),
        ('{"axial_bench": 1}', "is damaged"),
        ('{"axial_bench": 1, "measurements": [{"name": "a"}]}', "is damaged"),
        (
            '{"axial_bench": 1, "measurements": [{"name": "a", "kind": "b", "seconds": [0], "facts": {}}]}',
            "is damaged",
        ),
        *(
            (json.dumps(REST | {"measurements": [MEASURED | {"seconds": seconds}]}), "is damaged")
            for seconds in ([10**400], [float("nan")], [1.0, float("inf")], 5, ["a"], "12")
        ),
        *(
            (json.dumps(REST | {"measurements": [MEASURED]} | part), "is damaged")
            for part in (
                {"machine": "x"},
                {"machine": {"versions": [1]}},
                {"model": {"sha256": 5}},
                {"settings": [1]},
                {"settings": {"resolutions": 5}},
            )
        ),
    ],
)
def test_what_is_no_report_is_refused(text: str | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=says):
        read_report(path)


def test_what_both_reports_have_is_compared_and_other_circumstances_are_said() -> None:
    after = report(
        model={"name": "m", "sha256": "cd", "device": "cpu", "dtype": "float32"},
        measurements=[
            entry("network alone stream 1000", "network", [5.0, 4.5, 5.5, 4.0, 5.0]),
            entry("network alone tiles 1000", "network", [1.0]),
            entry("new", "network", [1.0]),
        ],
    )

    (change,) = compare(report(), after)
    assert (change.name, change.ratio, change.verdict) == ("network alone stream 1000", 0.5, "faster")
    assert list(differences(report(), after)) == ["model's hash: ab and cd"]
    text = changes_text([change], ["model's hash: ab and cd"])
    assert "not the same: model's hash: ab and cd" in text
    assert ["network", "alone", "stream", "1000", "10.0", "5.000", "0.500", "faster"] in [
        line.split() for line in text.splitlines()
    ]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"resolutions": (0,)}, "--resolution is 0"),
        ({"resolutions": (256, 256)}, "each once"),
        ({"engines": ("waves",)}, "--engine is 'waves'"),
        ({"backends": ("",)}, "--backend is ''"),
        ({"engines": ("stream",), "backends": ("onnx",)}, "stream runs on --backend torch alone"),
        ({"seconds": 0.0}, "--seconds is 0"),
        ({"seconds": float("nan")}, "--seconds is nan"),
        ({"device": "tpu"}, "--device is 'tpu'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        BenchSettings(**settings)


def test_without_matplotlib_a_plot_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"--plot needs matplotlib: pip install 'axialcli\[plot\]'"):
        plot.check_plotting()


@pytest.mark.parametrize("kind", ["engine", "attention"])
def test_a_plot_is_a_picture(kind: str) -> None:
    pytest.importorskip("matplotlib")
    rows = {
        "engine": [engine("tiles torch", side, [side / 1e4, side / 2e4]) for side in (256, 512)],
        "attention": [
            entry(f"axial attention {s}", "attention", [s**3 / 1e9], tokens=s**2) for s in (32, 64)
        ],
    }
    with Image.open(io.BytesIO(plot.draw(report(measurements=rows[kind])))) as picture:
        assert picture.format == "PNG"
        # Something is drawn in a line's colour.
        red, green, blue = np.asarray(picture.convert("RGB"), int).transpose(2, 0, 1)
    assert np.count_nonzero((blue > red + 60) & (green > red)) > 100


def test_nothing_measured_is_no_plot() -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(UsageError, match="no engine was measured"):
        plot.draw(report(measurements=[]))
