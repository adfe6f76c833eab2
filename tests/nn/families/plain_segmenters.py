"""The MedT family and Axial-DeepLab as they are plainly written down, from their weights.

Norms as norms, tables gathered in each call, masks for who is seen. See plain_positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.nn.families import plain_positions
from tests.nn.families.plain_positions import Weights, norm, under


def axial_unet(image: Tensor, weights: Weights) -> Tensor:
    return F.conv2d(_branch(image, weights), weights["adjust.weight"], weights["adjust.bias"])


def medt(image: Tensor, weights: Weights) -> Tensor:
    """The crops go through the local branch one after another, and are pasted over a copy."""
    seen, local = _branch(image, weights), under(weights, "local.")
    pasted = seen.clone()
    for y in range(0, 128, 32):
        for x in range(0, 128, 32):
            at = (..., slice(y, y + 32), slice(x, x + 32))
            pasted[at] = _branch(image[at], local)
    joined = F.conv2d(seen + pasted, weights["decoderf.weight"], weights["decoderf.bias"], padding=1).relu()
    return F.conv2d(joined, weights["adjust.weight"], weights["adjust.bias"])


def _branch(image: Tensor, weights: Weights) -> Tensor:
    """Stem, stages, and a decoder that adds what the stages made."""
    x = image
    for number, how in ((1, {"stride": 2, "padding": 3}), (2, {"padding": 1}), (3, {"padding": 1})):
        x = norm(F.conv2d(x, weights[f"conv{number}.weight"], **how), weights, f"bn{number}").relu()
    skips: list[Tensor] = []
    while stage := under(weights, f"layer{len(skips) + 1}."):
        number = 0
        while part := under(stage, f"{number}."):
            x = plain_positions.block(x, part, 2 if skips and number == 0 else 1, None)
            number += 1
        skips.append(x)

    def finer(x: Tensor, number: int, stride: int = 1) -> Tensor:
        name = f"decoder{number}"
        x = F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=stride, padding=1)
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False).relu()

    if len(skips) == 4:
        x = finer(x, 1, stride=2) + skips[3]
    for number, skip in zip(range(6 - len(skips), 5), skips[-2::-1], strict=True):
        x = finer(x, number) + skip
    return finer(x, 5)


def axial_deeplab(image: Tensor, weights: Weights, *, span: int) -> Tensor:
    feature4, feature8, _, feature16 = plain_positions.stages(
        image, under(weights, "backbone."), last_stride=1, span=span
    )

    def project(x: Tensor, name: str, at: tuple[int, int]) -> Tensor:
        return norm(F.conv2d(x, weights[f"{name}.{at[0]}.weight"]), weights, f"{name}.{at[1]}").relu()

    def separable(x: Tensor, name: str) -> Tensor:
        x = F.conv2d(x, weights[f"{name}.0.weight"], padding=2, groups=x.shape[1])
        return project(norm(x, weights, f"{name}.1").relu(), name, (3, 4))

    def upsampled(x: Tensor, factor: int, like: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
        return x[:, :, : like.shape[2], : like.shape[3]]

    low8, low4 = project(feature8, "low8", (0, 1)), project(feature4, "low4", (0, 1))
    wide = upsampled(project(feature16, "project16", (0, 1)), 2, low8)
    x = separable(torch.cat((wide, low8), 1), "fuse8")
    x = separable(torch.cat((upsampled(x, 2, low4), low4), 1), "fuse4")
    x = F.conv2d(separable(x, "head"), weights["classify.weight"], weights["classify.bias"])
    return upsampled(x, 4, image)
