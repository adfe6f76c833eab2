"""The command line as a function, for tests that give hundreds of files to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from axialcli.cli.app import run

Axial = Callable[..., tuple[int, str, str]]
"""Arguments of the command -> exit code, stdout, stderr."""


@pytest.fixture
def axial(capsys: pytest.CaptureFixture[str]) -> Iterator[Axial]:
    """Runs a command in this process, and leaves the logger as it was."""
    logger = logging.getLogger("axial")
    before = logger.handlers[:], logger.level, logger.propagate

    def command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    yield command
    logger.handlers[:], logger.level, logger.propagate = before
