"""What the MedT family's networks are made of: a U-Net of axial blocks.

Source: Valanarasu et al. 2021 (arXiv 2102.10662), figure 2 and section 2.3, with the sizes and the names of
the weights of github.com/jeya-maria-jose/Medical-Transformer.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from axialcli.nn.families.axial_bottleneck import EXPANSION, AxialBottleneck
from axialcli.nn.families.found import Beyond

STEM = 128
"""Channels of the middle convolution of every stem."""


class Branch(nn.Module):
    """Stem, two or four stages of axial blocks, and a decoder that adds them: features at full resolution.

    forward: image_BCHW -> [B, 2 * base, H, W]. Sides that cannot be halved five times are halved upwards, and
    what the decoder has too much is cut, where the public code ends in an error. stem: channels that
    the stem ends with. length: tokens to a side of the first stage, None for no positions; every further
    stage has half as many from its second block on. Stages, and decoders, that a branch of two lacks are the
    deep ones: decoder4 and decoder5 are what it has.
    """

    def __init__(
        self,
        c_in: int,
        *,
        stem: int,
        base: int,
        depths: Sequence[int],
        length: int | None,
        gated: bool,
        beyond: Beyond | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, stem, 7, stride=2, padding=3, bias=False)
        self.conv2 = nn.Conv2d(stem, STEM, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(STEM, stem, 3, padding=1, bias=False)
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(c) for c in (stem, STEM, stem))
        self.stages = len(depths)
        channels = stem
        for stage, depth in enumerate(depths):
            planes = 2 * base << stage
            layer = nn.Sequential()
            for index in range(depth):
                halves = index == 0 < stage
                layer.append(
                    AxialBottleneck(
                        channels,
                        planes,
                        stride=2 if halves else 1,
                        lengths=(length, length) if length is not None else (None, None),
                        gated=gated,
                        positions=length is not None,
                        beyond=beyond,
                    )
                )
                channels, length = EXPANSION * planes, length // 2 if length and halves else length
            self.add_module(f"layer{stage + 1}", layer)
        if self.stages == 4:
            self.decoder1 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        for number in range(6 - self.stages, 6):
            self.add_module(f"decoder{number}", nn.Conv2d(channels, channels // 2, 3, padding=1))
            channels //= 2

    def forward(self, image_BCHW: Tensor) -> Tensor:
        features_BCHW = F.relu(self.bn1(self.conv1(image_BCHW)))
        features_BCHW = F.relu(self.bn2(self.conv2(features_BCHW)))
        features_BCHW = F.relu(self.bn3(self.conv3(features_BCHW)))
        skips = []
        for stage in range(self.stages):
            features_BCHW = self.get_submodule(f"layer{stage + 1}")(features_BCHW)
            skips.append(features_BCHW)
        if self.stages == 4:
            features_BCHW = _finer(self.decoder1(features_BCHW), skips[-1]) + skips[-1]
        for number, skip_BCHW in zip(range(6 - self.stages, 5), skips[-2::-1], strict=True):
            decoded_BCHW = self.get_submodule(f"decoder{number}")(features_BCHW)
            features_BCHW = _finer(decoded_BCHW, skip_BCHW) + skip_BCHW
        return _finer(self.get_submodule("decoder5")(features_BCHW), image_BCHW)

    def fold(self) -> None:
        """Multiplies the batch norms of the stem into its convolutions."""
        for number in (1, 2, 3):
            _fold_pair(self, f"conv{number}", f"bn{number}")


def _finer(features_BCHW: Tensor, like_BCHW: Tensor) -> Tensor:
    """Twice as fine, and as large as `like`, whose sides may be odd."""
    finer_BCHW = F.interpolate(features_BCHW, scale_factor=2, mode="bilinear", align_corners=False)
    return F.relu(finer_BCHW[:, :, : like_BCHW.shape[2], : like_BCHW.shape[3]])


def _fold_pair(module: nn.Module, convolution: str, norm: str) -> None:
    if isinstance(bn := module.get_submodule(norm), nn.BatchNorm2d):
        conv = module.get_submodule(convolution)
        assert isinstance(conv, nn.Conv2d)
        module.add_module(convolution, fuse_conv_bn_eval(conv, bn))
        module.add_module(norm, nn.Identity())
