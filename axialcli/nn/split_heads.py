"""Attention along both axes at once, half of the heads along each.

Shapes: B batch, H height, W width, C channels of tokens.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.nn.attention import AxialAttention, Positions


class SplitHeadsAttention(nn.Module):
    """Multi-head attention whose first half of heads sees columns and whose second half sees rows.

    forward: tokens_BHWC -> [B, H, W, C]. span, positions: of both halves, see AxialAttention. Each half adds
    to what it attends a convolution of its values, channel by channel, three tokens long along its axis;
    beyond the edge of the picture the values are 0.

    This is CSWin's attention for stripes one token wide. There queries, keys and values are one projection,
    of which each half takes its heads; the output projection takes both halves side by side; and the
    convolution is 3 x 3 within a stripe, with zeros beyond the stripe's edge: where a stripe is one token
    wide, the kernel's middle line is all that meets numbers. A projection of halves side by side is the
    sum of the halves' projections, and so this is the sum of two AxialAttentions of C / 2 channels each.
    (Their two output biases act as their sum.) The values are projected once more for the convolution.

    Raises ValueError for sizes that do not fit. Source: Dong et al. 2022 (arXiv 2107.00652, cross-shaped
    window self-attention and locally-enhanced positional encoding); which half goes where, as in its code.
    """

    def __init__(self, *, channels: int, heads: int, span: int | None, positions: Positions = "none") -> None:
        super().__init__()
        if heads % 2:
            raise ValueError(f"{heads} heads have no halves: split heads want an even number")
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} heads")
        inner = channels // 2
        self.height, self.width = (
            AxialAttention(
                channels=channels, heads=heads // 2, axis=axis, span=span, positions=positions, inner=inner
            )
            for axis in ("height", "width")
        )
        self.local_height = nn.Conv2d(inner, inner, (3, 1), padding=(1, 0), groups=inner)
        self.local_width = nn.Conv2d(inner, inner, (1, 3), padding=(0, 1), groups=inner)

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        along_height_BHWC = self.height(tokens_BHWC) + _local(self.height, self.local_height, tokens_BHWC)
        along_width_BHWC = self.width(tokens_BHWC) + _local(self.width, self.local_width, tokens_BHWC)
        return along_height_BHWC + along_width_BHWC  # type: ignore[no-any-return]


def _local(attention: AxialAttention, convolution: nn.Conv2d, tokens_BHWC: Tensor) -> Tensor:
    """What the convolution of the values adds behind the output projection."""
    qkv, first = attention.qkv, 2 * attention.inner
    values_BHWC = F.linear(tokens_BHWC, qkv.weight[first:], qkv.bias[first:])
    local_BHWC = convolution(values_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return F.linear(local_BHWC, attention.proj.weight)
