"""Decoded segments that a later read will want again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Any

from numpy.typing import NDArray

FLOOR_BYTES = 16 * 2**20


class SegmentCache:
    """Least-recently-used segments: small, and as large as the latest read says its successor needs.

    A band that is read from top to bottom needs, of the band before, the rows of segments at their
    common border: these are `kept`. All else stays only while there is room below FLOOR_BYTES.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._segments: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()
        self._used_bytes = 0
        self._capacity_bytes = FLOOR_BYTES

    def take(self, keys: Iterable[Hashable], kept_bytes: int) -> dict[Hashable, NDArray[Any]]:
        """Those of `keys` that are here; from now on there is room for `kept_bytes`."""
        with self._lock:
            self._capacity_bytes = max(FLOOR_BYTES, kept_bytes)
            found = {}
            for key in keys:
                segment = self._segments.get(key)
                if segment is not None:
                    self._segments.move_to_end(key)
                    found[key] = segment
            return found

    @property
    def has_room(self) -> bool:
        return self._used_bytes < FLOOR_BYTES

    def put(self, key: Hashable, segment: NDArray[Any], *, kept: bool) -> None:
        """Adds a segment; one that is not `kept` only where nothing else has to go."""
        with self._lock:
            if key in self._segments or (not kept and self._used_bytes + segment.nbytes > FLOOR_BYTES):
                return
            self._segments[key] = segment
            self._used_bytes += segment.nbytes
            while self._used_bytes > self._capacity_bytes and len(self._segments) > 1:
                _, old = self._segments.popitem(last=False)
                self._used_bytes -= old.nbytes

    def clear(self) -> None:
        with self._lock:
            self._segments.clear()
            self._used_bytes = 0
