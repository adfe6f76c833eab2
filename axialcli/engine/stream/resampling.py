"""Resampling by whole factors, and the exchange of channels for pixels.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.engine.stream.operators import Operator, Piece
from axialcli.engine.stream.reach import Reach
from axialcli.engine.stream.values import Builder, NotStreamable, Value, channels_first, pair
from axialcli.geometry import Box


class Resize(Operator):
    """Resampling of [B, C, H, W] by whole factors, up or down, without align_corners."""

    def __init__(self, *, up: tuple[int, int], down: tuple[int, int], mode: str) -> None:
        near = 0 if mode == "nearest" else 1
        reaches = []
        for factor, by in zip(up, down, strict=True):
            if by > 1:
                reaches.append(Reach(step=by, last=by - 1))
            elif factor > 1 and near:
                # The source of output i is (i + 1/2) / factor - 1/2, between two inputs.
                reaches.append(Reach(step=2, per=2 * factor, first=1 - factor, last=1 + factor))
            else:
                reaches.append(Reach(per=factor))
        super().__init__((reaches[0], reaches[1]))
        self.scale = tuple(float(factor) / by for factor, by in zip(up, down, strict=True))
        self.up, self.down, self.mode = up, down, mode

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        inside = pieces[0].box
        corners = {} if self.mode in ("nearest", "area") else {"align_corners": False}
        out_BCHW = F.interpolate(pieces[0].tensor, scale_factor=self.scale, mode=self.mode, **corners)
        y = box.y0 - inside.y0 * self.up[0] // self.down[0]
        x = box.x0 - inside.x0 * self.up[1] // self.down[1]
        return out_BCHW[:, :, y : y + box.height, x : x + box.width]


class Shuffle(Operator):
    """Channels to pixels: [B, C * r * r, H, W] -> [B, C, H * r, W * r].

    together: the input has the channels of each pixel one after the other, [B, r * r * C, H, W], so that they
    can be moved in one piece; by default it is channels that have their pixels one after the other.
    """

    def __init__(self, factor: int, *, together: bool = False) -> None:
        super().__init__((Reach(per=factor), Reach(per=factor)))
        self.factor, self.together = factor, together

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        inside, r = pieces[0].box, self.factor
        y, x = box.y0 - inside.y0 * r, box.x0 - inside.x0 * r
        return self.shuffled(pieces[0].tensor)[:, :, y : y + box.height, x : x + box.width]

    def shuffled(self, x: Tensor) -> Tensor:
        """[B, C, H * r, W * r] of [B, C * r * r, H, W]."""
        if not self.together:
            return F.pixel_shuffle(x, self.factor)
        cells_BHRWRC = self._cells(x).permute(0, 2, 3, 4, 5, 1)
        return cells_BHRWRC.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)

    def run_into(self, pieces: Sequence[Piece], box: Box, out: Tensor) -> None:
        inside, r = pieces[0].box, self.factor
        if box != Box(inside.y0 * r, inside.x0 * r, inside.y1 * r, inside.x1 * r):
            super().run_into(pieces, box, out)
            return
        cells = self._cells(pieces[0].tensor)
        out.view(cells.shape).copy_(cells)

    def _cells(self, x: Tensor) -> Tensor:
        """[B, C, H, r, W, r], a view."""
        (batch, channels, height, width), r = x.shape, self.factor
        if self.together:
            return x.view(batch, r, r, channels // r**2, height, width).permute(0, 3, 4, 1, 5, 2)
        return x.view(batch, channels // r**2, r, r, height, width).permute(0, 1, 4, 2, 5, 3)


class Unshuffle(Operator):
    """Pixels to channels: [B, C, H * r, W * r] -> [B, C * r * r, H, W]."""

    def __init__(self, factor: int) -> None:
        super().__init__(*[(Reach(step=factor, last=factor - 1),) * 2])
        self.factor = factor

    def run(self, pieces: Sequence[Piece], box: Box) -> Tensor:
        return F.pixel_unshuffle(pieces[0].tensor, self.factor)


def upsample_module(build: Builder, module: nn.Upsample, x: Value) -> Value:
    return interpolate(build, x, module.size, module.scale_factor, module.mode, module.align_corners)


def interpolate(
    build: Builder,
    x: Value,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Value:
    plane = channels_first(x)
    if align_corners or antialias or mode not in ("nearest", "nearest-exact", "bilinear", "area"):
        raise NotStreamable(f"resamples by '{mode}'{' with align_corners' if align_corners else ''}")
    lengths = (plane.height, plane.width)
    if size is not None:
        factors = [_factor_to(length, wanted) for length, wanted in zip(lengths, pair(size), strict=True)]
    else:
        given = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * 2
        factors = [_whole_factor(float(factor)) for factor in given]
    up, down = ([factor[at] for factor in factors] for at in (0, 1))
    if max(down) > 1 and max(up) > 1:
        raise NotStreamable("resamples up along one axis and down along the other")
    uneven = any(length % by for length, by in zip(lengths, down, strict=True))
    if (mode == "area" and (uneven or max(up) > 1)) or (uneven and recompute_scale_factor):
        raise NotStreamable(f"resamples by '{mode}' in steps that are not whole")
    if mode == "nearest-exact" and max(down) > 1:
        raise NotStreamable("resamples down by 'nearest-exact'")
    made = Resize(up=pair(up), down=pair(down), mode="nearest" if mode == "nearest-exact" else mode)
    height, width = (length * u // d for length, u, d in zip(lengths, up, down, strict=True))
    if not height or not width:
        raise NotStreamable("leaves nothing of the picture")
    return build.add(made, [x], plane.with_size(height, width))


def _factor_to(length: int, wanted: int) -> tuple[int, int]:
    """The whole factors (up, down) between two lengths. Raises NotStreamable where there are none."""
    if wanted and wanted % length == 0:
        return wanted // length, 1
    if wanted and length % wanted == 0:
        return 1, length // wanted
    raise NotStreamable(f"resamples {length} to {wanted}, which is no whole factor")


def _whole_factor(factor: float) -> tuple[int, int]:
    """The same for a scale. Raises NotStreamable."""
    if factor >= 1 and factor == int(factor):
        return int(factor), 1
    by = round(1 / factor) if factor > 0 else 0
    # Torch itself uses the reciprocal of the scale; a third is one only up to rounding.
    if by and abs(factor * by - 1) < 1e-6:
        return 1, by
    raise NotStreamable(f"resamples by {factor:g}, which is no whole factor")


def shuffle_module(build: Builder, module: nn.PixelShuffle, x: Value) -> Value:
    return pixel_shuffle(build, x, module.upscale_factor)


def pixel_shuffle(build: Builder, x: Value, upscale_factor: int) -> Value:
    plane, r = channels_first(x), upscale_factor
    return build.add(
        Shuffle(r), [x], plane.with_size(plane.height * r, plane.width * r, plane.shape[1] // r**2)
    )


def unshuffle_module(build: Builder, module: nn.PixelUnshuffle, x: Value) -> Value:
    return pixel_unshuffle(build, x, module.downscale_factor)


def pixel_unshuffle(build: Builder, x: Value, downscale_factor: int) -> Value:
    plane, r = channels_first(x), downscale_factor
    if plane.height % r or plane.width % r:
        raise NotStreamable(f"wants a height and a width that {r} divides")
    return build.add(
        Unshuffle(r), [x], plane.with_size(plane.height // r, plane.width // r, plane.shape[1] * r**2)
    )
