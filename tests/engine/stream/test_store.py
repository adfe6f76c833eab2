"""The feature store holds what was written, in memory and in files, by rows and by columns."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from axialcli.engine.stream.slots import Slot
from axialcli.engine.stream.store import TILE, FeatureStore, MemoryStore, ScratchStore
from axialcli.errors import LimitError, OutputError

CPU = torch.device("cpu")


def stores(folder: Path, slots: list[Slot], dtype: torch.dtype) -> list[FeatureStore]:
    return [MemoryStore(slots, dtype, CPU), ScratchStore(folder, slots, dtype)]


@settings(max_examples=25)
@given(data=st.data(), height=st.integers(1, 40), width=st.integers(1, 40), depth=st.integers(1, 3))
def test_rows_and_columns_written_in_any_order_are_read_back(
    data: st.DataObject, height: int, width: int, depth: int
) -> None:
    with TemporaryDirectory() as folder, ExitStack() as stack:
        slots = [Slot(2, 3, 1), Slot(height, width, depth)]
        both = [stack.enter_context(closing(s)) for s in stores(Path(folder), slots, torch.float32)]
        truth_HWC = torch.randn(height, width, depth)
        for store in both:
            store.write_rows(1, 0, truth_HWC)
        for _ in range(data.draw(st.integers(0, 4))):
            by_rows = data.draw(st.booleans())
            length = height if by_rows else width
            start = data.draw(st.integers(0, length - 1))
            stop = data.draw(st.integers(start + 1, length))
            part_HWC = truth_HWC[start:stop] if by_rows else truth_HWC[:, start:stop]
            part_HWC.copy_(torch.randn(part_HWC.shape))
            for store in both:
                (store.write_rows if by_rows else store.write_columns)(1, start, part_HWC)
        y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        less = data.draw(st.integers(1, depth))
        for store in both:
            assert torch.equal(store.read_rows(1, y, height, less), truth_HWC[y:, :, :less])
            assert torch.equal(store.read_columns(1, x, width, less), truth_HWC[:, x:, :less])


def test_a_value_of_less_depth_fits_into_a_slot(tmp_path: Path) -> None:
    narrow_HWC = torch.randn(20, 18, 2)
    for store in stores(tmp_path, [Slot(20, 18, 3)], torch.float32):
        store.write_columns(0, 0, narrow_HWC[:, :7])
        store.write_columns(0, 7, narrow_HWC[:, 7:])
        assert torch.equal(store.read_rows(0, 3, 20, 2), narrow_HWC[3:])
        store.close()


def test_what_was_read_does_not_change_when_the_store_does(tmp_path: Path) -> None:
    for store in stores(tmp_path, [Slot(4, 4, 1)], torch.float32):
        store.write_rows(0, 0, torch.zeros(4, 4, 1))
        read_HWC = store.read_columns(0, 0, 4, 1)
        store.write_rows(0, 0, torch.ones(4, 4, 1))
        assert not read_HWC.any()
        store.close()


def test_scratch_files_are_whole_tiles_and_stay(tmp_path: Path) -> None:
    slots = [Slot(TILE + 1, 2 * TILE, 3)]
    store = ScratchStore(tmp_path, slots, torch.float16)
    store.write_rows(0, 5, torch.ones(1, 2 * TILE, 3))
    store.sync()
    store.close()
    assert (tmp_path / "features-0.bin").stat().st_size == 4 * TILE**2 * 3 * 2 == store.nbytes
    again = ScratchStore(tmp_path, slots, torch.float16)
    assert again.read_rows(0, 5, 6, 3).all()
    again.close()


def test_half_precision_never_becomes_infinite_in_silence(tmp_path: Path) -> None:
    for store in stores(tmp_path, [Slot(1, 2, 1)], torch.float16):
        store.write_rows(0, 0, torch.tensor([[[65504.0], [-65504.0]]]))
        assert store.read_rows(0, 0, 1, 1).isfinite().all()
        with pytest.raises(
            LimitError, match=r"reach 6.6e\+04, float16 ends at 65504: .*--store-dtype float32"
        ):
            store.write_rows(0, 0, torch.tensor([[[1.0], [-66000.0]]]))
        store.close()


def test_a_file_that_became_short_is_an_error_of_one_line(tmp_path: Path) -> None:
    store = ScratchStore(tmp_path, [Slot(TILE, TILE, 1)], torch.float32)
    with (tmp_path / "features-0.bin").open("r+b") as file:
        file.truncate(10)
    with pytest.raises(
        OutputError, match=r"features-0.bin: .*ends too early; check the folder that --scratch"
    ):
        store.read_rows(0, 0, 1, 1)
    store.close()


def test_a_folder_that_is_gone_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"):
        ScratchStore(tmp_path / "absent", [Slot(1, 1, 1)], torch.float32)
