"""For tests of model files: the command line as a function, every file that is opened, a folder."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from axialcli.cli.app import run
from tests.fixtures.external import Place

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


_watched: list[list[str]] = []


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _watched:
        _watched[-1].append(str(arguments[0]))


sys.addaudithook(_watch)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The paths of all files that are opened while the test runs, by any code of this process."""
    _watched.append([])
    yield _watched[-1]
    _watched.pop()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)
