"""What torch and numpy say when memory runs out, as one kind of error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from axialcli.errors import LimitError


@contextmanager
def memory_is_a_limit() -> Iterator[None]:
    """Turns a failed allocation on any device into a LimitError."""
    advice = "use a smaller --batch, --tile or --max-ram"
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise LimitError(f"out of memory on the device: {advice}") from error
    except MemoryError as error:
        raise LimitError(f"out of memory: {advice}") from error
    except RuntimeError as error:
        # The CPU's allocator has no exception of its own.
        if "can't allocate memory" not in str(error):
            raise
        raise LimitError(f"out of memory: {advice}") from error
