"""How the tests run a network with barriers.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from axialcli.engine.stream.barrier import BarrierFlow
from axialcli.engine.stream.trace import trace
from axialcli.geometry import Size

CPU = torch.device("cpu")


def barrier_flow(
    network: nn.Module, image_BCHW: Tensor, *, scratch: Path | None = None, **settings: Any
) -> BarrierFlow:
    """A flow that computes and stores in the picture's own precision, unless told otherwise."""
    dtype = image_BCHW.dtype
    size = Size(*image_BCHW.shape[2:])
    given: dict[str, Any] = {"max_bytes": 1 << 30, "store_dtype": dtype, "fingerprint": {"slide": "test"}}
    return BarrierFlow(
        trace(network, image_BCHW.shape[1], size),
        dtype=dtype,
        device=CPU,
        scratch=scratch,
        name="test",
        **(given | settings),
    )


def prepared(flow: BarrierFlow, image_BCHW: Tensor, note_s: float = 0.0) -> bool:
    with torch.inference_mode():
        return flow.prepare(lambda start, stop: image_BCHW[:, :, start:stop], note_s=note_s)


def last_sweep(flow: BarrierFlow, image_BCHW: Tensor, row: int = 0) -> Tensor:
    """The logits of the rows from `row` on."""
    height = image_BCHW.shape[2]
    found: list[Tensor] = []
    with torch.inference_mode():
        for step in range(flow.begin(row), flow.schedule.steps):
            start, stop = flow.wanted(0, step)
            fed = {0: image_BCHW[:, :, start:stop]} if start < stop else {}
            for first, rows_BKHW in flow.run(step, fed).values():
                found.append(rows_BKHW[:, :, max(0, row - first) :].clone())
    logits_BKHW = torch.cat(found, 2)
    assert logits_BKHW.shape[2] == height - row
    return logits_BKHW
