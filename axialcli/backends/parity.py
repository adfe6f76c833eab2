"""The parity gate: whether two backends give the same answers.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from axialcli.backends.model import Model
from axialcli.backends.spec import ModelSpec
from axialcli.errors import ModelError

PARITY_KEY = "axial_parity"

SHAPES = ((1, 256, 256), (1, 193, 131), (1, 96, 320), (1, 37, 21), (3, 128, 160), (1, 1, 1))
"""Batch, height and width: a usual tile, odd, not square, smaller than any tile, three at once, one pixel."""

BATCHES = (1, 2, 3, 1, 5)
"""Batches of a network that takes one height and width."""

TIE = 2e-4
"""Two classes whose probabilities differ by no more than this are a tie."""

TIE_HALF = 1e-2
"""The same in float16, whose numbers have three digits."""

LARGEST = 1e-3
"""How far logits may lie apart, as a share of the largest of them (and of 1 at least), in float32."""

LARGEST_HALF = 5e-2
"""The same in float16: some ten roundings of three digits on the way."""

LEAST_HALF = 0.999
"""The share of pixels outside ties that keep their class in float16; in float32 it is all of them."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How two backends compared on pictures of one shape.

    provider: what ran the candidate. shape: batch, height, width. largest: difference of two logits, and of
    which size logits are. agreement: share of pixels outside ties that have the same class.
    """

    provider: str
    shape: tuple[int, int, int]
    largest_difference: float
    largest_logit: float
    agreement: float

    def describe(self) -> dict[str, Any]:
        return asdict(self)


def trial_images(spec: ModelSpec, seed: int = 0) -> list[Tensor]:
    """Pictures [B, C, H, W], uint8, of shapes that are easily got wrong: blobs, noise and blank glass."""
    generator = torch.Generator().manual_seed(seed)
    size = spec.input.size
    shapes = SHAPES if size is None else tuple((batch, *size) for batch in BATCHES)
    return [_image(batch, len(spec.input.channels), side, generator) for batch, *side in shapes]


def _image(batch: int, channels: int, side: list[int], generator: torch.Generator) -> Tensor:
    coarse = [max(1, length // 12) for length in side]
    blobs_BCHW = F.interpolate(
        torch.rand(batch, channels, *coarse, generator=generator), side, mode="bilinear", align_corners=False
    )
    noise_BCHW = torch.rand(batch, channels, *side, generator=generator)
    image_BCHW = (224 * blobs_BCHW + 31 * noise_BCHW).to(torch.uint8)
    image_BCHW[:, :, : side[0] // 4] = 244
    return image_BCHW


def compare(reference: Model, candidate: Model, images: Iterable[Tensor], *, half: bool) -> list[Parity]:
    """Runs both on the images [B, C, H, W]; one Parity for each.

    half: the candidate computes in float16. Raises ModelError where shapes differ, logits are farther apart
    than rounding explains, or a pixel outside ties has another class.
    """
    tie, largest, least = (TIE_HALF, LARGEST_HALF, LEAST_HALF) if half else (TIE, LARGEST, 1.0)
    found = []
    for image_BCHW in images:
        batch, _, height, width = image_BCHW.shape
        want, got = (model.predict(image_BCHW, logits=True).cpu() for model in (reference, candidate))
        said = f"on {batch} x {height} x {width} pixels"
        if want.shape != got.shape:
            raise ModelError(
                f"the export is wrong: {said} it answers {list(got.shape)}, torch {list(want.shape)}"
            )
        parity = Parity(
            provider=str(candidate.runtime()["provider"]),
            shape=(batch, height, width),
            largest_difference=float((want - got).abs().max()),
            largest_logit=float(want.abs().max()),
            agreement=_agreement(reference, want, got, tie),
        )
        # So written that NaN fails.
        if not (
            parity.largest_difference <= largest * max(1.0, parity.largest_logit)
            and parity.agreement >= least
        ):
            raise ModelError(
                f"the export is wrong: {said} ({parity.provider}) logits differ by up to "
                f"{parity.largest_difference:.2g} and {100 * (1 - parity.agreement):.2g} % of the classes"
            )
        found.append(parity)
    return found


def _agreement(model: Model, want: Tensor, got: Tensor, tie: float) -> float:
    """The share of pixels that have the same class in both, of those that are no tie in `want`."""
    wanted_BK, gotten_BK = model.activate(want), model.activate(got)
    best = wanted_BK.topk(2, 1).values
    clear = best[:, 0] - best[:, 1] > tie
    if not clear.any():
        return 1.0
    classes = [torch.stack([model.decide(p) for p in probs_BK]) for probs_BK in (wanted_BK, gotten_BK)]
    return float((classes[0] == classes[1])[clear].float().mean())
