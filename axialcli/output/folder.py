"""The work folder beside an output, `OUT.partial/`: locked while in use, and emptied with care.

Only files that axial made are ever deleted; a folder with anything else in it is refused untouched.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from axialcli.errors import OutputError
from axialcli.output.closing import Closing
from axialcli.output.files import sync_folder, writing

LOCK = "lock"


def partial_folder(out: Path) -> Path:
    """Where the unfinished work of `out` lies: `OUT.partial` in the same folder."""
    return out.with_name(out.name + ".partial")


class WorkFolder(Closing):
    """A folder of ours, held by at most one run at a time; the lock dies with the process."""

    def __init__(self, path: Path, names: frozenset[str], lock: int) -> None:
        self.path = path
        self._names = names
        self._lock = lock

    @classmethod
    def open(cls, path: Path, names: Iterable[str]) -> WorkFolder:
        """Makes or enters the folder `path`, in which files called `names` are ours, and locks it.

        Raises OutputError where it cannot be made, holds anything else, or is in use.
        """
        known = frozenset(names) | {LOCK}
        with writing(path):
            made = _make(path)
            _refuse_foreign(path, known)
            if made:
                sync_folder(path.parent)
            lock = _lock(path / LOCK)
        return cls(path, known, lock)

    def file(self, name: str) -> Path:
        """The path of our file `name`, there or not."""
        assert name in self._names, name
        return self.path / name

    def clear(self) -> None:
        """Deletes our files except the lock. Raises OutputError."""
        with writing(self.path):
            for name in sorted(self._names - {LOCK}):
                self.file(name).unlink(missing_ok=True)
            sync_folder(self.path)

    def remove(self) -> bool:
        """Deletes our files and then the folder; False where something of others keeps it alive.

        Ends the lock. Raises OutputError.
        """
        self.clear()
        with writing(self.path):
            if sys.platform == "win32":  # An open file cannot be deleted there.
                self.close()
            self.file(LOCK).unlink(missing_ok=True)
            try:
                self.path.rmdir()
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                return False
            finally:
                self.close()
            sync_folder(self.path.parent)
        return True

    def close(self) -> None:
        """Ends the lock; the files stay, to be continued."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _make(path: Path) -> bool:
    try:
        path.mkdir()
    except FileExistsError:
        if path.is_dir() and not path.is_symlink():
            return False
        raise OutputError(
            f"{path} is in the way: axial keeps unfinished work in a folder of this name; move it away"
        ) from None
    return True


def _refuse_foreign(path: Path, known: frozenset[str]) -> None:
    with os.scandir(path) as entries:
        foreign = sorted(
            entry.name
            for entry in entries
            if entry.name not in known or not entry.is_file(follow_symlinks=False)
        )
    if foreign:
        raise OutputError(
            f"{path} holds '{foreign[0]}', which axial did not put there: move it away, "
            "or choose another output"
        )


def _lock(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock_handle(handle, path)
            # The run before us may have deleted the file between our open and our lock.
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock_handle(handle: int, path: Path) -> None:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK):
            raise
        raise OutputError(
            f"{path.parent} is in use by another run: wait for it, or choose another output"
        ) from None
