"""The grid of the mask: the view's, or coarser where the model answers at a lower resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from axialcli.geometry import GeoReference, Size
from axialcli.image import SlideView

DENSE = Size(1, 1)


@dataclass(frozen=True, kw_only=True)
class MaskGrid:
    """The mask's pixels. Pixel (y, x) covers the view's from (y, x) * stride to (y + 1, x + 1) * stride.

    stride: pixels of the view per pixel of the mask. mpp: microns per pixel (y, x), or None. georeference:
    the view's, scaled. covered: which share of the mask's height and width lies on the slide; less than 1
    where its last pixels reach beyond.
    """

    size: Size
    stride: Size
    mpp: tuple[float, float] | None
    georeference: GeoReference | None
    covered: tuple[float, float]

    def describe(self) -> dict[str, Any]:
        """For the report."""
        return {
            "size": list(self.size),
            "mpp": list(self.mpp) if self.mpp else None,
            "stride": list(self.stride),
        }


def mask_size(size: Size, stride: Size) -> Size:
    """The size of the mask over a view of `size`: the last pixels may be partly beyond it."""
    return Size(-(-size.height // stride.height), -(-size.width // stride.width))


def mask_grid(view: SlideView, stride: Size = DENSE) -> MaskGrid:
    """The grid of a mask that has one pixel for `stride` pixels of the view."""
    size = mask_size(view.size, stride)
    return MaskGrid(
        size=size,
        stride=stride,
        mpp=None if view.mpp is None else (view.mpp[0] * stride.height, view.mpp[1] * stride.width),
        # What lies on the view's own grid keeps the view's own tags.
        georeference=(
            view.georeference.scaled(*stride) if view.georeference and stride != DENSE else view.georeference
        ),
        covered=(
            view.covered[0] * view.size.height / (size.height * stride.height),
            view.covered[1] * view.size.width / (size.width * stride.width),
        ),
    )
