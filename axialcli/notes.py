"""Notes on disk, one checksummed JSON line each: what a kill tears off is known to be torn."""

from __future__ import annotations

import json
import zlib
from typing import Any


def note_line(note: dict[str, Any]) -> bytes:
    """The line of a note: its checksum, then the JSON."""
    text = json.dumps(note, sort_keys=True, separators=(",", ":")).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_note(line: bytes) -> Any:
    """The note of a line, or None where the line is not whole."""
    check, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or check != b"%08x" % zlib.crc32(text):
        return None
    return json.loads(text)
