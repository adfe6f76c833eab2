"""Axial-DeepLab: semantic segmentation on an Axial-ResNet whose attention sees a span, so that any size goes.

Shapes: B batch, C channels, H height, W width, K classes. A suffix 4, 8 or 16 is the stride in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.nn.blocks import conv_bn_relu
from axialcli.nn.families import axial_resnet
from axialcli.nn.families.axial_bottleneck import EXPANSION
from axialcli.nn.families.axial_resnet import DERIVED, AxialBody, AxialResNetConfig, Stages
from axialcli.nn.families.found import Found
from axialcli.nn.families.key_reading import shape_of

BACKBONE = "backbone."
STRIDE = 16
"""Pixels per token of the last two stages: the last one's own stride is taken out."""

DECODER, LOW_LEVEL = 256, (64, 32)
"""Channels of the decoder, and of what it takes from the stages of stride 8 and 4."""


@dataclass(frozen=True, kw_only=True)
class AxialDeepLabConfig:
    """Sizes of an AxialDeepLab; those of S by default.

    classes: logits per pixel. stem_width, stage_planes, stage_depths, heads: as in AxialResNetConfig.
    span: odd, keys that a query sees, in tokens of its own stage, the same in all.
    """

    in_channels: int = 3
    classes: int = 19
    stem_width: int = 32
    stage_planes: Stages = (64, 128, 256, 512)
    stage_depths: Stages = axial_resnet.DEEP
    heads: int = 8
    span: int = 65

    @property
    def body(self) -> AxialResNetConfig:
        """The backbone's settings: every table is as long as the span."""
        return AxialResNetConfig(
            in_channels=self.in_channels,
            stem_width=self.stem_width,
            stage_planes=self.stage_planes,
            stage_depths=self.stage_depths,
            heads=self.heads,
            table=self.span,
            beyond="local",
        )


SIZES = {
    name: AxialDeepLabConfig(stem_width=of.stem_width, stage_planes=of.stage_planes)
    for name, of in (
        ("S", axial_resnet.SIZES["50-S"]),
        ("M", axial_resnet.SIZES["50-M"]),
        ("L", axial_resnet.SIZES["50-L"]),
    )
}


class AxialDeepLab(nn.Module):
    """An Axial-ResNet of output stride 16 and local attention, and the decoder of Panoptic-DeepLab.

    forward: image_BCHW (normalised by ImageNet's statistics) -> logits_BKHW, for any H and W. Norms have
    fixed statistics, attention sees a span, and resampling goes by whole factors, so that an output
    pixel depends on the pixels within a receptive field and on nothing else.

    Sources: Wang et al. 2020 (arXiv 2003.07853), sections 3.2 (the span of 65) and 3.3; the semantic branch
    of Cheng et al. 2020 (arXiv 1911.10194) as google-research/deeplab2 has it for this backbone: no atrous
    pyramid but a 1x1 convolution to 256 channels, features of stride 8 (64 channels) and 4 (32) joined,
    each time a depthwise 5x5 and a pointwise convolution, and such a pair before the classes.

    Choices of ours: resampling without align_corners and by whole factors, where the original aligns the
    corners of grids of odd size; the ImageNet networks' stem of one 7x7 convolution, so that their weights
    go in; no branch for instances. No weights in this layout are published.
    """

    def __init__(self, config: AxialDeepLabConfig) -> None:
        super().__init__()
        self.config = config
        c4, c8, _, c16 = (EXPANSION * planes for planes in config.stage_planes)
        self.backbone = AxialBody(config.body, coarsest=STRIDE)
        self.project16 = conv_bn_relu(c16, DECODER, kernel=1)
        self.low8 = conv_bn_relu(c8, LOW_LEVEL[0], kernel=1)
        self.fuse8 = _separable(DECODER + LOW_LEVEL[0])
        self.low4 = conv_bn_relu(c4, LOW_LEVEL[1], kernel=1)
        self.fuse4 = _separable(DECODER + LOW_LEVEL[1])
        self.head = _separable(DECODER)
        self.classify = nn.Conv2d(DECODER, config.classes, 1)

    @property
    def network_stride(self) -> int:
        """Pixels per token of the coarsest grid."""
        return STRIDE

    def forward(self, image_BCHW: Tensor) -> Tensor:
        feature4, feature8, _, feature16 = self.backbone.features(image_BCHW)
        decoded8 = self.fuse8(_joined(self.project16(feature16), self.low8(feature8)))
        decoded4 = self.fuse4(_joined(decoded8, self.low4(feature4)))
        logits_BKHW = _finer(self.classify(self.head(decoded4)), 4)
        return logits_BKHW[:, :, : image_BCHW.shape[2], : image_BCHW.shape[3]]


def _separable(channels: int) -> nn.Sequential:
    """A depthwise 5x5 and a pointwise convolution to the decoder's channels, each with norm and ReLU."""
    depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False)
    return nn.Sequential(
        depthwise, nn.BatchNorm2d(channels), nn.ReLU(inplace=True), *conv_bn_relu(channels, DECODER, kernel=1)
    )


def _finer(features_BCHW: Tensor, factor: int) -> Tensor:
    return F.interpolate(features_BCHW, scale_factor=factor, mode="bilinear", align_corners=False)


def _joined(coarse_BCHW: Tensor, fine_BCHW: Tensor) -> Tensor:
    """Features of half the resolution resampled, before those of the finer grid, which may be odd."""
    finer_BCHW = _finer(coarse_BCHW, 2)[:, :, : fine_BCHW.shape[2], : fine_BCHW.shape[3]]
    return torch.cat((finer_BCHW, fine_BCHW), 1)


ARCHITECTURES: dict[str, tuple[type, type[nn.Module]]] = {"axial_deeplab": (AxialDeepLabConfig, AxialDeepLab)}


def recognise(weights: Mapping[str, Tensor]) -> Found | None:
    """An Axial-DeepLab in this layout."""
    signs = ("classify.weight", "fuse4.0.weight", f"{BACKBONE}layer1.0.hight_block.relative")
    if any(sign not in weights for sign in signs):
        return None
    config = axial_resnet.read_sizes(weights, BACKBONE)
    config = {name: config[name] for name in ("in_channels", *axial_resnet.SHAPE)}
    config["span"] = shape_of(weights, signs[-1], 2)[1]
    config["classes"] = shape_of(weights, "classify.weight", 4)[0]
    sizes = (
        name
        for name, size in SIZES.items()
        if axial_resnet.shape_in(vars(size)) == axial_resnet.shape_in(config)
    )
    return Found(
        family=f"Axial-DeepLab {next(sizes, 'of its own size')}",
        architecture="axial_deeplab",
        config=config,
        weights={key: tensor for key, tensor in weights.items() if not key.endswith(DERIVED)},
        task="segmentation",
        classes=config["classes"],
        network_stride=STRIDE,
    )


def backbone_weights(weights: Mapping[str, Tensor], span: int = 65) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of an Axial-ResNet for the backbone of an AxialDeepLab of the same sizes.

    weights: in the public layout, of which the classifier is left out. Tables longer than the span are
    cropped to its middle, which changes nothing but who is seen. Shorter ones (those for lines of less than
    span // 2 + 1 tokens: all from the second stage on, of a network trained at 224) get their outermost
    vectors again for what is farther; no such distance was trained. Returns the weights and the names of
    the tables that were too short.
    """
    made, short = {}, []
    for key, tensor in weights.items():
        if key.startswith("fc.") or key.endswith(DERIVED):
            continue
        name = BACKBONE + key
        made[name] = tensor
        if key.endswith(".relative"):
            missing = (span - tensor.shape[1]) // 2
            # A negative padding crops.
            how = "replicate" if missing > 0 else "constant"
            made[name] = F.pad(tensor[None].float(), (missing, missing), mode=how)[0]
            short += [name] if missing > 0 else []
    return made, short
