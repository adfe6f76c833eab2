"""VMINet's attention: one learned weighted sum over all tokens.

Shapes: B batch, C channels, H height, W width, P = H W tokens in raster order.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GlobalSum(nn.Module):
    """The weighted sum over all tokens, channel by channel: hidden_BCHW -> [B, C, 1, 1].

    side: of the square grid that the weights [1, side * side] are for. masked: channel c leaves out the first
    c tokens in raster order (v2), all of them where there are no more.

    beyond None: raises ValueError for another grid. "interpolate": the weights, seen as a map, are resampled
    bilinearly (without align_corners) and multiplied by side^2 / (H W), so that a sum over more tokens stays
    as large; in the mask a token counts as the one of the trained grid at its place, so that a channel leaves
    out the same part of the picture. The public code has nothing of the kind: this is our choice, and
    nobody has measured what it does to the answers. On the trained grid it changes nothing.
    """

    def __init__(self, *, side: int, masked: bool, beyond: Literal["interpolate"] | None) -> None:
        super().__init__()
        self.side, self.masked, self.beyond = side, masked, beyond
        self.weight = nn.Parameter(torch.empty(1, side * side).uniform_(-1 / side, 1 / side))

    def forward(self, hidden_BCHW: Tensor) -> Tensor:
        channels, height, width = hidden_BCHW.shape[1:]
        map_HW = self.weight.view(self.side, self.side)
        if self.beyond is not None:
            resampled_11HW = F.interpolate(
                map_HW[None, None], size=(height, width), mode="bilinear", align_corners=False
            )
            map_HW = resampled_11HW[0, 0] * (self.side**2 / (height * width))
        elif (height, width) != (self.side, self.side):
            raise ValueError(
                f"the weights of the global sum are for {self.side} x {self.side} tokens, "
                f"not {height} x {width}"
            )
        # [B, C, P] as a view, whether channels or rows lie together.
        hidden_BCP = hidden_BCHW.flatten(2)
        # A graph for any size has no branch on it.
        on_own_grid = (height, width) == (self.side, self.side) and not torch.compiler.is_exporting()
        if self.masked and (self.beyond is None or on_own_grid):
            return _sum_from_own_place(hidden_BCP.transpose(1, 2), map_HW.flatten())[..., None, None]
        if self.masked:
            weight_CP = map_HW.flatten() * self._mask(channels, height, width, map_HW.device)
            return torch.einsum("bcp,cp->bc", hidden_BCP, weight_CP)[..., None, None]
        return _weighted(hidden_BCP.transpose(1, 2), map_HW.flatten())[..., None, None]

    def _mask(self, channels: int, height: int, width: int, device: torch.device) -> Tensor:
        """bool [C, P]: which tokens a channel sums over."""
        row_H = torch.arange(height, device=device) * self.side // height
        column_W = torch.arange(width, device=device) * self.side // width
        place_P = (row_H[:, None] * self.side + column_W).flatten()
        return torch.arange(channels, device=device)[:, None] <= place_P


def _sum_from_own_place(hidden_BPC: Tensor, weight_P: Tensor) -> Tensor:
    """[B, C]: the sum of channel c from token c on. Only so many tokens as there are channels need a mask."""
    channels = hidden_BPC.shape[2]
    first_BC = _weighted(hidden_BPC[:, :channels].tril(), weight_P[:channels])
    return first_BC + _weighted(hidden_BPC[:, channels:], weight_P[channels:])


def _weighted(hidden_BPC: Tensor, weight_P: Tensor) -> Tensor:
    """[B, C], the sum over all tokens."""
    return torch.bmm(weight_P.expand(hidden_BPC.shape[0], 1, -1), hidden_BPC)[:, 0]
