"""Models of other kinds than our own: coarse answers, fixed sizes, one answer per tile.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from axialcli.backends import Model
from axialcli.backends.spec import InputSpec, ModelSpec, OutputSpec
from axialcli.config import ClassInfo

COLOURS = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
MEAN, STD = 0.5, 0.25


class ForeignModel(Model):
    """A network that is not ours behind the interface of a Model, on the CPU; keeps the shapes it saw."""

    backend = "foreign"

    def __init__(
        self,
        own: nn.Module,
        *,
        classes: int = 3,
        task: str = "segmentation",
        stride: int = 1,
        size: tuple[int, int] | None = None,
        multiple: int = 1,
        network_stride: int = 1,
        receptive_field_px: int | None = None,
        **said: Any,
    ) -> None:
        spec = ModelSpec(
            name="foreign",
            task=task,
            architecture="none",
            config={},
            input=InputSpec(
                channels=("red", "green", "blue"),
                mean=(MEAN,) * 3,
                std=(STD,) * 3,
                size=size,
                multiple=multiple,
            ),
            output=OutputSpec(stride=stride),
            classes=tuple(
                ClassInfo(name=f"class {number}", colour=COLOURS[number % len(COLOURS)])
                for number in range(classes)
            ),
            network_stride=network_stride,
            receptive_field_px=receptive_field_px,
        )
        super().__init__(
            spec=dataclasses.replace(spec, **said),
            device=torch.device("cpu"),
            dtype=torch.float32,
            sha256="0" * 64,
        )
        self.own = own.eval()
        self.seen: list[tuple[int, ...]] = []

    def run(self, images_BCHW: Tensor) -> Tensor:
        self.seen.append(tuple(images_BCHW.shape))
        return self.own(images_BCHW)  # type: ignore[no-any-return]

    def by_hand(self, image_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the network itself answers to one picture: probabilities [K, H, W] or [K]."""
        values_HWC = (image_HWC.astype(np.float32) / 255 - MEAN) / STD
        with torch.inference_mode():
            answer = self.own(torch.from_numpy(values_HWC).permute(2, 0, 1)[None].contiguous())
        return np.asarray(answer[0].softmax(0).numpy())


def seeded(seed: int, *layers: nn.Module) -> nn.Sequential:
    """The layers with weights that answer lively, the same every time."""
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(*layers)
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0, 0.4, generator=generator)
    return network


def patches(stride: int, classes: int = 3) -> nn.Module:
    """Each answer is made of its own `stride` x `stride` pixels alone."""
    return seeded(0, nn.Conv2d(3, classes, stride, stride=stride))


def context(stride: int, classes: int = 3) -> nn.Module:
    """Each answer sees `stride` + 1 pixels beyond its own on each side."""
    return seeded(
        1,
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, stride, stride=stride),
        nn.ReLU(),
        nn.Conv2d(6, classes, 3, padding=1),
    )


def classifier(classes: int = 4) -> nn.Module:
    """One answer for a picture of any size, which depends on where in it things are."""
    return seeded(
        2,
        nn.Conv2d(3, 6, 5, padding=2),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24, classes),
    )


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """A picture of chance, uint8 [H, W, 3], smooth enough that answers differ from place to place."""
    draw = np.random.default_rng(seed)
    image_HWC = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
    shade_HW = draw.integers(0, 256, (height // 16 + 1, width // 16 + 1)).repeat(16, 0).repeat(16, 1)
    return np.asarray(image_HWC // 2 + shade_HW[:height, :width, None] // 2, np.uint8)


def filled(image_HWC: NDArray[np.uint8], unit: int) -> NDArray[np.uint8]:
    """The picture with its last row and column repeated up to multiples of `unit`."""
    height, width, _ = image_HWC.shape
    rows = np.minimum(np.arange(-(-height // unit) * unit), height - 1)
    columns = np.minimum(np.arange(-(-width // unit) * unit), width - 1)
    return np.asarray(image_HWC[rows[:, None], columns[None]])


def pixels_of_tile(start: int, length: int, tile: int) -> list[int]:
    """Which pixels of a picture a classifier's tile sees along one axis: where it leaves the picture, those
    that lie in it are gone through backwards, and forwards again."""
    first, last = max(start, 0), min(start + tile, length) - 1
    pixels = []
    for pixel in range(start, start + tile):
        while first < last and not first <= pixel <= last:
            pixel = 2 * first - pixel if pixel < first else 2 * last - pixel
        pixels.append(min(max(pixel, first), last))
    return pixels
