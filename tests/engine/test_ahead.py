"""Items made ahead by a thread: same order, bounded, errors in their place."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from axialcli.engine.ahead import ahead, apart


def test_the_same_items_in_the_same_order() -> None:
    with ahead(range(100), depth=3) as items:
        assert list(items) == list(range(100))


def test_no_more_than_the_depth_waits() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            yield number

    with ahead(source(), depth=2) as items:
        assert next(items) == 0
        time.sleep(0.3)
        # One taken, two waiting, one in the maker's hand.
        assert len(made) <= 4


def test_an_error_arrives_after_the_items_before_it() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    with ahead(source(), depth=5) as items:
        assert next(items) == 1
        with pytest.raises(OSError, match="gone"):
            next(items)


def test_leaving_early_stops_the_thread() -> None:
    before = threading.active_count()
    with ahead(iter(int, 1), depth=1) as items:
        next(items)
    assert threading.active_count() == before


def test_a_signal_while_the_thread_starts_leaves_no_thread_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler's exception ends `start`, but not the thread that it started."""
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    cancelled = threading.Event()

    with pytest.raises(KeyboardInterrupt), ahead(itertools.count(), 1, cancel=cancelled.set):
        pass

    assert cancelled.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "ahead"]


def test_a_thread_that_is_still_on_its_way_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal ends `start` before the new thread has had its first turn."""
    wait = threading.Event.wait

    def interrupted(event: threading.Event, timeout: float | None = None) -> bool:
        monkeypatch.setattr(threading.Event, "wait", wait)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Event, "wait", interrupted)

    with pytest.raises(KeyboardInterrupt), ahead(itertools.count(), 1):
        pass

    assert not [thread for thread in threading.enumerate() if thread.name == "ahead"]


def test_what_is_made_apart_is_made_in_a_thread_that_is_gone() -> None:
    maker = apart(threading.current_thread)

    assert maker is not threading.current_thread()
    assert not maker.is_alive()


def test_an_error_apart_is_raised_here() -> None:
    def fail() -> None:
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        apart(fail)
