"""How a mask is cut into column strips of overlapping tiles, and what a strip costs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from axialcli.config import MASK_TILE
from axialcli.engine.grid import TileSpan
from axialcli.errors import LimitError
from axialcli.geometry import Box, Size


@dataclass(frozen=True, kw_only=True)
class TilePlan:
    """How a mask is cut: column strips of whole mask tiles, each from top to bottom.

    rows: tiles along the height. strips: of each, the mask's columns [x0, x1) and the tiles that touch them.
    """

    rows: list[TileSpan]
    strips: list[tuple[int, int, list[TileSpan]]]

    @property
    def tiles(self) -> int:
        """Tiles that the network runs on, those that two strips share counted twice."""
        return len(self.rows) * sum(len(columns) for _, _, columns in self.strips)

    def boxes(self, size: Size) -> list[Box]:
        """The blocks in the order in which they are finished; `size` is the mask's."""
        return [
            Box(y, x0, min(y + MASK_TILE, size.height), x1)
            for x0, x1, _ in self.strips
            for y in range(0, size.height, MASK_TILE)
        ]


def cut(columns: list[TileSpan], edges: list[int], width: int) -> list[tuple[int, int, list[TileSpan]]]:
    """The strips between `edges` (their left ones, the first is 0) and `width`, with the tiles of each."""
    return [
        (x0, x1, [span for span in columns if span.start < x1 and span.stop > x0])
        for x0, x1 in pairwise([*edges, width])
    ]


def strip_edges(
    width: int, *, tile: int, used_bytes: int, bytes_per_px: int, max_ram_bytes: int
) -> list[int]:
    """Left edges of strips of whole mask tiles, as few as the budget allows.

    width, tile: in pixels of the mask. used_bytes: what is taken before there is any strip. bytes_per_px:
    of a strip's width. Raises LimitError where not even the narrowest strip fits.
    """
    # Where a pixel of the mask is a whole tile, a slide may be much narrower than the mask tile it fills.
    if used_bytes + width * bytes_per_px <= max_ram_bytes:
        return [0]
    tiles_across = -(-width // MASK_TILE)
    across = (max_ram_bytes - used_bytes) // (bytes_per_px * MASK_TILE)
    # A strip reads up to a tile more on each side than it writes.
    if across < tiles_across:
        across -= -(-2 * tile // MASK_TILE)
    if across < 1:
        narrowest = min(3 * MASK_TILE, width)
        raise LimitError(
            f"--max-ram of {max_ram_bytes >> 20} MiB is too little: libraries, model and one batch take "
            f"{used_bytes >> 20} MiB, the narrowest strip {narrowest * bytes_per_px >> 20} MiB; "
            "give more, or use a smaller --tile or --batch"
        )
    count = -(-tiles_across // min(across, tiles_across))
    return [index * tiles_across // count * MASK_TILE for index in range(count)]
