"""Blocks that networks are made of: convolutions with frozen statistics, and the axial block.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from torch import Tensor, nn

from axialcli.nn.attention import AxialAttention


def conv_bn_relu(c_in: int, c_out: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU; zero padding keeps ceil(size / stride).

    At inference the batch norm is a fixed scale and shift, so that a pixel's value depends on its
    neighbourhood alone, and folds into the convolution.
    """
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    )


class AxialBlock(nn.Module):
    """Pre-norm transformer block: attention along the width, then along the height, then an MLP.

    forward: tokens_BHWC -> [B, H, W, C].
    """

    def __init__(self, *, channels: int, heads: int, span: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm_width = nn.LayerNorm(channels)
        self.width = AxialAttention(channels=channels, heads=heads, span=span, axis="width")
        self.norm_height = nn.LayerNorm(channels)
        self.height = AxialAttention(channels=channels, heads=heads, span=span, axis="height")
        self.norm_mlp = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, mlp_ratio * channels),
            nn.GELU(),
            nn.Linear(mlp_ratio * channels, channels),
        )

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        tokens_BHWC = tokens_BHWC + self.width(self.norm_width(tokens_BHWC))
        tokens_BHWC = tokens_BHWC + self.height(self.norm_height(tokens_BHWC))
        return tokens_BHWC + self.mlp(self.norm_mlp(tokens_BHWC))  # type: ignore[no-any-return]
