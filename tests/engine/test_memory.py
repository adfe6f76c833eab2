"""What a program asks of the C library."""

from __future__ import annotations

import ctypes

import pytest

from axialcli.engine import memory


class Library:
    """Stands in for the C library. takes: what its mallopt answers."""

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.asked: list[tuple[int, int]] = []

    def mallopt(self, setting: int, value: int) -> int:
        self.asked.append((setting, value))
        return self.takes


@pytest.fixture
def glibc(monkeypatch: pytest.MonkeyPatch) -> Library:
    library = Library(takes=1)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("glibc", "2.36"))
    for name in ("MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    return library


def test_large_pieces_come_from_memory_that_was_freed(glibc: Library) -> None:
    memory.keep_freed_memory()

    # -3 and -1 in malloc.h; no glibc of 64 bits refuses 32 MiB.
    assert glibc.asked == [(-3, 32 << 20), (-1, 256 << 20)]


def test_a_library_that_refuses_the_first_setting_is_left_alone(glibc: Library) -> None:
    glibc.takes = 0

    memory.keep_freed_memory()

    assert [setting for setting, _ in glibc.asked] == [-3]


def test_what_the_environment_says_stays(glibc: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    memory.keep_freed_memory()
    assert glibc.asked == []


def test_other_libraries_are_not_asked(glibc: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    memory.keep_freed_memory()
    assert glibc.asked == []
