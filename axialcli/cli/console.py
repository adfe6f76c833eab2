"""What goes to the terminal: results to stdout, one-line errors to stderr, no control characters."""

from __future__ import annotations

import io
import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from axialcli.errors import OutputError

MOST_CLASSES = 20
"""Of how many classes a summary has a line each."""


def say(text: str) -> None:
    """Prints a result. A reader that has gone away is no error; a full disk is an OutputError."""
    try:
        typer.echo(text)
    except BrokenPipeError:
        # Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(f"cannot write to standard output: {error.strerror}") from error


def as_text(table: Table, width: int = 100) -> str:
    """A table as text, as wide as the terminal, or `width` columns where nobody looks."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    text = io.StringIO()
    Console(file=text, highlight=False, markup=False, width=width).print(table)
    return text.getvalue().rstrip("\n")


def classes_shown(
    entries: Sequence[dict[str, Any]], pixels: Callable[[dict[str, Any]], int], count: int
) -> tuple[list[dict[str, Any]], int]:
    """The classes that a summary shows, and how many more occur; count: of all that there are.

    Of up to 20 classes all, in their order; of more those that occur, the largest first.
    """
    if count <= MOST_CLASSES:
        return list(entries), 0
    found = sorted((entry for entry in entries if pixels(entry)), key=pixels, reverse=True)
    return found[:MOST_CLASSES], max(0, len(found) - MOST_CLASSES)


def printable(text: str) -> str:
    """The text with its control characters escaped: names of files cannot play tricks on a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class _OneLine(logging.Formatter):
    """A message as one line that a terminal shows as it is."""

    def format(self, record: logging.LogRecord) -> str:
        kind = "warning: " if record.levelno >= logging.WARNING else ""
        return f"axial: {kind}{printable(record.getMessage())}"


def show_messages() -> None:
    """What the libraries have to say goes to stderr, a line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    logger = logging.getLogger("axial")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
