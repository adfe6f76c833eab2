"""What torch, numpy and ONNX Runtime say when memory runs out, as one kind of error."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from axialcli.errors import AllocationError

ADVICE = "use a smaller --batch, --tile or --max-ram"

WORDS = (
    "can't allocate memory",
    "not enough memory",
    "failed to allocate memory",
    "out of memory",
    "bad_alloc",
    "bad allocation",
    "alloc_failed",
)
"""Of the messages of allocators that have no exception of their own: torch's for the CPU, those of CUDA's
libraries, ONNX Runtime's."""


@contextmanager
def memory_is_a_limit() -> Iterator[None]:
    """Turns a failed allocation on any device into an AllocationError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise AllocationError(f"out of memory on the device: {ADVICE}") from error
    except MemoryError as error:
        raise AllocationError(f"out of memory: {ADVICE}") from error
    except RuntimeError as error:
        if not speaks_of_memory(str(error)):
            raise
        raise AllocationError(f"out of memory: {ADVICE}") from error


def speaks_of_memory(text: str) -> bool:
    """Whether a message of a library says that an allocation failed."""
    return any(words in text.lower() for words in WORDS)


def give_back_memory(device: torch.device) -> None:
    """Gives back what nobody uses any more but allocators still hold, so that less at once has room."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
