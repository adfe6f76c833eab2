"""Every model that axial ships: its file, its card, its recipe, and what it answers to a stored picture."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cost import flops_per_pixel
from example import answer
from PIL import Image
from train import read_recipe

import axialcli
from axialcli.backends.model_file import count_parameters, file_hash, read_model, read_spec
from axialcli.backends.zoo import find_model, model_names
from axialcli.engine.stream import stream_facts

MODELS = Path(__file__).parents[2] / "models"
EXAMPLES = Path(__file__).parent / "examples"
NAMES = sorted(path.parent.name for path in MODELS.glob("*/model.safetensors"))
MOST_BYTES = 15e6

every_model = pytest.mark.parametrize("name", NAMES)


def card(name: str) -> str:
    return (MODELS / name / "README.md").read_text(encoding="utf-8")


def facts(name: str) -> dict[str, str]:
    """The first table of the card: what is said of network, size, cost and so on."""
    return dict(re.findall(r"^\| ([a-z][a-z ]*) \| (.+) \|$", card(name).split("\n## ")[0], re.MULTILINE))


def number(text: str, unit: str) -> float:
    (found,) = re.findall(rf"([\d.,]+) {unit}", text)[:1]
    return float(found.replace(",", ""))


def test_the_zoo_lists_the_folders_that_hold_weights() -> None:
    assert model_names() == NAMES
    assert "nuclei" in NAMES


@every_model
def test_the_file_is_small_and_its_weights_are_float16(name: str) -> None:
    path = find_model(name)

    assert path.stat().st_size < MOST_BYTES
    assert {tensor.dtype for tensor in read_model(path)[1].values()} == {torch.float16}
    assert {p.dtype for p in axialcli.load_model(name, device="cpu").network.parameters()} == {torch.float32}


@every_model
def test_the_file_says_what_its_recipe_says(name: str) -> None:
    recipe, spec = read_recipe(MODELS / name), read_spec(find_model(name))
    network = dict(recipe["network"])

    assert (spec.name, spec.task) == (name, recipe["task"]) == (recipe["name"], spec.task)
    assert spec.architecture == network.pop("architecture")
    assert json.loads(spec.to_json())["architecture"] == {"name": spec.architecture, **network}
    assert [entry.name for entry in spec.classes] == [entry["name"] for entry in recipe["classes"]]
    assert (spec.input.mpp, list(spec.input.channels)) == (
        recipe["input"].get("mpp"),
        recipe["input"]["channels"],
    )
    assert list(spec.input.mpp_range or ()) == recipe["input"]["mpp_range"]
    assert spec.licence == recipe["about"]["licence"] == "Apache-2.0"
    assert list(spec.training_data) == recipe["about"]["training_data"]


@every_model
def test_the_card_says_what_a_user_has_to_know(name: str) -> None:
    text = card(name)

    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Quality", "Use and limits", "Training"]
    assert f"python models/measure.py models/{name} DATA" in text
    assert f"python models/train.py models/{name} DATA" in text
    assert not re.search(r"(?<![\w.])/(?:tmp|home|work|root)/", text)
    said = facts(name)
    assert said["licence"].startswith("Apache-2.0")
    for source in tomllib.loads((MODELS / name / "recipe.toml").read_text())["about"]["training_data"]:
        licence = next(kind for kind in ("CC0", "CC BY 4.0", "MIT") if kind in source)
        assert licence in text.split("## Training")[1]
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert (MODELS / name / picture).is_file()


@every_model
def test_the_file_and_the_card_give_the_same_figures(name: str) -> None:
    """Those of the file were written by measure.py; the card has them rounded, in a line of their own."""
    quality, text = read_spec(find_model(name)).quality, card(name).split("## Quality")[1].split("\n## ")[0]
    lines = [(line, [float(one) for one in re.findall(r"\b\d\.\d{3}\b", line)]) for line in text.splitlines()]

    def given(figures: Iterable[float], word: str = "") -> bool:
        # The file has four digits.
        return any(
            word in line and all(any(abs(one - other) < 0.00055 for other in found) for one in figures)
            for line, found in lines
        )

    assert quality
    for group in [quality, *groups(quality)]:
        figures = {key: value for key, value in group.items() if isinstance(value, float)}
        assert given(figures.values()) or all(given([one], key) for key, one in figures.items()), group


def groups(quality: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """All groups of figures within others."""
    for value in quality.values():
        if isinstance(value, dict):
            yield value
            yield from groups(value)


@every_model
def test_the_cards_figures_of_the_network_are_the_networks(name: str) -> None:
    said, spec = facts(name), read_spec(find_model(name))

    assert number(said["size"], "million") * 1e6 == pytest.approx(
        count_parameters(find_model(name)), rel=0.01
    )
    assert number(said["size"], "MB") * 1e6 == pytest.approx(find_model(name).stat().st_size, rel=0.1)
    assert number(said["cost"], "kFLOP") * 1e3 == pytest.approx(
        flops_per_pixel(read_recipe(MODELS / name)), rel=0.02
    )
    assert all(word in said["input"] for word in ("RGB", "micron"))
    if spec.task == "classification":
        return
    assert number(said["receptive field"], "pixels") == spec.receptive_field_px
    network = axialcli.load_model(name, device="cpu").network
    assert network is not None
    state = stream_facts(network, len(spec.input.channels)).state_bytes_per_px
    assert number(said["state of a stream"], "kB") * 1e3 == pytest.approx(state, rel=0.05)
    assert state <= 40_000


@every_model
def test_the_answer_to_a_stored_picture_is_the_stored_one(name: str) -> None:
    folder = EXAMPLES / name
    stored = json.loads((folder / "answer.json").read_text())
    image_HWC = np.asarray(Image.open(folder / "image.png"))
    wanted_HW = np.asarray(Image.open(folder / "mask.png"))

    mask_HW, means = answer(find_model(name), image_HWC)

    assert file_hash(find_model(name)) == stored["sha256"]
    assert mask_HW.shape == wanted_HW.shape
    # Other processors round otherwise, and a pixel at a tie may go either way.
    assert np.count_nonzero(mask_HW != wanted_HW) <= 0.001 * mask_HW.size
    assert means == pytest.approx(stored["mean_probability"], abs=1e-3)
    assert stored["source"]
