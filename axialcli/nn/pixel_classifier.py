"""The smallest network there is: each pixel judged by its own channels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class PixelClassifierConfig:
    """Sizes of a PixelClassifier."""

    in_channels: int = 3
    classes: int = 2


class PixelClassifier(nn.Module):
    """Multinomial logistic regression on a pixel's channels, one 1x1 convolution.

    forward: image_BCHW -> logits_BKHW. Enough where colour alone decides (glass or tissue), and the
    network against which everything around a network is measured.
    """

    def __init__(self, config: PixelClassifierConfig) -> None:
        super().__init__()
        self.head = nn.Conv2d(config.in_channels, config.classes, 1)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.head(image_BCHW)  # type: ignore[no-any-return]
