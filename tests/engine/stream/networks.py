"""Networks of the kinds that people bring, with random weights, for the stream's tests.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def double_conv(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
        nn.Conv2d(c_out, c_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """A U-Net as it is commonly written: max pooling, skips, and a padding that depends on the sizes."""

    def __init__(self, *, depth: int = 2, width: int = 4, transposed: bool = False) -> None:
        super().__init__()
        sizes = [width * 2**level for level in range(depth + 1)]
        self.inc = double_conv(3, width)
        self.down = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), double_conv(a, b)) for a, b in pairwise(sizes)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 2, stride=2)
            if transposed
            else nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(b, a, 1))
            for a, b in pairwise(sizes)
        )
        self.conv = nn.ModuleList(double_conv(2 * a, a) for a in sizes[:-1])
        self.out = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.inc(x)]
        for down in self.down:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for up, conv in zip(reversed(self.up), reversed(self.conv), strict=True):
            skip = skips.pop()
            x = up(x)
            missing_y, missing_x = skip.size()[2] - x.size()[2], skip.size(3) - x.size(3)
            x = F.pad(
                x,
                [missing_x // 2, missing_x - missing_x // 2, missing_y // 2, missing_y - missing_y // 2],
            )
            x = conv(torch.cat([skip, x], dim=1))
        return self.out(x)  # type: ignore[no-any-return]


class Mixture(nn.Module):
    """One of most operators that have a rule: dilation, groups, average pooling, nearest, shuffles, crops."""

    def __init__(self, *, kernel: int = 3, stride: int = 2, dilation: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, stride=stride, padding=3)
        self.wide = nn.Conv2d(8, 8, kernel, padding="same", dilation=dilation, groups=4)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1)
        self.act = nn.LeakyReLU(0.1, inplace=True)
        self.back = nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1, output_padding=0)
        self.even = nn.ConvTranspose2d(8, 16, 3, stride=stride, padding=1, output_padding=stride - 1)
        self.norm = nn.LayerNorm(16)
        self.mlp = nn.Linear(16, 12)
        self.head = nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        feature = F.relu(self.stem(x))
        low = self.act(self.wide(self.pool(feature)))
        low = self.back(low)[..., : feature.shape[2], : feature.shape[3]]
        y = self.even(feature * 0.5 + low.sigmoid())[:, :, :height, :width]
        tokens = self.mlp(self.norm(y.permute(0, 2, 3, 1)))
        y = tokens.permute(0, 3, 1, 2).contiguous()
        y = 1 - F.gelu(y[:, :6]) + y[:, 6:].clamp(-1, 1)
        y = F.avg_pool2d(F.interpolate(y, scale_factor=2, mode="nearest"), 2)
        return self.head(F.dropout(y, 0.5, self.training))  # type: ignore[no-any-return]


class Shuffles(nn.Module):
    """Pixels to channels and back, enlarged threefold and pooled again; the picture's sides divide by 4."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(48, 48, 3, padding=1)
        self.third = nn.AvgPool2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_unshuffle(F.pixel_unshuffle(x, 2), 2)
        x = self.third(F.interpolate(self.conv(x), scale_factor=3, mode="bilinear"))
        x = F.interpolate(F.interpolate(x, scale_factor=0.5, mode="bilinear"), scale_factor=2)
        return F.pixel_shuffle(F.pad(x, (1, 1, 1, 1))[:, :, 1:-1, 1:-1], 4)[:, :2]


def randomised(network: nn.Module, seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    """In evaluation mode, with lively statistics in its norms."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif name.endswith(("running_mean", "bias", "bias_AS")):
            tensor.normal_(0, 0.3, generator=generator)
        elif tensor.is_floating_point() and tensor.dim() > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
    return network.eval().to(dtype).requires_grad_(False)
