"""Every family's network, folded, gives the numbers of its plain formulation: what is timed is the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from tests.nn.families import plain_segmenters, plain_transformers, plain_vminet
from tests.nn.families.pairs import Pair, axial_resnet, of_lucidrains, of_picture

ONCE = (1, 1, 1, 1)
PLANES = (16, 16, 32, 32)

SMALL: dict[str, Callable[[torch.dtype], Pair]] = {
    "axial_resnet": lambda dtype: of_picture(
        "Axial-ResNet",
        axial_resnet,
        "axial_resnet",
        (32, 64),
        dtype,
        trained_size=(32, 64),
        stage_planes=PLANES,
        stage_depths=ONCE,
    ),
    "axial_deeplab": lambda dtype: of_picture(
        "Axial-DeepLab",
        partial(plain_segmenters.axial_deeplab, span=5),
        "axial_deeplab",
        (70, 101),
        dtype,
        span=5,
        stage_planes=PLANES,
        stage_depths=ONCE,
    ),
    **{
        f"{'gated ' * gated}axial_unet": partial(
            lambda gated, dtype: of_picture(
                "axial U-Net",
                plain_segmenters.axial_unet,
                "axial_unet",
                (32, 32),
                dtype,
                picture_size=32,
                unet_depths=ONCE,
                gated=gated,
            ),
            gated,
        )
        for gated in (False, True)
    },
    **{
        ("medt" if gated else "logo"): partial(
            lambda gated, dtype: of_picture(
                "MedT", plain_segmenters.medt, "medt", (128, 128), dtype, unet_depths=ONCE, gated=gated
            ),
            gated,
        )
        for gated in (False, True)
    },
    **{
        f"vminet {version}": partial(
            lambda version, dtype: of_picture(
                "VMINet",
                plain_vminet.vminet,
                "vminet",
                (64, 64),
                dtype,
                base_dim=8,
                stage_blocks=ONCE,
                trained_side=64,
                version=version,
            ),
            version,
        )
        for version in ("v1", "v2")
    },
    "vit": lambda dtype: of_picture(
        "ViT",
        plain_transformers.vit,
        "vit",
        (12, 12),
        dtype,
        vit_width=128,
        vit_depth=2,
        patch=4,
        token_grid=3,
    ),
    "swin": lambda dtype: of_picture(
        "Swin",
        partial(plain_transformers.swin, window=3),
        "swin",
        (192, 192),
        dtype,
        swin_width=32,
        swin_depths=(2, 2, 2, 2),
        swin_window=3,
    ),
    "axial_transformer": lambda dtype: of_picture(
        "Axial Transformer",
        partial(plain_transformers.axial_transformer, heads=2, stride=4),
        "axial_transformer",
        (20, 28),
        dtype,
        token_width=16,
        heads=2,
        trained_grid=(5, 7),
    ),
    "lucidrains attention": lambda dtype: of_lucidrains(dtype, dim=16, depth=1, grid=(5, 7))[0],
    "lucidrains transformer": lambda dtype: of_lucidrains(dtype, dim=16, depth=1, grid=(5, 7))[1],
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_both_give_the_same_numbers(name: str, dtype: torch.dtype, most: float) -> None:
    torch.manual_seed(0)
    pair = SMALL[name](dtype)

    with torch.inference_mode():
        expected, found = pair.plain(), pair.ours()

    scale = float(expected.abs().max())
    assert found.shape == expected.shape
    assert float(expected.std()) > 1e-3 * scale
    assert float((found - expected).abs().max()) < most * scale
