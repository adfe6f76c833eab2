"""What the families' layers cost beside their plain formulation: python tests/measure/families.py

One thread, and the time that it has the core. The plain formulation is what tests/nn compares with: tables
gathered for all pairs beforehand, one einsum a term, norms as norms. Both sides make their projection. What
is compared takes turns, so that a busy moment hits both alike; medians. Another family adds to CASES.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Before torch is loaded: threads that wait are not to take a core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor

from axialcli.nn.families.axial_resnet import SIZES, AxialResNet
from axialcli.nn.families.position_sensitive import PositionSensitiveAttention
from tests.nn.families import plain_positions


@dataclass(frozen=True)
class Case:
    """Two ways to the same numbers. name: what is compared, for people."""

    name: str
    plain: Callable[[], Tensor]
    ours: Callable[[], Tensor]


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            tensor.normal_(0, 0.3)
    return network.eval().requires_grad_(False)


def position_sensitive(length: int, planes: int, axis: str, span: int | None = None) -> Case:
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
    return Case(name, plain, lambda: layer(tokens_BHWC))


def axial_resnet(name: str) -> Case:
    """A whole network at its size of 224."""
    from axialcli.backends.torch_model import fold

    network = shaken(AxialResNet(SIZES[name]))
    assert isinstance(network, AxialResNet)
    weights = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    fold(network)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # stubs lack it
    image_BCHW = torch.randn(1, 3, 224, 224)

    def plain() -> Tensor:
        features_BCHW = plain_positions.stages(image_BCHW, weights)[-1]
        return torch.nn.functional.linear(
            features_BCHW.mean((2, 3)), weights["fc.weight"], weights["fc.bias"]
        )

    return Case(f"Axial-ResNet {name}, one picture of 224 x 224", plain, lambda: network(image_BCHW))


def position_sensitive_cases() -> Iterator[Case]:
    for length, planes in ((7, 512), (14, 256), (28, 128), (56, 64), (56, 128), (128, 64), (256, 64)):
        for axis in ("width", "height"):
            yield position_sensitive(length, planes, axis)
    for length in (128, 256):
        yield position_sensitive(length, 64, "height", span=65)
    for name in ("26-S", "50-S"):
        yield axial_resnet(name)


CASES: dict[str, Callable[[], Iterator[Case]]] = {"position-sensitive": position_sensitive_cases}
"""By family."""


def seconds(case: Case, repeats: int) -> tuple[float, float]:
    """Medians of the plain way and of ours, which take turns."""
    taken: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for way, times in zip((case.plain, case.ours), taken, strict=True):
            start = time.process_time()
            way()
            if repeat:
                times.append(time.process_time() - start)
    return statistics.median(taken[0]), statistics.median(taken[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", choices=[*CASES, []], help="by default all")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'plain':>10} {'ours':>10} {'times faster':>13}   one thread, medians of {args.repeats}")
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
