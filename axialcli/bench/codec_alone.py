"""In a child: decoding a slide and encoding its mask, with nothing else to do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from axialcli.bench.budget import repeat_for
from axialcli.bench.jobs import Send
from axialcli.bench.machine import cores
from axialcli.config import MASK_TILE, ClassInfo
from axialcli.geometry import Block, Box
from axialcli.image import open_slide
from axialcli.image.tiff import Tiff
from axialcli.output import MaskInfo, MaskSink, WorkFolder
from axialcli.output.journal import MASK_FILE
from axialcli.output.spool import SPOOL_FILES

MOST_THREADS = 8
"""As many as a slide is read with."""

SLICES = 4
"""Parts of the work that each thread gets, one after the other."""


def measure_decode(given: dict[str, Any], seconds: float, send: Send) -> None:
    """Seconds for fetching and unpacking every segment of the slide's first level once, on as many threads
    as a slide is read with. The pixels go nowhere, so that this is what the codec can do here at most."""
    threads = min(cores(), MOST_THREADS)
    tiff = Tiff(Path(given["slide"]))
    page = tiff.pages[0]
    numbers = range(page.grid.height * page.grid.width)
    step = -(-len(numbers) // (threads * SLICES))
    slices = [numbers[at : at + step] for at in range(0, len(numbers), step)]

    def decode(part: Sequence[int]) -> None:
        for number in part:
            data = tiff.pread(int(page.offsets[number]), int(page.counts[number]))
            page.decode(data, number, lasting=False)

    with ThreadPoolExecutor(threads) as pool:

        def once() -> float:
            began = time.perf_counter()
            list(pool.map(decode, slices))
            taken = time.perf_counter() - began
            send({"seconds": taken, "facts": {"threads": threads, "px": page.size.height * page.size.width}})
            return taken

        # The first has the file's pages and the threads' memory to get.
        list(pool.map(decode, slices[:threads]))
        repeat_for(seconds, once)
    tiff.close()


def measure_encode(given: dict[str, Any], seconds: float, send: Send) -> None:
    """Seconds for compressing and writing a mask that lies in memory, synced, with its pyramid."""
    with open_slide(given["mask"]) as mask:
        height, width = mask.size
        labels_HW = mask.read(0, Box(0, 0, height, width))[..., 0]
    classes = tuple(ClassInfo(name=f"{i}", colour=(i, i, i)) for i in range(int(labels_HW.max()) + 1))
    info = MaskInfo(size=mask.size, classes=classes)
    blocks = [
        Block(box=Box(y, 0, min(y + MASK_TILE, height), width), labels_HW=labels_HW[y : y + MASK_TILE])
        for y in range(0, height, MASK_TILE)
    ]

    def once() -> float:
        began = time.perf_counter()
        folder = WorkFolder.open(Path(given["folder"]), {MASK_FILE, *SPOOL_FILES})
        with MaskSink(folder, info) as sink:
            for block in blocks:
                sink.write(block)
                sink.sync()
            sink.finish()
        taken = time.perf_counter() - began
        folder.remove()
        send({"seconds": taken, "facts": {"px": height * width}})
        return taken

    repeat_for(seconds, once)
