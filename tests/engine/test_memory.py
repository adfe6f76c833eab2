"""What a program asks of the C library."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys

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

    # -3, -1 and -8 in malloc.h; no glibc of 64 bits refuses 32 MiB.
    assert glibc.asked == [(-3, 32 << 20), (-1, 256 << 20), (-8, 1)]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_new_thread_gets_the_memory_that_an_earlier_one_freed() -> None:
    code = (
        "import resource, threading, numpy\n"
        "from axialcli.engine.memory import keep_freed_memory\n"
        "keep_freed_memory()\n"
        "def work():\n"
        "    for _ in range(3):\n"
        "        held = [numpy.ones(20 << 20, numpy.uint8) for _ in range(6)]\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    thread = threading.Thread(target=work)\n"
        "    thread.start()\n"
        "    thread.join()\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "print(faults(), faults())\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(memory.ENVIRONMENT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean, check=True)
    first, second = map(int, done.stdout.split())
    assert second < first / 10


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
