"""What all tests share: settings of hypothesis, threads, and a GPU only where there is one."""

from __future__ import annotations

import os

# Before torch is loaded: its threads spin while they wait, which starves everything else on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from hypothesis import settings

# Machines differ in speed, so time is no failure; the same examples run everywhere.
settings.register_profile("axial", deadline=None, derandomize=True)
settings.load_profile("axial")

if "PYTEST_XDIST_WORKER" in os.environ:
    # There is a worker for every core. What tests start as a process of its own takes all, as users have it.
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what is marked `gpu` on machines without CUDA."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
