"""Runs an iterator in a thread of its own, a bounded number of items ahead."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

STARTING_S = 10.0
"""A thread that has not begun by then never will."""


@dataclass(frozen=True)
class _Failed:
    error: BaseException


class _End:
    pass


_END = _End()


class _Ahead(Generic[T]):
    def __init__(self, items: Iterable[T], depth: int) -> None:
        self._items = items
        self._ready: queue.Queue[T | _Failed | _End] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ahead", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _work(self) -> None:
        items = iter(self._items)
        try:
            while self._put_next(items):
                pass
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, who raises it
            self._put(_Failed(error))
        finally:
            if isinstance(items, Generator):
                # A maker that is left early ends its own contexts now and not when it is collected.
                items.close()

    def _put_next(self, items: Iterator[T]) -> bool:
        """Makes and hands over one item; False after the last. No reference to it stays behind, so that
        what the consumer has dropped is free while the next is made."""
        item = next(items, _END)
        return self._put(item) and item is not _END

    def _put(self, item: T | _Failed | _End) -> bool:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[T]:
        while True:
            item = self._ready.get()
            if isinstance(item, _End):
                return
            if isinstance(item, _Failed):
                raise item.error
            yield item

    def close(self) -> None:
        self._stop.set()
        # A signal may have ended `start` while it waited for the thread, which is on its way all the same:
        # left alone, it would be killed in the middle of torch when the process ends, and abort that.
        deadline = time.monotonic() + STARTING_S
        while not self._thread.is_alive() and self._thread in threading.enumerate():
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)
        if self._thread.ident is not None:
            self._thread.join()


def apart(make: Callable[[], T]) -> T:
    """What `make` returns, made in a thread that then ends.

    OpenMP keeps a team for every thread that has computed, counts them all, and where there are more than
    processors lets none of them wait awake: each of a network's many short steps then costs a wake-up.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="apart") as threads:
        return threads.submit(make).result()


@contextmanager
def ahead(items: Iterable[T], depth: int, cancel: Callable[[], None] | None = None) -> Iterator[Iterator[T]]:
    """The same items in the same order, made by a thread while the caller works on earlier ones.

    At most `depth` finished items wait. An exception of `items` is raised in the caller at its
    place in the order. Leaving the context stops the thread and waits for it; `cancel` is called
    first where the items are left before their end, to ask a slow maker to give up.
    """
    runner = _Ahead(items, depth)
    try:
        runner.start()
        yield iter(runner)
    except BaseException:
        if cancel is not None:
            cancel()
        raise
    finally:
        runner.close()
