"""Running `axial` as a user does: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

Axial = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def axial(tmp_path: Path) -> Axial:
    """Runs `axial ARGUMENTS` in tmp_path and returns the finished process, its output as text."""

    def run(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(arguments),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, **(env or {})},
        )

    return run


def command(arguments: Sequence[str | Path]) -> list[str]:
    """The command line of one run."""
    return [sys.executable, "-m", "axialcli", *map(str, arguments)]
