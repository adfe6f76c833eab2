"""Trainings of equal time, and patients that are left out."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import timed
from ablation import VARIANTS, one_variant, table, variant
from data_nuclei import read_nuclei
from PIL import Image
from sources import pictures_of_nuclei
from train import read_recipe, train
from unseen_patients import main as measure_unseen_patients
from unseen_patients import measured, patients, recipe_for_unseen, write_mean
from unseen_patients import table as table_of_patients

import axialcli
from axialcli.backends.model_file import read_model, write_model
from tests.models.recipes import small_recipe
from tests.networks import small_spec, small_weights

ZOO = Path(__file__).parents[2] / "models"


def test_a_dearer_step_gets_fewer_of_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock stands still but for the steps, each of which takes as long as the recipe says."""
    now = 0.0

    def step(recipe: dict[str, float], data: Path, run: Path, zoo: Path) -> None:
        nonlocal now
        now += 100 + recipe["costs_s"] * recipe["phase"][0]["steps"]  # type: ignore[index]
        if run.parent == tmp_path:
            train(recipe, data, run, zoo)

    monkeypatch.setattr(timed, "train", step)
    monkeypatch.setattr(timed.time, "process_time", lambda: now)
    cheap = timed.train_for(small_recipe() | {"costs_s": 2}, 1, data, tmp_path / "cheap", tmp_path)
    dear = timed.train_for(small_recipe() | {"costs_s": 3}, 1.5, data, tmp_path / "dear", tmp_path)

    assert cheap == {"steps": 30, "minutes": round((100 + 60) / 60, 2)}
    assert dear == {"steps": 30, "minutes": round((100 + 90) / 60, 2)}
    assert timed.train_for(small_recipe() | {"costs_s": 2}, 1, data, tmp_path / "cheap", tmp_path) == {}


def test_a_variant_is_trained_measured_and_put_into_the_table(data: Path, tmp_path: Path) -> None:
    recipe = small_recipe()
    recipe["network"] |= {"attention": "none"}
    folder = tmp_path / "attention-removed.3"

    found = one_variant(recipe, 0.001, data, folder, tmp_path)
    (folder / "figures.json").write_text(json.dumps({"variant": "attention removed", "seed": 3, **found}))

    assert found["steps"] == timed.MANY
    assert found["flop_per_px"] > 0
    model = axialcli.load_model(folder / "model.safetensors", device="cpu")
    assert model.spec.config["attention"] == "none"
    heading, _, line = table(tmp_path).splitlines()
    assert heading.split(" | ")[-3:] == ["dsb2018", "he", "tnbc |"]
    assert line.startswith("| attention removed | 3 | ")
    assert line.endswith(f" | {found['figures']['tnbc']['dice']:.3f} |")


def test_variants_are_the_recipe_with_another_network() -> None:
    own = variant(ZOO / "nuclei", "span 33")
    for name, change in VARIANTS.items():
        other = variant(ZOO / "nuclei", name)
        if name == "U-Net":
            assert other["network"]["architecture"] == "unet"
        else:
            assert other["network"] == own["network"] | change
        assert other["phase"] == own["phase"]
        assert "start" not in other


def test_an_unseen_patient_is_in_no_sample(data: Path) -> None:
    assert patients(data) == ["1", "2"]
    for patient, other in (("1", "2_1"), ("2", "1_1")):
        recipe = small_recipe() | {"unseen_patients": [patient]}
        names = [one.name for one in pictures_of_nuclei(recipe, data)]
        assert names == ["a", other]
    assert [one.name for one in pictures_of_nuclei(small_recipe(), data)] == ["a", "1_1"]
    assert [one.name for one in read_nuclei(data, "val")] == ["b", "2_1"]


def test_no_training_on_the_way_to_a_patient_has_seen_him(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes: dict[str, dict[str, Any]] = {}
    means: list[tuple[list[Path], Path]] = []

    def noted(recipe, minutes, data, run, zoo):  # type: ignore[no-untyped-def]
        recipes[run.relative_to(tmp_path).as_posix()] = recipe

    monkeypatch.setattr("unseen_patients.train_for", noted)
    monkeypatch.setattr("unseen_patients.patients", lambda data: ["1", "2", "3"])
    monkeypatch.setattr("unseen_patients.measured", lambda *rest: [0.5])
    monkeypatch.setattr("unseen_patients.write_mean", lambda files, folder: means.append((files, folder)))
    monkeypatch.setattr("axialcli.load_model", lambda *rest, **more: None)
    for patient in "123":
        (tmp_path / f"without-{patient}").mkdir()
    # The logger belongs to the process: other tests read what it says.
    monkeypatch.setattr(logging.getLogger("axial"), "setLevel", lambda level: None)
    command = ["unseen", str(ZOO / "nuclei"), str(data), "--run", str(tmp_path), "--minutes", "1", "2"]
    monkeypatch.setattr("sys.argv", [*command, "--half", "2"])
    measure_unseen_patients()
    assert recipes.keys() == {"dsb2018", "half-2", "time-1/without-2", "time-2/without-2"}
    assert [folder.relative_to(tmp_path).as_posix() for _, folder in means] == [
        "mean-1/without-2",
        "mean-2/without-2",
    ]
    files = [[file.parent.relative_to(tmp_path).as_posix() for file in files] for files, _ in means]
    assert files == [["half-2", "time-1/without-2"], ["mean-1/without-2", "time-2/without-2"]]
    monkeypatch.setattr("sys.argv", command)
    measure_unseen_patients()

    for patient in "123":
        name, way = f"time-2/without-{patient}", []
        while name != "dsb2018":
            assert patient in recipes[name]["unseen_patients"]
            way.append(name)
            name = recipes[name]["start"].replace("mean-", "time-")
        assert len(way) == 3
        assert len({recipes[name]["seed"] for name in way}) == 3
    assert "tnbc" not in recipes["dsb2018"]["sampling"]
    assert {name for name, recipe in recipes.items() if "dice_of_each_sample" not in recipe} == {"dsb2018"}


def test_what_is_different_for_unseen_patients_is_said_in_the_recipe() -> None:
    own, changed = read_recipe(ZOO / "nuclei"), recipe_for_unseen(ZOO / "nuclei")

    assert "unseen" not in own
    assert "dice_of_each_sample" not in own
    assert {key for key in changed if own.get(key) != changed[key]} == {
        "dice_of_each_sample",
        "sampling",
        "augmentation",
    }
    assert changed["augmentation"]["jpeg"] == own["augmentation"]["jpeg"]
    assert changed["augmentation"]["stains"] > 0


def test_patients_count_alike_however_many_pictures_they_have(tmp_path: Path) -> None:
    for patient, found in {"01": [0.5, 0.7, 0.9], "02": [0.3]}.items():
        (tmp_path / f"without-{patient}").mkdir()
        (tmp_path / f"without-{patient}" / "figures.json").write_text(json.dumps(found))

    assert table_of_patients(tmp_path, "off").splitlines()[2:] == [
        "| 01 | 3 | 0.700 | 0.500 |",
        "| 02 | 1 | 0.300 | 0.300 |",
        "| mean of pictures | 4 | 0.600 | 0.300 |",
        "| mean of patients | 4 | 0.500 | 0.300 |",
    ]


def test_a_mean_of_models_is_one_with_the_mean_of_their_weights(tmp_path: Path) -> None:
    files = []
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        spec = small_spec("pixel_classifier")
        files.append(tmp_path / str(seed) / "model.safetensors")
        write_model(files[-1], spec, small_weights(spec, seed))

    write_mean(files, tmp_path / "mean")

    (_, first), (_, second), (spec, mean) = map(read_model, (*files, tmp_path / "mean" / "model.safetensors"))
    assert spec.name == "small"
    assert mean.keys() == first.keys()
    for name, tensor in mean.items():
        wanted = (first[name].double() + second[name].double()) / 2
        assert (tensor.double() - wanted).abs().max() <= 2e-3 * max(1, wanted.abs().max())
        assert tensor.dtype == first[name].dtype


def test_an_unseen_patient_is_what_is_measured(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mask that comes back is all nucleus, so that Dice is known."""
    seen = []

    def all_nucleus(image_HWC, model, folder, *, mpp, tta):  # type: ignore[no-untyped-def]
        seen.append((image_HWC.shape, mpp, tta))
        Image.fromarray(image_HWC[..., 0] * 0 + 1).save(folder / "mask.png")
        return folder / "mask.png"

    monkeypatch.setattr("unseen_patients.predict_image", all_nucleus)
    share = (100 + 100 + 140) / (40 * 50)
    recipe = small_recipe()

    assert measured(recipe, None, "2", data, "turns") == [  # type: ignore[arg-type]
        pytest.approx(2 * share / (1 + share))
    ]
    assert seen == [((40, 50, 3), 0.25, "turns")]
