"""A plane: the channels of a level that one page stores, and how its samples become channels.

Shapes: h, w a segment; S samples as stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from axialcli.image.colour import Converter, Pixels, converter, may_hide_ycc
from axialcli.image.page import Page


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Channels [first, first + count) of a level, and the page that stores them.

    offsets, counts: the segments of this plane alone. picks: which of the page's channels, in order;
    None for all. fill: the value of missing segments, one a channel.
    """

    page: Page
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    first: int
    count: int
    picks: tuple[int, ...] | None
    fill: Pixels
    convert: Converter
    hides_ycc: bool

    @classmethod
    def of(
        cls,
        page: Page,
        *,
        first: int,
        count: int,
        picks: tuple[int, ...] | None = None,
        sample: int = 0,
        shift_bytes: int = 0,
        white: bool = False,
    ) -> Plane:
        """`sample`: which plane of a planar page. `shift_bytes`: how far behind the page's own offsets
        the data lies. `white`: missing segments are white, not the raw nodata value."""
        convert = converter(page)
        number = page.grid.height * page.grid.width
        own = slice(sample * number, (sample + 1) * number)
        assert page.dtype is not None
        raw = np.full((1, 1, page.stored_samples), page.nodata, page.dtype)
        fill = convert(raw)[0, 0]
        if white:
            fill = np.full_like(fill, 255)
        return cls(
            page=page,
            offsets=page.offsets[own] + shift_bytes if shift_bytes else page.offsets[own],
            counts=page.counts[own],
            first=first,
            count=count,
            picks=picks,
            fill=fill if picks is None else fill[list(picks)],
            convert=convert,
            hides_ycc=may_hide_ycc(page),
        )

    @property
    def by_rows(self) -> bool:
        """Whether rows can be read straight from the file: strips without compression or predictor."""
        page = self.page
        plain = page.compression == 1 and page.predictor == 1 and page.fill_order == 1
        return plain and not page.tiled and page.bits in (8, 16, 32)

    def channels(self, samples: Pixels) -> Pixels:
        """Decoded samples [h, w, S] as this plane's channels [h, w, count]."""
        channels = self.convert(samples)
        return channels if self.picks is None else channels[..., list(self.picks)]


def row_bytes(page: Page) -> int:
    """Bytes of one row of a page of whole bytes that is not compressed."""
    assert page.dtype is not None
    return page.size.width * page.stored_samples * page.dtype.itemsize
