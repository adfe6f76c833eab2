"""What the children measure, run in this process: true work on a true slide, and facts that add up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from axialcli.bench import ceilings, engines
from axialcli.bench.attention import CHANNELS, KINDS, build, measure_attention
from axialcli.bench.ceilings import measure_ceilings
from axialcli.bench.codec_alone import measure_decode, measure_encode
from axialcli.bench.end_to_end import measure_end_to_end
from axialcli.bench.engines import InMemory, measure_engine, measure_network
from axialcli.bench.jobs import Send
from axialcli.bench.prepare import measure_slides
from axialcli.geometry import Box
from tests.networks import small_model_file

SIDE = 600


@dataclass
class Sent:
    """All that a child has sent."""

    seconds: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def measured(
    measure: Callable[[dict[str, Any], float, Send], None], seconds: float = 0.01, **given: Any
) -> Sent:
    sent = Sent()

    def send(message: dict[str, Any]) -> None:
        sent.seconds += [message["seconds"]] if "seconds" in message else []
        sent.facts.update(message.get("facts", {}))

    measure({**given, "spawned_s": time.time()}, seconds, send)
    return sent


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small model, a slide of 600 x 600 pixels, and where its mask goes."""
    folder = tmp_path_factory.mktemp("bench")
    model = small_model_file(
        folder / "m.safetensors", "axial_segmenter", width=[8, 16, 32], depth=1, heads=2, span=9
    )
    how = {"model": str(model), "device": "cpu", "dtype": "auto"}
    sent = measured(measure_slides, folder=str(folder), sides=[SIDE], **how)
    assert sent.facts["model"]["name"] == "small"
    assert sent.facts["flops_per_px"] > 0
    return {**how, "slide": str(folder / f"{SIDE}.tif"), "out": str(folder / "mask.tif"), "command": []}


@pytest.mark.parametrize("engine", ["stream", "tiles"])
def test_an_engine_runs_over_the_slide(engine: str, given: dict[str, Any]) -> None:
    began = time.perf_counter()
    sent = measured(measure_engine, **given, engine=engine, backend="torch")
    taken = time.perf_counter() - began

    assert len(sent.seconds) == 1
    assert 0 < sum(sent.seconds) < taken
    assert sent.facts["px"] == SIDE**2
    # Tiles begin at 0 and 384, and end at 512 and at the edge.
    assert sent.facts["computed_px"] == (SIDE**2 if engine == "stream" else (512 + SIDE - 384) ** 2)
    assert sent.facts["peak_resident_bytes"] > 50 << 20
    assert ("tile_s" in sent.facts) == (engine == "tiles")


def test_more_time_is_spent_on_more_repeats_and_the_memory_is_the_firsts(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = iter(range(7, 1000))
    monkeypatch.setattr(engines, "peak_resident_bytes", lambda: next(asked))

    sent = measured(measure_engine, 60, **given, engine="stream", backend="torch")

    assert len(sent.seconds) == 9
    assert sent.facts["peak_resident_bytes"] == 7
    assert next(asked) == 8


def test_stages_of_a_run_from_end_to_end_fit_into_it(given: dict[str, Any]) -> None:
    sent = measured(measure_end_to_end, **given, engine="stream")

    (total_s,) = sent.seconds
    stages, threads = sent.facts["stages"], sent.facts["thread_seconds"]
    # What one thread does after the other.
    assert 0 < stages["plan"] + stages["write"] + stages["finish"] <= total_s
    assert 0 < stages["read"] + stages["to device"] <= total_s
    assert 0 < stages["network"] + stages["from device"] + stages["decide"] <= total_s
    # At most eight threads read, and four compress.
    assert 0 < threads["file"] + threads["decode"] <= 8 * stages["read"] + 0.01
    assert 0 < threads["encode"] <= 4 * (stages["write"] + stages["finish"]) + 0.01
    assert set(sent.facts["start_up"]) == {"imports", "model"}
    assert tifffile.imread(given["out"], level=0).shape == (SIDE, SIDE)

    folder = Path(given["out"]).parent / "encode"
    encoded = measured(measure_encode, mask=given["out"], folder=str(folder))
    assert encoded.facts["px"] == SIDE**2
    assert not folder.exists()


def test_tiles_have_stages_of_their_own(given: dict[str, Any]) -> None:
    stages = measured(measure_end_to_end, **given, engine="tiles").facts["stages"]
    assert {"read", "to device", "network", "blend", "write", "finish"} <= stages.keys()


def test_the_network_alone_is_less_than_the_engine_around_it(given: dict[str, Any]) -> None:
    began = time.perf_counter()
    sent = measured(measure_network, **given, engine="auto")
    assert 0 < sum(sent.seconds) < time.perf_counter() - began
    assert sent.facts["engine"] == "stream"


def test_every_segment_is_decoded_alone(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from axialcli.image.page import Page

    decode, seen = Page.decode, set()

    def noted(page: Page, data: bytes, number: int, **more: Any) -> Any:
        seen.add(number)
        return decode(page, data, number, **more)

    monkeypatch.setattr(Page, "decode", noted)
    sent = measured(measure_decode, **given)

    assert seen == set(range(9))
    assert sent.facts["px"] == SIDE**2


def test_pixels_in_memory_are_those_of_the_picture() -> None:
    image_HWC = np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)
    source = InMemory(image_HWC)

    read = source.read(Box(2, 1, 5, 7))
    assert np.array_equal(read, image_HWC[2:5, 1:7])
    read[:] = 0
    assert image_HWC[2:5, 1:7].any()


def test_ceilings_count_their_operations_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "SIDE", {"cpu": 64})
    monkeypatch.setattr(ceilings, "LEAST_BYTES", 1 << 20)
    monkeypatch.setattr(ceilings, "last_cache_bytes", lambda: 2 << 20)

    facts = measured(measure_ceilings, device="cpu", dtypes=["float32", "bfloat16"]).facts

    assert facts["matmul float32"]["amount"] == facts["matmul bfloat16"]["amount"] == 2 * 64**3
    assert facts["memory"]["amount"] == 3 * (2 << 20)
    assert min(facts["memory"]["seconds"] + facts["matmul float32"]["seconds"]) > 0
    assert facts["machine"]["cores"] >= 1
    assert facts["machine"]["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_attention_keeps_the_grid(kind: str) -> None:
    sent = measured(measure_attention, kind=kind, side=32, device="cpu")

    assert sent.facts["tokens"] == 1024
    assert sent.seconds[0] > 0
    with torch.inference_mode():
        assert build(kind)(torch.zeros(1, 20, 24, CHANNELS)).shape == (1, 20, 24, CHANNELS)
