"""Plain convolutional networks: what attention is measured against, at equal cost.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.nn.blocks import conv_bn_relu


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Sizes of a UNet. width: channels at strides 1, 2, 4, ...; as many levels as numbers, 2 to 8."""

    in_channels: int = 3
    classes: int = 2
    width: tuple[int, ...] = (8, 16, 32, 64, 128)

    def __post_init__(self) -> None:
        """Raises ValueError where there are too few levels to have a skip, or more than any picture has."""
        if not 2 <= len(self.width) <= 8:
            raise ValueError(f"width names {len(self.width)} levels; a U-Net has 2 to 8")


class UNet(nn.Module):
    """Convolutions and pooling down, bilinear resampling and convolutions up, a skip at every level.

    forward: image_BCHW (normalised float) -> logits_BKHW, for any H and W.

    Source: Ronneberger et al. 2015 (arXiv 1505.04597), with padding, batch norms and bilinear
    resampling, as is usual since.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.down = nn.ModuleList(
            _double(c_in, c_out)
            for c_in, c_out in zip((config.in_channels, *config.width), config.width, strict=False)
        )
        above, below = config.width[-2::-1], config.width[:0:-1]
        self.up = nn.ModuleList(_double(c_low + c, c) for c_low, c in zip(below, above, strict=True))
        self.head = nn.Conv2d(config.width[0], config.classes, 1)

    @property
    def network_stride(self) -> int:
        """Pixels per value of the coarsest level."""
        return int(2 ** (len(self.config.width) - 1))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        features_BCHW = self.down[0](image_BCHW)
        skips = [features_BCHW]
        for level in self.down[1:]:
            # Rounded up, so that every pixel is seen.
            features_BCHW = level(F.max_pool2d(features_BCHW, 2, ceil_mode=True))
            skips.append(features_BCHW)
        for level, skip_BCHW in zip(self.up, skips[-2::-1], strict=True):
            finer_BCHW = F.interpolate(features_BCHW, scale_factor=2, mode="bilinear", align_corners=False)
            finer_BCHW = finer_BCHW[:, :, : skip_BCHW.shape[2], : skip_BCHW.shape[3]]
            features_BCHW = level(torch.cat((skip_BCHW, finer_BCHW), 1))
        return self.head(features_BCHW)  # type: ignore[no-any-return]


def _double(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(conv_bn_relu(c_in, c_out), conv_bn_relu(c_out, c_out))
