"""Whatever a library says when memory runs out is one kind of error, and nothing else is."""

from __future__ import annotations

import pytest
import torch

from axialcli.backends.memory import give_back_memory, memory_is_a_limit
from axialcli.errors import AllocationError


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: not enough memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 5.83 GB)"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_a_failed_allocation_is_an_allocation_error(error: Exception) -> None:
    with pytest.raises(AllocationError, match="out of memory") as found, memory_is_a_limit():
        raise error
    assert found.value.exit_code == 6


def test_any_other_error_passes() -> None:
    with pytest.raises(RuntimeError, match="shape") as found, memory_is_a_limit():
        raise RuntimeError("shape '[2]' is invalid for input of size 3")
    assert type(found.value) is RuntimeError


def test_a_real_allocation_that_fails() -> None:
    with pytest.raises(AllocationError), memory_is_a_limit():
        torch.empty(1 << 60)


@pytest.mark.parametrize(("device", "calls"), [("cuda", 1), ("cpu", 0)])
def test_a_gpus_cache_is_emptied(device: str, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    give_back_memory(torch.device(device))
    assert len(emptied) == calls
