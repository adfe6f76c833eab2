"""Files that axial writes: how they are opened and synced, and what their failures say.

Every OSError on the way out becomes an OutputError here. Nothing is ever mapped into memory: on a
full disk a mapped page is a signal, not an exception.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from axialcli.errors import OutputError

_ADVICE = {
    errno.ENOSPC: "free some space, then run the same command again",
    errno.EDQUOT: "free some space, then run the same command again",
    errno.EFBIG: "a limit on the size of files is set here: raise it, or write to another disk",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.ENOENT: "make its folder first",
    errno.ENOTDIR: "a part of this path is a file: choose another one",
    errno.EISDIR: "this is a folder: choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def output_error(path: Path, error: OSError) -> OutputError:
    """The one-line error for a failure to write `path`: what the system said, and what to do."""
    reason = error.strerror or str(error) or type(error).__name__
    advice = _ADVICE.get(error.errno or 0, "check the disk, then run the same command again")
    return OutputError(f"cannot write {path}: {reason}; {advice}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError of the body into the OutputError of `path`."""
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error


def open_file(path: Path, *, create: bool = False) -> io.FileIO:
    """Opens `path` for reading and writing, unbuffered. create: make it anew, empty.

    The file must be there unless `create`. Raises OSError.
    """
    return io.FileIO(path, "w+" if create else "r+")


def write_at(file: io.FileIO, offset: int, data: bytes) -> None:
    """Writes all of `data` at `offset`. Raises OSError; what lies before `offset` is never touched."""
    file.seek(offset)
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def sync_file(file: io.FileIO | io.BufferedRandom) -> None:
    """Asks the disk to hold what was written. Raises OSError."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Asks the disk to hold the names in `folder`. Raises OSError."""
    if sys.platform == "win32":  # Folders cannot be opened there; NTFS journals names itself.
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, data: bytes) -> Path:
    """Writes a whole new file and syncs it. Returns `path`; raises OutputError."""
    with writing(path), open_file(path, create=True) as file:
        write_at(file, 0, data)
        sync_file(file)
    return path
