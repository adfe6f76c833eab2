"""A dense head on VMINet's pyramid: our extension, for no public code of VMINet segments anything.

Source: the pyramid is VMINet's (arXiv 2501.02040; see vminet.py); the head joins its maps from coarse to fine
as a feature pyramid does (Lin et al. 2017, arXiv 1612.03144, section 3): a 1x1 convolution of each, doubling,
sum. It is not UPerNet, with which the paper reports its segmentation; how its authors fed crops of other
sizes than 224 is not known.

Shapes: B batch, C channels, H height, W width, K classes. A suffix 4 is the stride in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.nn.blocks import conv_bn_relu
from axialcli.nn.families.filling import fill
from axialcli.nn.families.found import Found
from axialcli.nn.families.vminet import PyramidConfig, VMINetPyramid


@dataclass(frozen=True, kw_only=True)
class VMINetSegmenterConfig(PyramidConfig):
    """Sizes of a VMINetSegmenter: its pyramid's, and pyramid_width, the channels of the head."""

    classes: int = 2
    pyramid_width: int = 64


class VMINetSegmenter(VMINetPyramid):
    """Segmentation: image_BCHW (normalised float) -> logits_BKHW.

    The global sums go over what is given at once, that is over a tile: neighbouring tiles know nothing of
    each other, and the whole picture's answer is not what they are stitched to. Sizes as VMINet takes them;
    with beyond="interpolate" any H and W. Resampling goes by whole factors, without align_corners.
    """

    def __init__(self, config: VMINetSegmenterConfig) -> None:
        super().__init__(config)
        width = config.pyramid_width
        self.lateral = nn.ModuleList(conv_bn_relu(channels, width, kernel=1) for channels in config.widths)
        self.smooth = conv_bn_relu(width, width)
        self.classify = nn.Conv2d(width, config.classes, 1)

    @property
    def network_stride(self) -> int:
        """Pixels per token of the coarsest map."""
        return 32

    def forward(self, image_BCHW: Tensor) -> Tensor:
        height, width = image_BCHW.shape[2:]
        *finer, coarsest_BCHW = self.features(image_BCHW)
        merged_BCHW = self.lateral[-1](coarsest_BCHW)
        for level in reversed(range(len(finer))):
            own_BCHW = self.lateral[level](finer[level])
            merged_BCHW = own_BCHW + _enlarged(merged_BCHW, 2, own_BCHW.shape[2], own_BCHW.shape[3])
        logits4_BKHW = self.classify(self.smooth(merged_BCHW))
        return _enlarged(logits4_BKHW, 4, height, width)


def _enlarged(coarse_BCHW: Tensor, factor: int, height: int, width: int) -> Tensor:
    """Bilinear, by a whole factor; cut to the size, which may be up to a factor smaller."""
    fine_BCHW = F.interpolate(coarse_BCHW, scale_factor=factor, mode="bilinear", align_corners=False)
    return fine_BCHW[:, :, :height, :width]


def segmenter_of(
    found: Found,
    *,
    classes: int,
    pyramid_width: int = 64,
    beyond: Literal["interpolate"] | None = None,
) -> VMINetSegmenter:
    """A segmenter on the pyramid of a VMINet that `recognise` found: its head is fresh and wants training.

    Raises ModelError where the pyramid's weights are not all there, or do not fit.
    """
    sizes = {field.name: found.config[field.name] for field in fields(PyramidConfig)}
    own = {"classes": classes, "pyramid_width": pyramid_width, "beyond": beyond}
    config = VMINetSegmenterConfig(**{**sizes, **own})
    network = VMINetSegmenter(config)
    fill(network, found.weights, what=found.family, parts=("stem.", "stages."))
    return network


ARCHITECTURES: dict[str, tuple[type, type[nn.Module]]] = {
    "vminet_segmenter": (VMINetSegmenterConfig, VMINetSegmenter)
}
