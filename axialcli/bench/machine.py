"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from axialcli import __version__
from axialcli.engine import machine_bytes

PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "numpy", "imagecodecs", "tifffile")


def describe_machine() -> dict[str, Any]:
    """Processor, cores that may be used, memory, GPU and versions, in JSON's types."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "memory_bytes": machine_bytes(),
        "gpu": _gpu(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"axial": __version__, "python": platform.python_version(), **_versions()},
    }


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    """The processor's name as Linux knows it, elsewhere as Python does."""
    table = Path("/proc/cpuinfo")
    if table.exists():
        for line in table.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _gpu() -> dict[str, Any] | None:
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return {"name": found.name, "memory_bytes": found.total_memory}


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            # The wheels with and without CUDA are one library under two names.
            continue
    return found
