"""Checkpoints of public code: what training scripts save around weights, and what a file does not say."""

from __future__ import annotations

import argparse
import json
import logging
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import axialcli
from axialcli.backends.model_file import count_parameters, read_model, read_spec
from axialcli.backends.torch_model import fold
from axialcli.cli.app import run
from axialcli.errors import ModelError, UsageError
from axialcli.hints import ModelHints
from axialcli.nn import build_network
from tests.nn.families.made_up import filled
from tests.nn.families.test_medt import public_keys

CONFIG = {"base_dim": 3, "stage_blocks": (1, 1, 1, 1), "trained_side": 32, "answers": 4}


@pytest.fixture(autouse=True)
def logger_as_it_was() -> Iterator[None]:
    """The command line lets the logger speak to the terminal of the moment."""
    logger = logging.getLogger("axial")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Those of a small VMINet, running statistics far from where they begin."""
    torch.manual_seed(3)
    network = build_network("vminet", **CONFIG)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 3)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_()
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.fixture(scope="module")
def expected(weights: dict[str, Tensor]) -> Tensor:
    """What the same weights answer, put in directly."""
    network = build_network("vminet", **CONFIG).eval()
    network.load_state_dict(weights)
    fold(network)
    with torch.inference_mode():
        return network(picture())


def picture() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def answer(path: Path, hints: ModelHints | None = None) -> Tensor:
    model = axialcli.load_model(path, device="cpu", hints=hints)
    with torch.inference_mode():
        return model.run(picture())


def prefixed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in weights.items()}


def ways(weights: dict[str, Tensor]) -> dict[str, Any]:
    """As DataParallel, csrhddlam's, timm's and DeiT's scripts save them."""
    noise = {name: tensor + 1 for name, tensor in weights.items()}
    return {
        "plain": weights,
        "parallel": prefixed(weights),
        "net": {"net": prefixed(weights), "optim": {"state": {}, "param_groups": []}, "epoch": 129},
        "model": {"model": weights},
        "timm": {
            "epoch": 3,
            "arch": "VMINet_Ti",
            "state_dict": noise,
            "state_dict_ema": weights,
            "args": argparse.Namespace(lr=0.1, model="VMINet_Ti", mean=None, layers=[1, 2]),
            "metric": 70.7,
            "version": 2,
        },
    }


@pytest.mark.parametrize("way", ["plain", "parallel", "net", "model", "timm"])
def test_a_checkpoint_answers_as_its_weights_do_however_it_was_saved(
    tmp_path: Path, weights: dict[str, Tensor], expected: Tensor, way: str
) -> None:
    path = tmp_path / "some.pth.tar"
    torch.save(ways(weights)[way], path)

    assert torch.allclose(answer(path), expected, atol=1e-6)
    spec = read_spec(path)
    assert (spec.name, spec.task, spec.architecture) == ("some", "classification", "vminet")
    assert spec.input.size == (32, 32)
    assert len(spec.classes) == 4
    assert spec.notes[0].startswith("read as VMINet")
    assert count_parameters(path) == sum(
        parameter.numel() for parameter in build_network("vminet", **CONFIG).parameters()
    )


def test_weights_of_safetensors_without_a_description_are_told_by_their_keys(
    tmp_path: Path, weights: dict[str, Tensor], expected: Tensor
) -> None:
    save_file(prefixed(weights), tmp_path / "some.safetensors")

    assert torch.allclose(answer(tmp_path / "some.safetensors"), expected, atol=1e-6)


def test_a_description_beside_the_file_comes_before_its_keys(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    path = tmp_path / "some.pth"
    torch.save(weights, path)
    said = json.loads(read_spec(path).to_json()) | {"name": "as it says"}
    path.with_name("some.pth.json").write_text(json.dumps(said))

    assert read_spec(path).name == "as it says"
    with pytest.raises(UsageError, match="leave out --classes"):
        read_spec(path, ModelHints(classes=4))


def test_hints_say_what_the_file_does_not(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    path = tmp_path / "some.pth"
    torch.save(weights, path)
    hints = ModelHints(classes=("a", "b", "c", "d"), mpp=0.5, mean=(0.1,), std=(0.2, 0.3, 0.4))

    spec = axialcli.load_model(path, device="cpu", hints=hints).spec

    assert [entry.name for entry in spec.classes] == ["a", "b", "c", "d"]
    assert spec.input.mpp == 0.5
    assert spec.input.mean == (0.1, 0.1, 0.1)
    assert spec.input.std == (0.2, 0.3, 0.4)


@pytest.mark.parametrize(
    ("hints", "message"),
    [
        ({"classes": 3}, "--classes gives 3, VMINet of base width 3"),
        ({"classes": ("a", "b")}, "--classes gives 2"),
        (
            {"task": "segmentation", "stride": 4},
            "leave out --task, --output-stride, the weights are",
        ),
        ({"positions": "clip"}, "--positions is 'clip', but VMINet of base width 3"),
        ({"threshold": 0.4}, "--threshold needs two classes, VMINet of base width 3"),
        ({"mean": (1, 2), "std": (1, 2)}, "--input-range gives 2 values, there are 3 channels"),
    ],
)
def test_hints_that_contradict_the_family_are_refused(
    tmp_path: Path, weights: dict[str, Tensor], hints: dict[str, Any], message: str
) -> None:
    path = tmp_path / "some.pth"
    torch.save(weights, path)

    with pytest.raises(UsageError) as refused:
        axialcli.load_model(path, device="cpu", hints=ModelHints(**hints))
    assert str(refused.value).startswith(f"{path}: ")
    assert message in str(refused.value)


def test_positions_reach_further_on_request_and_the_report_says_so(
    tmp_path: Path, weights: dict[str, Tensor], expected: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "some.pth"
    torch.save(weights, path)
    hints = ModelHints(positions="interpolate")

    with caplog.at_level(logging.INFO, "axial"):
        model = axialcli.load_model(path, device="cpu", hints=hints)

    assert torch.allclose(answer(path, hints), expected, atol=1e-6)
    with torch.inference_mode():
        assert model.run(torch.rand(1, 3, 48, 64)).shape == (1, 4)
    assert model.spec.input.size is None
    said = "positions beyond 32 x 32 pixels by 'interpolate': quality there is not proven"
    assert said in model.describe()["notes"]
    assert said in caplog.text


def test_without_the_option_a_network_keeps_to_its_own_size(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    path = tmp_path / "some.pth"
    torch.save(weights, path)
    model = axialcli.load_model(path, device="cpu")

    assert model.spec.input.size == (32, 32)
    with torch.inference_mode(), pytest.raises(ValueError, match="are for 8 x 8 tokens"):
        model.run(torch.rand(1, 3, 48, 64))


def sparse(tensor: Tensor) -> Tensor:
    return tensor.to_sparse()


def repeated(tensor: Tensor) -> Tensor:
    """A few bytes that claim to be many numbers."""
    return torch.zeros(1).expand(8, 3, 7, 10**11)


@pytest.mark.parametrize("how", [sparse, repeated])
def test_tensors_that_are_no_plain_numbers_are_refused_before_anything_is_made_of_them(
    tmp_path: Path, weights: dict[str, Tensor], how: Any
) -> None:
    path = tmp_path / "some.pth"
    torch.save(weights | {"stem.0.conv.weight": how(weights["stem.0.conv.weight"])}, path)

    with pytest.raises(ModelError, match=r"stem\.0\.conv\.weight is no plain tensor of numbers"):
        read_model(path)


def test_a_file_whose_parts_are_packed_is_not_unpacked(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    path = tmp_path / "some.pth"
    torch.save(weights, tmp_path / "stored.pth")
    with (
        zipfile.ZipFile(tmp_path / "stored.pth") as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))

    with pytest.raises(ModelError, match="its parts are packed"):
        read_model(path)


def test_a_page_of_text_is_no_pytorch_file(tmp_path: Path) -> None:
    (tmp_path / "some.pth").write_text("<html>404</html>")

    with pytest.raises(ModelError, match="not a PyTorch file"):
        read_model(tmp_path / "some.pth")


def test_a_description_beside_a_public_file_means_the_network_that_is_made_of_it(tmp_path: Path) -> None:
    """Of three classes, so that all weights fit as they are; only their order of channels does not."""
    torch.manual_seed(0)
    path = tmp_path / "net.pth"
    torch.save(public_unet(), path)
    image_BCHW = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        want = axialcli.load_model(path, device="cpu").run(image_BCHW)
        path.with_name("net.pth.json").write_text(read_spec(path).to_json())
        found = axialcli.load_model(path, device="cpu").run(image_BCHW)

    assert torch.equal(found, want)
    assert (want - want.mean((2, 3), keepdim=True)).abs().max() > 1e-3


def public_unet() -> dict[str, Tensor]:
    return filled({k: s for k, s in public_keys("gated", 32, 3).items() if not k.endswith("flatten_index")})


def test_a_converted_file_takes_positions_as_well(tmp_path: Path) -> None:
    torch.save(public_unet(), tmp_path / "net.pth")
    out = tmp_path / "made.safetensors"
    assert run(["convert", str(tmp_path / "net.pth"), str(out)]) == 0

    model = axialcli.load_model(out, device="cpu", hints=ModelHints(positions="local"))

    assert model.spec.input.size is None
    assert model.spec.config["beyond"] == "local"
    assert "quality there is not proven" in model.spec.notes[-1]
    with torch.inference_mode():
        assert model.run(torch.rand(1, 3, 48, 80)).shape == (1, 3, 48, 80)
    with pytest.raises(UsageError, match="leave out --classes"):
        read_spec(out, ModelHints(positions="local", classes=3))


def test_a_network_of_no_one_resolution_asks_for_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(public_unet(), tmp_path / "net.pth")
    assert run(["sample", str(tmp_path / "s.tif"), "--size", "64"]) == 0
    command = ["predict", str(tmp_path / "s.tif"), "--out", str(tmp_path / "m.tif")]
    command += ["--model", str(tmp_path / "net.pth")]

    assert run(command) == 2
    assert "say one with --mpp or --level" in capsys.readouterr().err
    assert run([*command, "--mpp", "0.5"]) == 0
    assert json.loads((tmp_path / "m.tif.json").read_text())["output"]["size"] == [32, 32]


def test_notes_that_an_option_makes_untrue_are_left_out(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    torch.save(weights, tmp_path / "some.pth")

    assert any("ImageNet's" in note for note in read_spec(tmp_path / "some.pth").notes)
    hints = ModelHints(range="0-1")
    assert not any("ImageNet's" in note for note in read_spec(tmp_path / "some.pth", hints).notes)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"net": {"a": torch.zeros(1)}, "args": Evil()}, "carries code"),
        ({"epoch": 3}, "something else than named weights"),
        ([torch.zeros(1)], "something else than named weights"),
        ({"conv.weight": torch.zeros(2, 2)}, "those of no family that axial knows (conv.weight …)"),
    ],
)
def test_what_is_no_checkpoint_of_a_family_is_one_clear_line(
    tmp_path: Path, saved: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "some.pth"
    torch.save(saved, path)

    with pytest.raises(ModelError) as refused:
        read_model(path)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "executed" not in capsys.readouterr().out


def test_a_plain_pickle_with_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "some.pth").write_bytes(pickle.dumps(Evil()))

    with pytest.raises(ModelError):
        read_model(tmp_path / "some.pth")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("stages.1.1.sum.weight"), "lacks the weights stages.1.1.sum.weight"),
        (lambda w: w.update({"extra.weight": torch.zeros(1)}), "has unknown weights extra.weight"),
        (lambda w: w.update({"head.bias": torch.zeros(5)}), "head.bias has shape (5,)"),
    ],
)
def test_keys_and_shapes_that_do_not_fit_are_one_clear_line(
    tmp_path: Path, weights: dict[str, Tensor], change: Any, message: str
) -> None:
    path, changed = tmp_path / "some.pth", dict(weights)
    change(changed)
    torch.save(changed, path)

    with pytest.raises(ModelError) as refused:
        axialcli.load_model(path, device="cpu")
    assert str(refused.value).startswith(f"{path}: {message}")


def test_a_converted_checkpoint_is_a_model_by_itself(
    tmp_path: Path, weights: dict[str, Tensor], expected: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "some.pth", tmp_path / "made.safetensors"
    torch.save(prefixed(weights), path)

    assert run(["convert", str(path), str(out), "--classes", "a,b,c,d=#ff0000", "--model-mpp", "0.5"]) == 0
    assert "vminet" in capsys.readouterr().out
    assert torch.allclose(answer(out), expected, atol=1e-6)
    spec = read_spec(out)
    assert [entry.name for entry in spec.classes] == ["a", "b", "c", "d"]
    assert spec.input.mpp == 0.5
    assert spec.notes[0].startswith("read as VMINet")

    before = out.read_bytes()
    assert run(["convert", str(path), str(out)]) == 5
    assert out.read_bytes() == before
    assert run(["convert", str(path), str(out), "--force", "--dtype", "float16"]) == 0
    assert {tensor.dtype for tensor in read_model(out)[1].values()} == {torch.float16}
    assert out.stat().st_size < len(before)


def test_weights_that_float16_cannot_hold_are_not_written(
    tmp_path: Path, weights: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "some.pth", tmp_path / "made.safetensors"
    torch.save(weights | {"norm.running_var": torch.full((24,), 1e5)}, path)

    assert run(["convert", str(path), str(out), "--dtype", "float16"]) == 4
    assert "norm.running_var has numbers that torch.float16 does not hold" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["some.pth"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["some.pth", "made.pth"], 2, "a model file ends in .safetensors"),
        (["none.pth", "made.safetensors"], 4, "none.pth"),
        (["net.onnx", "made.safetensors"], 4, "a network of its own"),
    ],
)
def test_what_cannot_be_converted_is_one_line(
    tmp_path: Path, weights: dict[str, Tensor], capsys: pytest.CaptureFixture[str],
    arguments: list[str], code: int, message: str,
) -> None:  # fmt: skip
    torch.save(weights, tmp_path / "some.pth")
    (tmp_path / "net.onnx").write_bytes(b"")

    assert run(["convert", *(str(tmp_path / name) for name in arguments)]) == code
    assert message in capsys.readouterr().err


def test_models_show_says_what_was_found(
    tmp_path: Path, weights: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "some.pth"
    torch.save(weights, path)

    assert run(["models", "show", str(path), "--classes", "a,b,c,d"]) == 0
    out = capsys.readouterr().out
    assert "read as VMINet of base width 3" in out
    assert '"a"' in out
