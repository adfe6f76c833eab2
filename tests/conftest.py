"""What all tests share: settings of hypothesis, and a GPU only where there is one."""

from __future__ import annotations

import os

# Before torch is loaded: its threads spin while they wait, which starves everything else on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
from hypothesis import settings

# Machines differ in speed, so time is no failure; the same examples run everywhere.
settings.register_profile("axial", deadline=None, derandomize=True)
settings.load_profile("axial")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what is marked `gpu` on machines without CUDA."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
