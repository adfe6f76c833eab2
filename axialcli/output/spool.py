"""Finished tiles on their way into a TIFF: compressed, in any order, of any level, safe from a kill.

`tiles.bin` holds the tiles' bytes one after the other, `index.bin` a record per tile. What a kill
or a full disk leaves half written at their ends is cut off when they are opened again.
"""

from __future__ import annotations

import struct
import threading
import zlib
from contextlib import ExitStack
from pathlib import Path

from axialcli.errors import OutputError
from axialcli.output.closing import Closing
from axialcli.output.files import open_file, sync_file, sync_folder, write_at, writing

TILES = "tiles.bin"
INDEX = "index.bin"
SPOOL_FILES = (TILES, INDEX)

_RECORD = struct.Struct("<BIQII")  # level, tile, offset, length, CRC-32 of the bytes
_CHECK = struct.Struct("<I")  # CRC-32 of the record before it
_ENTRY = struct.Struct("<QII")  # what memory keeps of a record
_RECORD_BYTES = _RECORD.size + _CHECK.size
_READ_BYTES = 4 << 20


class TileSpool(Closing):
    """An append-only store of byte strings, named by (level, tile index); safe to share by threads.

    level: 0..255. index: 0..2**32-1. A tile that is put twice is the second one. Memory: about
    150 bytes a tile.
    """

    def __init__(self, folder: Path) -> None:
        """Opens the spool in `folder`, or makes it there.

        Tiles that are damaged are forgotten, so that they are made again. Raises OutputError.
        """
        self._tiles_path, self._index_path = folder / TILES, folder / INDEX
        self._guard = threading.Lock()
        self._entries: dict[tuple[int, int], bytes] = {}
        self._tiles_end = self._index_end = 0
        with ExitStack() as opened:
            with writing(self._tiles_path):
                new = not (self._tiles_path.exists() and self._index_path.exists())
                self._tiles = opened.enter_context(open_file(self._tiles_path, create=new))
            with writing(self._index_path):
                self._index = opened.enter_context(open_file(self._index_path, create=new))
                self._load()
                if new:
                    sync_folder(folder)
            opened.pop_all()

    def put(self, level: int, index: int, data: bytes) -> None:
        """Adds a tile. Raises OutputError; the spool then is as it was before."""
        check = zlib.crc32(data)
        with self._guard:
            offset = self._tiles_end
            record = _RECORD.pack(level, index, offset, len(data), check)
            with writing(self._tiles_path):
                write_at(self._tiles, offset, data)
            with writing(self._index_path):
                write_at(self._index, self._index_end, record + _CHECK.pack(zlib.crc32(record)))
            self._tiles_end += len(data)
            self._index_end += _RECORD_BYTES
            self._entries[level, index] = _ENTRY.pack(offset, len(data), check)

    def get(self, level: int, index: int) -> bytes:
        """The bytes of a tile. Raises KeyError where it was never put, OutputError where it is damaged."""
        with self._guard:
            offset, length, check = _ENTRY.unpack(self._entries[level, index])
            with writing(self._tiles_path):
                data = self._read(offset, length)
        if zlib.crc32(data) != check:
            raise OutputError(
                f"{self._tiles_path} is damaged at byte {offset}: check the disk, "
                "then run the same command again"
            )
        return data

    def __contains__(self, tile: tuple[int, int]) -> bool:
        return tile in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def sync(self) -> None:
        """Returns when the disk holds all tiles, and then their index. Raises OutputError."""
        with self._guard:
            with writing(self._tiles_path):
                sync_file(self._tiles)
            with writing(self._index_path):
                sync_file(self._index)

    def close(self) -> None:
        """Closes both files; nothing is deleted."""
        self._tiles.close()
        self._index.close()

    def _read(self, offset: int, length: int) -> bytes:
        self._tiles.seek(offset)
        parts = []
        while length > 0:
            part = self._tiles.read(min(length, _READ_BYTES))
            if not part:
                break
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _load(self) -> None:
        """Reads the index up to its first record that is torn or points past the tiles; cuts there."""
        blob_end = self._tiles.seek(0, 2)
        self._index.seek(0)
        records = self._index.readall()
        for at in range(0, len(records) - _RECORD_BYTES + 1, _RECORD_BYTES):
            record = records[at : at + _RECORD.size]
            level, index, offset, length, check = _RECORD.unpack(record)
            whole = zlib.crc32(record) == _CHECK.unpack_from(records, at + _RECORD.size)[0]
            # Tiles were appended: a record that does not start where the last one ended is not ours.
            if not whole or offset != self._tiles_end or offset + length > blob_end:
                break
            # After a power cut a tile may be there in length only; then it counts as never put.
            if zlib.crc32(self._read(offset, length)) == check:
                self._entries[level, index] = _ENTRY.pack(offset, length, check)
            else:
                self._entries.pop((level, index), None)
            self._tiles_end = offset + length
            self._index_end = at + _RECORD_BYTES
        self._tiles.truncate(self._tiles_end)
        self._index.truncate(self._index_end)
