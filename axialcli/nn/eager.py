"""Where a step of our own may stand in for several of torch's."""

from __future__ import annotations

import torch
from torch import Tensor


def eager(*tensors: Tensor | None) -> bool:
    """Whether these are only to be computed with: nothing traces or compiles, and none wants a gradient."""
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if traced or torch.compiler.is_compiling():
        return False
    return not (torch.is_grad_enabled() and any(p is not None and p.requires_grad for p in tensors))
