"""The spool keeps whole tiles through kills, damage and full disks."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from axialcli.errors import OutputError
from axialcli.output import TileSpool

TILES = {(0, 3): b"abc", (0, 1): b"", (1, 0): b"\x00" * 70, (255, 2**32 - 1): b"last"}


def fill(folder: Path) -> None:
    with TileSpool(folder) as spool:
        for (level, index), data in TILES.items():
            spool.put(level, index, data)
        spool.sync()


def held(folder: Path) -> dict[tuple[int, int], bytes]:
    with TileSpool(folder) as spool:
        return {tile: spool.get(*tile) for tile in TILES if tile in spool}


def test_tiles_come_back_after_reopening(tmp_path: Path) -> None:
    fill(tmp_path)
    assert held(tmp_path) == TILES


def test_a_tile_that_was_never_put_is_a_key_error(tmp_path: Path) -> None:
    with TileSpool(tmp_path) as spool, pytest.raises(KeyError):
        spool.get(0, 0)


def test_the_second_tile_of_a_name_wins(tmp_path: Path) -> None:
    with TileSpool(tmp_path) as spool:
        spool.put(0, 0, b"old")
        spool.put(0, 0, b"new!")
        assert spool.get(0, 0) == b"new!"
        assert len(spool) == 1
    with TileSpool(tmp_path) as spool:
        assert spool.get(0, 0) == b"new!"


@pytest.mark.parametrize("name", ["tiles.bin", "index.bin"])
def test_a_torn_tail_is_dropped_at_every_length(tmp_path: Path, name: str) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    fill(whole)
    length = (whole / name).stat().st_size
    ends = {"index.bin": [25, 50, 75, 100], "tiles.bin": [3, 3, 73, 77]}[name]
    for cut in range(length + 1):
        torn = tmp_path / str(cut)
        shutil.copytree(whole, torn)
        os.truncate(torn / name, cut)
        expected = dict(list(TILES.items())[: sum(end <= cut for end in ends)])
        assert held(torn) == expected, cut
        with TileSpool(torn) as spool:
            spool.put(7, 7, b"goes on")
        with TileSpool(torn) as spool:
            assert spool.get(7, 7) == b"goes on"
        assert held(torn) == expected, cut
        shutil.rmtree(torn)


@pytest.mark.parametrize("tail", [b"\x00" * 25, b"\x00" * 400, bytes(range(7, 247, 4)), b"\xff"])
def test_garbage_after_the_last_record_is_dropped(tmp_path: Path, tail: bytes) -> None:
    fill(tmp_path)
    for name in ("tiles.bin", "index.bin"):
        with (tmp_path / name).open("ab") as file:
            file.write(tail)
    assert held(tmp_path) == TILES
    assert (tmp_path / "index.bin").stat().st_size == 25 * len(TILES)


def test_every_flipped_byte_of_the_index_is_noticed(tmp_path: Path) -> None:
    fill(tmp_path)
    original = (tmp_path / "index.bin").read_bytes()
    for at in range(len(original)):
        damaged = bytearray(original)
        damaged[at] ^= 0x41
        (tmp_path / "index.bin").write_bytes(damaged)
        assert held(tmp_path) == dict(list(TILES.items())[: at // 25])
        fill_again = dict(list(TILES.items())[at // 25 :])
        with TileSpool(tmp_path) as spool:
            for tile, data in fill_again.items():
                spool.put(*tile, data)
        assert held(tmp_path) == TILES


def test_a_tile_damaged_on_the_disk_is_forgotten_so_that_it_is_made_again(tmp_path: Path) -> None:
    fill(tmp_path)
    with (tmp_path / "tiles.bin").open("r+b") as file:
        file.seek(5)
        file.write(b"x")
    assert held(tmp_path) == {tile: data for tile, data in TILES.items() if tile != (1, 0)}


def test_a_tile_damaged_while_the_spool_is_open_is_refused(tmp_path: Path) -> None:
    with TileSpool(tmp_path) as spool:
        spool.put(0, 0, b"0123456789")
        with (tmp_path / "tiles.bin").open("r+b") as file:
            file.write(b"x")
        with pytest.raises(OutputError, match=r"tiles\.bin is damaged at byte 0"):
            spool.get(0, 0)


def test_one_file_without_the_other_starts_empty(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "index.bin").unlink()
    assert held(tmp_path) == {}
    assert (tmp_path / "tiles.bin").stat().st_size == 0


def test_threads_share_a_spool(tmp_path: Path) -> None:
    def put_and_get(index: int) -> bool:
        data = bytes([index % 251]) * (index % 97)
        spool.put(index % 3, index, data)
        return spool.get(index % 3, index) == data

    with TileSpool(tmp_path) as spool, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(put_and_get, range(2000)))
    with TileSpool(tmp_path) as spool:
        assert len(spool) == 2000


def test_a_limit_on_file_size_is_an_output_error_and_the_spool_goes_on(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with TileSpool(tmp_path) as spool:
        spool.put(0, 0, b"a" * 3000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            with pytest.raises(
                OutputError, match=r"cannot write .*tiles\.bin: File too large; a limit"
            ) as caught:
                spool.put(0, 1, b"b" * 3000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == errno.EFBIG
        assert (0, 1) not in spool
        spool.put(0, 2, b"c" * 3000)
    with TileSpool(tmp_path) as spool:
        assert [spool.get(0, 0)[:1], spool.get(0, 2)[:1], len(spool)] == [b"a", b"c", 2]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of open files are asked of Linux")
def test_the_disk_holds_the_tiles_before_their_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def note(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink().name)

    monkeypatch.setattr(os, "fsync", note)
    with TileSpool(tmp_path) as spool:
        spool.put(0, 0, b"1")
        synced.clear()
        spool.sync()
    assert synced == ["tiles.bin", "index.bin"]
