"""Every error that axial raises on purpose, with the exit code that the command line answers.

AxialError                     1  a bug, unless a subclass says better
├── UsageError                 2  options that contradict each other or the picture
├── ImageError                 3  the image cannot be read
├── ModelError                 4  the model is refused
├── OutputError                5  the output cannot be written
└── LimitError                 6  over a limit
    └── AllocationError        6  out of memory

A message is one line: it names the file, what is wrong with it and what to do.
"""

from __future__ import annotations


class AxialError(Exception):
    """Base of all errors that are shown as one line."""

    exit_code = 1


class UsageError(AxialError):
    """Options that contradict each other, the picture or the model."""

    exit_code = 2


class ImageError(AxialError):
    """The image cannot be read: not a picture, damaged, or of a kind that is refused."""

    exit_code = 3


class ModelError(AxialError):
    """The model is missing, damaged, unsafe, or does not fit the picture."""

    exit_code = 4


class OutputError(AxialError):
    """The output exists already, or cannot be written."""

    exit_code = 5


class LimitError(AxialError):
    """A limit on memory, sizes or allocations would be passed."""

    exit_code = 6


class AllocationError(LimitError):
    """Memory ran out in the middle of the work; less at once may fit."""
