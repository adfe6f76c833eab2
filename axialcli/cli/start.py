"""Where the command `axial` starts and ends: signals are caught before anything slow is imported."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(BaseException):
    """SIGINT or SIGTERM arrived: unwind, so that files are closed and locks released, then exit.

    text: what is said of it; whoever leaves unfinished work behind that can be continued adds so.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number
        self.text = "interrupted" if number == signal.SIGINT else "terminated"


@contextmanager
def imports() -> Iterator[None]:
    """For imports of much: garbage is looked for neither meanwhile nor, ever after, in what they brought.

    Little of it is garbage, and looking through it is a tenth of an import of torch.
    """
    looked_for = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if looked_for:
            gc.enable()


def main() -> None:
    """Runs the command line and exits with the code of DESIGN's contract."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        with imports():
            from axialcli.cli.app import run

        code = run(sys.argv[1:])
    except Stopped as stop:
        print(f"axial: error: {stop.text}", file=sys.stderr)
        code = stop.exit_code
    _ignore()
    # Python looks for garbage as it ends, in all that there is: a quarter of a second where torch is.
    gc.freeze()
    sys.exit(code)


def _stop(number: int, frame: FrameType | None) -> None:
    # A second signal would interrupt the unwinding of the first.
    _ignore()
    raise Stopped(number)


def _ignore() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
