"""Model.predict: the pixel values go in as they were read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from axialcli.backends.torch_model import fold_batch_norms
from axialcli.config import ClassInfo
from axialcli.errors import ModelError
from axialcli.nn import build_network
from tests.networks import small_model, small_spec, small_weights


def test_probabilities_equal_the_formula_in_float64() -> None:
    model = small_model(classes=3)
    weights = small_weights(model.spec)
    image_BCHW = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 7), dtype=np.uint8)

    values = (image_BCHW / 255 - 0.5) / 0.25
    matrix = weights["head.weight"].double().numpy()[:, :, 0, 0]
    logits = np.einsum("kc,bchw->bkhw", matrix, values) + weights["head.bias"].double().numpy()[:, None, None]
    want = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    assert np.abs(model.predict(image_BCHW, logits=True) - logits).max() < 1e-5
    probs = model.predict(image_BCHW)
    assert probs.dtype == np.float32
    assert np.abs(probs - want).max() < 1e-6


def test_uint16_and_float_mean_the_same_picture_as_uint8() -> None:
    model = small_model()
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 6, 6), dtype=np.uint8)

    want = model.predict(image)

    assert np.abs(model.predict(image.astype(np.uint16) * 257) - want).max() < 1e-6
    assert np.abs(model.predict(image.astype(np.float32)) - want).max() < 1e-6


@pytest.mark.parametrize(
    "seen",
    [
        lambda image: image[:, :, ::-1, ::-1],
        lambda image: image.astype(">u2"),
        lambda image: image.astype(">f4"),
        lambda image: np.broadcast_to(image[:, :1], image.shape),
    ],
)
def test_strides_and_byte_order_do_not_matter(
    seen: Callable[[NDArray[np.uint8]], NDArray[np.generic]],
) -> None:
    model = small_model()
    image = seen(np.random.default_rng(0).integers(0, 256, (1, 3, 6, 5), dtype=np.uint8))
    plain = np.array(image, dtype=image.dtype.newbyteorder("="), order="C")

    assert np.array_equal(model.predict(image), model.predict(plain))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinity_count_as_0_and_stay_in_the_image(dtype: type[np.generic]) -> None:
    model = small_model()
    image = np.full((1, 3, 2, 3), 77, dtype)
    image[0, 0, 0] = [np.nan, np.inf, -np.inf]
    given = image.copy()

    probs = model.predict(image)

    assert np.array_equal(probs, model.predict(np.where(np.isfinite(image), image, 0).astype(dtype)))
    assert np.array_equal(image, given, equal_nan=True)


@pytest.mark.parametrize("dtype", ["O", "U1", "c8", "i4", "f2", "M8[s]"])
def test_pixels_of_other_types_are_refused(dtype: str) -> None:
    with pytest.raises(ModelError, match=r"pixels of type .* are not supported"):
        small_model().predict(np.zeros((1, 3, 2, 2), dtype))


def test_grey_is_replicated_for_three_channels() -> None:
    model = small_model()
    grey = np.random.default_rng(0).integers(0, 256, (1, 1, 6, 6), dtype=np.uint8)

    assert np.array_equal(model.predict(grey), model.predict(np.repeat(grey, 3, axis=1)))


def test_a_tensor_gives_a_tensor() -> None:
    assert isinstance(small_model().predict(torch.zeros((1, 3, 4, 4), dtype=torch.uint8)), torch.Tensor)


def test_wrong_channels_are_refused_by_name() -> None:
    with pytest.raises(
        ModelError, match=r"wants 3 channels .* the picture has 5: choose them with --channels"
    ):
        small_model().predict(np.zeros((1, 5, 4, 4), np.uint8))


def test_folding_batch_norms_changes_nothing_but_rounding() -> None:
    spec = small_spec("axial_segmenter", width=(4, 8, 8), depth=1, heads=2, span=5)
    plain = build_network(spec.architecture, **spec.config).eval()
    plain.load_state_dict(small_weights(spec))
    folded = build_network(spec.architecture, **spec.config).eval()
    folded.load_state_dict(small_weights(spec))
    fold_batch_norms(folded)
    image = torch.randn(1, 3, 40, 33, dtype=torch.float64)

    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert (plain.double()(image) - folded.double()(image)).abs().max() < 1e-5


@pytest.mark.parametrize(("classes", "dtype"), [(3, torch.uint8), (256, torch.uint8), (257, torch.uint16)])
def test_the_class_of_a_pixel_and_of_a_whole_picture_is_the_most_probable(
    classes: int, dtype: torch.dtype
) -> None:
    entries = tuple(ClassInfo(name=f"c{label}", colour=(0, 0, 0)) for label in range(classes))
    model = small_model()
    model.spec = dataclasses.replace(model.spec, classes=entries)
    probs_KHW = torch.rand((classes, 70, 3), generator=torch.Generator().manual_seed(0))
    probs_KHW[-1, 0] = probs_KHW[-2, 0] = 2  # a tie goes to the lower class

    labels_HW = model.decide(probs_KHW)

    assert labels_HW.dtype == dtype
    for y, x in np.ndindex(70, 3):
        values = probs_KHW[:, y, x].tolist()
        label = model.decide(probs_KHW[:, y, x])
        assert (label.shape, label.dtype) == ((), dtype)
        assert int(label) == int(labels_HW[y, x]) == values.index(max(values))


def test_more_classes_than_16_bits_tell_apart_are_refused() -> None:
    spec = small_spec("pixel_classifier")
    entry = ClassInfo(name="c", colour=(0, 0, 0))
    assert len(dataclasses.replace(spec, classes=(entry,) * 65_536).classes) == 65_536
    with pytest.raises(ModelError, match="65537 classes; a mask holds 2 to 65536"):
        dataclasses.replace(spec, classes=(entry,) * 65_537)


def test_pixels_in_every_layout_are_scaled_alike() -> None:
    model = small_model()
    image_BCHW = torch.randint(0, 256, (2, 3, 9, 11), dtype=torch.uint8)
    wide_BHWC = torch.zeros((2, 9, 20, 3), dtype=torch.uint8)
    wide_BHWC[:, :, 4:15] = image_BCHW.permute(0, 2, 3, 1)
    want = (image_BCHW.double() / 255 - 0.5) / 0.25

    for given in (
        image_BCHW,
        image_BCHW.contiguous(memory_format=torch.channels_last),
        wide_BHWC[:, :, 4:15].permute(0, 3, 1, 2),
    ):
        before = given.clone()
        assert (model.normalise(given) - want).abs().max() < 1e-6
        assert torch.equal(given, before)


@pytest.mark.parametrize("classes", [2, 5])
def test_classes_from_logits_are_those_from_probabilities(classes: int) -> None:
    model = small_model(classes=classes)
    logits_BKHW = torch.randn(1, classes, 13, 17)
    for given in (logits_BKHW, logits_BKHW.contiguous(memory_format=torch.channels_last)):
        labels_HW = model.decide_logits(given)
        assert torch.equal(labels_HW, model.decide(given.softmax(1)[0]))
        assert np.array_equal(labels_HW.numpy(), given[0].numpy().argmax(0))


def test_a_threshold_is_held_against_probabilities() -> None:
    model = small_model(classes=2)
    output = dataclasses.replace(model.spec.output, threshold=0.9)
    model.spec = dataclasses.replace(model.spec, output=output)
    logits_BKHW = torch.tensor([0.0, 2.0, 2.5]).view(1, 1, 1, 3) * torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)

    # e^2 / (1 + e^2) = 0.88, e^2.5 / (1 + e^2.5) = 0.92.
    assert model.decide_logits(logits_BKHW).tolist() == [[0, 0, 1]]


def test_of_equal_classes_the_lowest_is_taken() -> None:
    model = small_model(classes=4)
    assert model.decide(torch.tensor([0.1, 0.4, 0.4, 0.1]).view(4, 1, 1)).tolist() == [[1]]
