"""The training script: it goes on where it stopped, and leaves a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import train as script
from cost import WHOLE_LINE
from export import export
from pictures import IGNORE
from sources import batches, source_of

import axialcli
from tests.models.recipes import small_recipe


def test_a_stopped_run_goes_on_to_the_same_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe()
    script.train(recipe, data, tmp_path, tmp_path)
    whole = torch.load(tmp_path / "weights.pt", weights_only=True)

    stopped = tmp_path / "stopped"
    stopped.mkdir()
    monkeypatch.setattr(script, "SAVED_STEPS", 3)
    save = script.save

    def save_and_stop(last: Path, recipe: dict[str, Any], parts: dict[str, Any], step: int) -> None:
        save(last, recipe, parts, step)
        if step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(script, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        script.train(recipe, data, stopped, tmp_path)
    assert not (stopped / "weights.pt").exists()
    script.train(recipe, data, stopped, tmp_path)

    again = torch.load(stopped / "weights.pt", weights_only=True)
    assert whole.keys() == again.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name]), name


def test_a_training_begun_on_a_gpu_goes_on_without_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint names the device of each tensor, and torch looks for it."""
    recipe = small_recipe()
    parts = script.make_parts(recipe, "cpu", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        script.save(tmp_path / "last.pt", recipe, parts, 3)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(tmp_path / "last.pt", weights_only=True)

    again = script.make_parts(recipe, "cpu", tmp_path)

    assert script.resume(tmp_path / "last.pt", recipe, again) == 3
    for name, tensor in parts["network"].state_dict().items():
        assert torch.equal(again["network"].state_dict()[name], tensor), name


def test_a_checkpoint_of_another_recipe_is_refused(data: Path, tmp_path: Path) -> None:
    recipe = small_recipe()
    parts = script.make_parts(recipe, "cpu", tmp_path)
    script.save(tmp_path / "last.pt", recipe, parts, 3)

    assert script.resume(tmp_path / "last.pt", recipe | {"about": {"licence": "other"}}, parts) == 3
    with pytest.raises(SystemExit, match="trained with another recipe"):
        script.resume(tmp_path / "last.pt", recipe | {"seed": 4}, parts)


def test_what_was_trained_is_exported_and_can_start_another(data: Path, tmp_path: Path) -> None:
    recipe = small_recipe()
    script.train(recipe, data, tmp_path, tmp_path)
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    (tmp_path / "small").mkdir()
    export(recipe, weights, tmp_path / "small" / "model.safetensors")

    model = axialcli.load_model(tmp_path / "small" / "model.safetensors", device="cpu")
    assert model.spec.receptive_field_px is not None
    assert model.spec.network_stride == 8

    objects = small_recipe("objects", classes=3) | {"start": "small"}
    network = script.make_parts(objects, "cpu", tmp_path)["network"]
    stored = {name: tensor.half().float() for name, tensor in weights.items()}
    assert torch.equal(network.down2[0].weight, stored["down2.0.weight"])
    assert network.head.weight.shape[0] == 4 * 3


@pytest.mark.parametrize("span", [5, 33, None])
def test_attention_for_training_is_the_same_attention(span: int | None) -> None:
    """On lines that are taken whole (8 and 10 tokens), on longer ones, and the same gradients."""
    network = script.build_network(
        "axial_segmenter", classes=2, width=(4, 4, 8), heads=2, depth=2, span=span
    ).eval()
    for name, parameter in network.named_parameters():
        if name.endswith("bias_AS"):
            torch.nn.init.normal_(parameter)
    long_px = 8 * (WHOLE_LINE + 1)
    for shape in ((2, 3, 64, 80), (1, 3, 16, long_px), (1, 3, long_px, 16)):
        image, found = torch.randn(shape), []
        for _ in range(2):
            network.zero_grad()
            out = network(image)
            out.square().mean().backward()
            found.append((out.detach(), [parameter.grad.clone() for parameter in network.parameters()]))
            script.attend_at_once(network)
        (want, want_gradients), (got, gradients) = found
        assert (got - want).abs().max() < 1e-5
        for gradient, want_gradient in zip(gradients, want_gradients, strict=True):
            assert torch.allclose(gradient, want_gradient, atol=1e-5, rtol=1e-3)
        for module in network.modules():
            module.__dict__.pop("forward", None)


@pytest.mark.parametrize(("kind", "classes"), [("nuclei", 2), ("objects", 3)])
def test_a_batch_depends_on_seed_and_step_alone(data: Path, kind: str, classes: int) -> None:
    recipe = small_recipe(kind, classes)

    whole = list(batches(recipe, source_of(recipe, data), 0))
    late = list(batches(recipe, source_of(recipe, data), 3))

    assert [image.shape for image, _ in whole] == [(2, 32, 32, 3)] * 4 + [(1, 48, 48, 3)] * 2
    for (image, label), (again, label_again) in zip(whole[3:], late, strict=True):
        assert torch.equal(image, again)
        assert torch.equal(label, label_again)
    assert set(torch.cat([label.flatten() for _, label in whole]).tolist()) <= {*range(classes), IGNORE}
    assert not torch.equal(whole[0][0], whole[1][0])
