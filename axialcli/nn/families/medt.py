"""The MedT family: U-Nets whose encoder is axial attention, gated or not, with a local branch or not.

Source: Valanarasu et al. 2021 (arXiv 2102.10662): equation 3 is the gated attention, section 2.3 the two
branches. The sizes and the names of the weights are those of github.com/jeya-maria-jose/Medical-Transformer,
whose ResAxialAttentionUNet (axialunet, gated) is AxialUNet here and whose medt_net (MedT, logo) is MedT.

Shapes: B batch, C channels, H height, W width, K logits; N is the crops of one picture.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.errors import ModelError
from axialcli.nn.families.found import Beyond, Found
from axialcli.nn.families.key_reading import check_three_channels, count_of, shape_of
from axialcli.nn.families.medt_branch import Branch

STRIDE = 32
"""Pixels per value of the coarsest level."""

MEDT_SIDE, CROPS = 128, 4
"""Pixels to a side of MedT's picture, and local crops to a side of it."""


@dataclass(frozen=True, kw_only=True)
class AxialUNetConfig:
    """Sizes of an AxialUNet.

    classes: logits. gated: learned scalars before the norms that take positions in or out. picture_size:
    pixels to a side that the tables were learned for, a multiple of 32. unet_base: channels of the stem, 64 s
    with the public code's s = 0.125. unet_depths: blocks of the four stages. beyond: None, for pictures of
    that size alone, or how positions reach over any other.
    """

    in_channels: int = 3
    classes: int = 1
    gated: bool = True
    picture_size: int = MEDT_SIDE
    unet_base: int = 8
    unet_depths: tuple[int, int, int, int] = (1, 2, 4, 1)
    beyond: Beyond | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a size that cannot be halved five times."""
        if self.picture_size % STRIDE:
            raise ValueError(f"picture_size is {self.picture_size}: it has to be a multiple of {STRIDE}")


@dataclass(frozen=True, kw_only=True)
class MedTConfig:
    """Sizes of a MedT. gated: MedT; without gates it is LoGo, whose local branch has positions. The others:
    as in AxialUNetConfig; the whole picture's branch has the first two stages."""

    in_channels: int = 3
    classes: int = 1
    gated: bool = True
    unet_base: int = 8
    unet_depths: tuple[int, int, int, int] = (1, 2, 4, 1)


class AxialUNet(Branch):
    """The axial U-Net and the gated axial U-Net.

    forward: image_BCHW (0 to 1) -> logits_BKHW. Raises ValueError for a size that its tables are not for.
    """

    def __init__(self, config: AxialUNetConfig) -> None:
        super().__init__(
            config.in_channels,
            stem=config.unet_base,
            base=config.unet_base,
            depths=config.unet_depths,
            length=config.picture_size // 2,
            gated=config.gated,
            beyond=config.beyond,
        )
        self.config = config
        self.adjust = nn.Conv2d(2 * config.unet_base, config.classes, 1)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.adjust(super().forward(image_BCHW))  # type: ignore[no-any-return]


class MedT(Branch):
    """A shallow branch on the whole picture, a deep one on each of its 4 x 4 crops, and their sum.

    forward: image_BCHW (0 to 1), 128 x 128 pixels -> logits_BKHW. Raises ValueError for other sizes: the
    public code cuts 4 x 4 crops of 32 pixels whatever the size, and leaves the rest without a local branch.
    The crops go through the local branch as one batch.
    """

    def __init__(self, config: MedTConfig) -> None:
        base, depths = config.unet_base, config.unet_depths
        super().__init__(
            config.in_channels,
            stem=base,
            base=base,
            depths=depths[:2],
            length=MEDT_SIDE // 2,
            gated=config.gated,
        )
        self.config = config
        self.local = Branch(
            config.in_channels,
            stem=8 * base,
            base=base,
            depths=depths,
            length=None if config.gated else MEDT_SIDE // CROPS // 2,
            gated=False,
        )
        self.decoderf = nn.Conv2d(2 * base, 2 * base, 3, padding=1)
        self.adjust = nn.Conv2d(2 * base, config.classes, 1)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        height, width = image_BCHW.shape[2:]
        if (height, width) != (MEDT_SIDE, MEDT_SIDE):
            raise ValueError(f"MedT takes {MEDT_SIDE}x{MEDT_SIDE} pixels, not {height}x{width}")
        local_BCHW = _joined(self.local(_crops(image_BCHW)))
        features_BCHW = super().forward(image_BCHW) + local_BCHW
        return self.adjust(F.relu(self.decoderf(features_BCHW)))  # type: ignore[no-any-return]


def _crops(image_BCHW: Tensor) -> Tensor:
    """[B * N, C, H / 4, W / 4], the crops of a picture in reading order."""
    batch, channels, height, width = image_BCHW.shape
    parts = image_BCHW.reshape(batch, channels, CROPS, height // CROPS, CROPS, width // CROPS)
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def _joined(crops_NCHW: Tensor) -> Tensor:
    """What `_crops` took apart: [B, C, 4 H, 4 W]."""
    crops, channels, height, width = crops_NCHW.shape
    parts = crops_NCHW.reshape(crops // CROPS**2, CROPS, CROPS, channels, height, width)
    return parts.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


ARCHITECTURES: dict[str, tuple[type, type[nn.Module]]] = {
    "axial_unet": (AxialUNetConfig, AxialUNet),
    "medt": (MedTConfig, MedT),
}

LOGIT = 0.5
"""From which logit of channel 1 on the public code's test.py answers class 1."""

_DERIVED = re.compile(r"adjust_p\..*|layer[1-4](_p)?\.[0-9]+\.(hight|width)_block\.flatten_index")
_OF_WOPOS = re.compile(r"layer[1-4]_p\.[0-9]+\.conv1\.(weight|bias)")
_OF_LOCAL = re.compile(r"(conv[1-3]|bn[1-3]|layer[1-4]|decoder[1-5])_p\.")


def recognise(weights: Mapping[str, Tensor]) -> Found | None:
    """One of the four networks of the public code. Raises ModelError."""
    first = "layer1.0.hight_block."
    if f"{first}qkv_transform.weight" not in weights or "decoder5.weight" not in weights:
        return None
    check_three_channels(weights, "conv1.weight")
    columns = shape_of(weights, f"{first}relative", 2)[1]
    size, local, gated = columns + 1, "decoderf.weight" in weights, f"{first}f_qr" in weights
    logits = shape_of(weights, "adjust.weight", 4)[0]
    if size % STRIDE:
        raise ModelError(f"{first}relative has {columns} columns, which are of no size that 32 divides")
    if logits < 2:
        raise ModelError("the network answers one channel; the public code decides by the second")
    if local and size != MEDT_SIDE:
        raise ModelError(
            f"MedT and LoGo of {size} pixels: the local branch of the public code covers "
            f"{MEDT_SIDE}x{MEDT_SIDE} pixels alone, the top left of such a picture; train it at {MEDT_SIDE}"
        )
    depths = tuple(count_of(weights, f"layer{stage}{'_p' * local}.") for stage in (1, 2, 3, 4))
    config = {"gated": gated, "unet_base": shape_of(weights, "conv1.weight", 4)[0], "unet_depths": depths}
    config |= {} if local else {"picture_size": size}
    config["classes"] = 1 if logits == 2 else logits
    names = {True: ("LoGo", "MedT"), False: ("axial U-Net", "gated axial U-Net")}[local]
    return Found(
        family=f"{names[gated]} at {size}x{size} (jeya-maria-jose/Medical-Transformer)",
        architecture="medt" if local else "axial_unet",
        config=config,
        weights=_our_weights(weights, local and gated, logits),
        task="segmentation",
        classes=logits,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        size=(size, size),
        multiple=MEDT_SIDE if local else 1,
        network_stride=STRIDE,
        activation="sigmoid" if logits == 2 else "softmax",
        threshold=1 / (1 + math.exp(-LOGIT)) if logits == 2 else None,
        beyond=() if local else ("local", "clip", "interpolate"),
        ask_mpp=True,
        notes=(
            f"trained on whole pictures squeezed to {size}x{size}",
            "trained on blue, green, red: the first convolution is turned round, and takes red, green, blue",
        ),
        unless={"threshold": _decision(logits)},
    )


def _our_weights(weights: Mapping[str, Tensor], without_positions: bool, logits: int) -> dict[str, Tensor]:
    """The weights by our names, for red before blue, without what is unused or can be derived."""
    ours = {}
    for name, tensor in weights.items():
        if _DERIVED.fullmatch(name) or (without_positions and _OF_WOPOS.fullmatch(name)):
            continue
        if name in ("conv1.weight", "conv1_p.weight") and tensor.ndim == 4:
            tensor = tensor.flip(1)
        if name in ("adjust.weight", "adjust.bias") and logits == 2 and tensor.shape[:1] == (2,):
            tensor = tensor[1:]
        local = _OF_LOCAL.match(name)
        ours[f"local.{local[1]}.{name[local.end() :]}" if local else name] = tensor
    return ours


def _decision(logits: int) -> str:
    if logits == 2:
        return f"class 1 is where its logit is {LOGIT} or more, as the public code's test.py decides"
    return f"the largest of {logits} logits decides; the public code's test.py writes channel 1 alone"
