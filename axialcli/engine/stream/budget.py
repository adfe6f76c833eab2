"""What a stream may take of memory: the process's, and on a GPU the device's."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from axialcli.engine.memory import resident_bytes

DEVICE_SHARE = 0.9
"""Of a GPU's free memory; the rest is for what the allocator cannot join and for libraries' own."""

UNSEEN_BYTES = 24 << 20
"""What kernels and allocators keep for themselves, and no plan counts: measured, on slides of zeros."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """free_bytes: for line buffers, steps and a store in memory. fixed_bytes: what libraries, model and
    all else take of the same memory. on_device: it is the GPU's memory, which --max-ram does not raise."""

    free_bytes: int
    fixed_bytes: int
    on_device: bool


def make_budget(device: torch.device, *, max_ram_bytes: int, given: bool, spare_bytes: int) -> Budget:
    """The budget on that device, measured now.

    max_ram_bytes: what the whole process may take; given: whether the user said so. spare_bytes: of it,
    for others. On a GPU its free memory counts, and a --max-ram only where it is less.
    """
    fixed = resident_bytes() + spare_bytes
    of_process = Budget(free_bytes=max_ram_bytes - fixed, fixed_bytes=fixed, on_device=False)
    if device.type != "cuda":
        return of_process
    free = device_free_bytes(device)
    if given and of_process.free_bytes < free:
        return of_process
    return Budget(free_bytes=free, fixed_bytes=0, on_device=True)


def device_free_bytes(device: torch.device) -> int:
    """What this process may still take of a GPU's memory; what its allocator holds unused counts as free."""
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(DEVICE_SHARE * (free + unused))
