"""What the families' layers cost beside their plain formulation: python tests/measure/families.py

One thread, and the time that it has the core. The plain formulations are those of tests/nn/families (see
plain_*.py): tables gathered for all pairs, products and a softmax, masks, norms as norms. Ours is the network
as it runs: folded, channels last. Both have to give the same numbers. What is compared takes turns, so that a
busy moment hits both alike; medians. Another family adds to CASES.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

# Before torch is loaded: threads that wait are not to take a core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor

from axialcli.nn.families.axial_resnet import SIZES
from axialcli.nn.families.position_sensitive import PositionSensitiveAttention
from tests.nn.families import plain_positions, plain_segmenters, plain_transformers, plain_vminet
from tests.nn.families.pairs import Pair, Plain, axial_resnet, of_lucidrains, of_picture

LONG, LEAST = 5.0, 5
"""Seconds after which a case ends, with so many repeats at the least."""


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            tensor.normal_(0, 0.3)
    return network.eval().requires_grad_(False)


def position_sensitive(length: int, planes: int, axis: str, span: int | None = None) -> Pair:
    """One pass over length x length tokens, or as many lines as fit beside it."""
    lines = max(2, min(length, 2**20 // length**2))
    grid = (lines, length) if axis == "width" else (length, lines)
    table = length if span is None else span // 2 + 1
    layer = shaken(
        PositionSensitiveAttention(planes, planes, axis=axis, length=table, span=span)  # type: ignore[arg-type]
    )
    assert isinstance(layer, PositionSensitiveAttention)
    weights = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    tokens_BHWC = torch.randn(1, *grid, planes)
    # The plain layer's own layout: channels first.
    lines_NCL = tokens_BHWC[0].permute(0, 2, 1) if axis == "width" else tokens_BHWC[0].permute(1, 2, 0)
    lines_NCL = lines_NCL.contiguous()
    sees = None
    if span is not None:
        longer = length - table
        weights["relative"] = torch.nn.functional.pad(weights["relative"], (longer, longer))
        place = torch.arange(length)
        sees = (place[:, None] - place[None]).abs() <= span // 2
    tables = plain_positions.gathered(weights, length)
    layer.fold()

    def plain() -> Tensor:
        made_NCL = plain_positions.attention(lines_NCL, weights, tables, sees)
        return made_NCL.permute(0, 2, 1)[None] if axis == "width" else made_NCL.permute(2, 0, 1)[None]

    local = "" if span is None else f", span {span}"
    name = f"position-sensitive, {lines:3} lines of {length:4} tokens, {planes:4} channels, {axis}{local}"
    return Pair(name, plain, lambda: layer(tokens_BHWC))


def position_sensitive_cases() -> Iterator[Pair]:
    for length, planes in ((7, 512), (14, 256), (28, 128), (56, 64), (56, 128), (128, 64), (256, 64)):
        for axis in ("width", "height"):
            yield position_sensitive(length, planes, axis)
    for length in (128, 256):
        yield position_sensitive(length, 64, "height", span=65)


def of_224(name: str, plain: Plain, architecture: str, **config: Any) -> Pair:
    return of_picture(name, plain, architecture, (224, 224), torch.float32, **config)


def axial_resnet_cases() -> Iterator[Pair]:
    for name in ("26-S", "50-S"):
        yield of_224(f"Axial-ResNet {name}", axial_resnet, "axial_resnet", **vars(SIZES[name]))


def axial_deeplab_cases() -> Iterator[Pair]:
    """At a tile's size: its own pictures are 1025 x 2049."""
    plain = partial(plain_segmenters.axial_deeplab, span=65)
    yield of_picture("Axial-DeepLab S", plain, "axial_deeplab", (320, 320), torch.float32)


def medt_cases() -> Iterator[Pair]:
    size, number = (128, 128), torch.float32
    for name, gated in (("axial U-Net", False), ("gated axial U-Net", True)):
        yield of_picture(name, plain_segmenters.axial_unet, "axial_unet", size, number, gated=gated)
    for name, gated in (("MedT", True), ("LoGo", False)):
        yield of_picture(name, plain_segmenters.medt, "medt", size, number, gated=gated)


def vminet_cases() -> Iterator[Pair]:
    for version in ("v1", "v2"):
        yield of_224(f"VMINet Ti {version}", plain_vminet.vminet, "vminet", base_dim=24, version=version)


def transformer_cases() -> Iterator[Pair]:
    yield of_224("DeiT-Ti", plain_transformers.vit, "vit")
    yield of_224("Swin-T", partial(plain_transformers.swin, window=7), "swin")
    plain = partial(plain_transformers.axial_transformer, heads=4, stride=4)
    yield of_picture("Axial Transformer", plain, "axial_transformer", (256, 256), torch.float32)
    yield from of_lucidrains(torch.float32, dim=128, depth=2, grid=(64, 64))


CASES: dict[str, Callable[[], Iterator[Pair]]] = {
    "position-sensitive": position_sensitive_cases,
    "axial-resnet": axial_resnet_cases,
    "axial-deeplab": axial_deeplab_cases,
    "medt": medt_cases,
    "vminet": vminet_cases,
    "transformers": transformer_cases,
}
"""By family."""


def seconds(case: Pair, repeats: int) -> tuple[float, float]:
    """Medians of the plain way and of ours, which take turns."""
    taken: tuple[list[float], list[float]] = ([], [])
    began = time.process_time()
    for repeat in range(repeats + 1):
        for way, times in zip((case.plain, case.ours), taken, strict=True):
            start = time.process_time()
            way()
            if repeat:
                times.append(time.process_time() - start)
        if repeat >= LEAST and time.process_time() - began > LONG:
            break
    return statistics.median(taken[0]), statistics.median(taken[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", choices=[*CASES, []], help="by default all")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'plain':>10} {'ours':>10} {'times faster':>13}   one thread, medians of up to {args.repeats}")
    with torch.inference_mode():
        for family in args.families or CASES:
            for case in CASES[family]():
                expected, found = case.plain(), case.ours()
                error = float((found - expected).abs().max() / expected.abs().max())
                assert error < 1e-4, f"{case.name}: the two differ by {error:.1e}"
                plain_s, ours_s = seconds(case, args.repeats)
                print(f"{plain_s * 1e3:8.1f}ms {ours_s * 1e3:8.1f}ms {plain_s / ours_s:12.2f}x   {case.name}")


if __name__ == "__main__":
    main()
