"""The synthetic slide as a file: JPEG tiles, pyramid, resolution, and the mask of its true nuclei.

Rows of tiles are painted and encoded as the file is written; reduced levels wait, encoded, in a spool
beside it. Memory is a few rows of tiles whatever the height. Shapes: H height, W width.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from axialcli.errors import OutputError, UsageError
from axialcli.geometry import Size, level_sizes
from axialcli.image.sweep import SMALLEST_PX, TILE_PX, Spool, Sweep
from axialcli.image.tissue import Tissue, tissue

_BIG_BYTES = 2**31
_LARGEST_PX = 2**20
_SMALLEST_MPP, _LARGEST_MPP = 0.001, 1000
_SLIDE_IS = "axial synthetic slide: computer generated, imitates hematoxylin and eosin"
_MASK_IS = "axial synthetic slide, its nuclei: 0 background, 1 nucleus"


def write_sample(
    path: Path,
    size: Size,
    *,
    seed: int = 0,
    mpp: float = 0.25,
    truth: Path | None = None,
    quality: int = 85,
    blank: float | None = None,
    progress: Callable[[float], None] | None = None,
    threads: int | None = None,
) -> None:
    """Writes a synthetic slide that looks like tissue stained with hematoxylin and eosin.

    The same arguments give the same bytes, whatever `threads` is; the colour at (y, x) depends on seed,
    blank and position alone, so a slide is the upper left corner of every larger one.

    size: pixels of level 0, any from 1 x 1. mpp: microns per pixel of level 0, 0.001 to 1000. truth: also
    write the mask of the nuclei, uint8, 0 background and 1 nucleus, same size and levels. quality: of the
    JPEG tiles, 1..100. blank: share of glass outside the tissue, 0..1, met on average over a large slide;
    None is about a third. progress: called with the share done, 0..1. threads: by default one a core,
    eight at most.

    Raises UsageError for values out of range, OutputError where a file cannot be written; then, as on any
    other failure, what was at `path` and `truth` stays as it was.
    """
    path, truth = Path(path), None if truth is None else Path(truth)
    _check(path, size, mpp, truth, quality, blank)
    job = _Job(
        size=size,
        mpp=mpp,
        painter=tissue(seed, blank),
        quality=quality,
        progress=progress or (lambda share: None),
        threads=threads or min(8, os.cpu_count() or 1),
    )
    try:
        _write_files(job, path, truth)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


@dataclass(frozen=True, kw_only=True)
class _Job:
    size: Size
    mpp: float
    painter: Tissue
    quality: int
    progress: Callable[[float], None]
    threads: int


def _check(path: Path, size: Size, mpp: float, truth: Path | None, quality: int, blank: float | None) -> None:
    """Raises UsageError for values out of range, OutputError for names that no file can have."""
    if not (1 <= size[0] <= _LARGEST_PX and 1 <= size[1] <= _LARGEST_PX):
        raise UsageError(f"a sample of {size[0]}x{size[1]} pixels: each side must be 1 to {_LARGEST_PX}")
    if not _SMALLEST_MPP <= mpp <= _LARGEST_MPP:
        raise UsageError(f"{mpp} microns per pixel: must be {_SMALLEST_MPP} to {_LARGEST_MPP}")
    if not 1 <= quality <= 100:
        raise UsageError(f"a JPEG quality of {quality}: must be 1 to 100")
    if blank is not None and not 0 <= blank <= 1:
        raise UsageError(f"a blank share of {blank}: must be 0 to 1")
    if truth is not None and truth.absolute() == path.absolute():
        raise UsageError(f"{truth}: the slide and its mask need two names")
    for target in (path, truth):
        if target is not None and (target.is_dir() or not target.parent.is_dir()):
            raise OutputError(f"{target}: cannot be written: give a file in a folder that exists")


def _write_files(job: _Job, path: Path, truth: Path | None) -> None:
    """Both files under temporary names, renamed when both are whole.

    The names are the same in every run, so that the next one replaces what a kill left.
    """
    parts = [target.with_name(f".{target.name}.part") for target in (path, truth) if target]
    try:
        for part in parts:
            part.unlink(missing_ok=True)
        with ExitStack() as stack:
            spools = [Spool(stack.enter_context(tempfile.TemporaryFile(dir=part.parent))) for part in parts]
            pool = stack.enter_context(ThreadPoolExecutor(job.threads))
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            sweep = Sweep(
                job.painter,
                job.size,
                quality=job.quality,
                pool=pool,
                slide=spools[0],
                truth=spools[1] if truth else None,
                progress=job.progress,
            )
            _write_pyramid(parts[0], job, spools[0], sweep.slide_tiles(), colour=True)
            if truth:
                _write_pyramid(parts[1], job, spools[1], spools[1].tiles(0), colour=False)
        for part, target in zip(parts, (path, truth), strict=False):
            if target:
                part.replace(target)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _write_pyramid(path: Path, job: _Job, spool: Spool, base: Iterator[bytes], *, colour: bool) -> None:
    """A TIFF of encoded tiles: level 0 from `base`, then the levels of `spool` as reduced images."""
    sizes = level_sizes(job.size, SMALLEST_PX)
    pixels = sum(size.height * size.width for size in sizes)
    kind: dict[str, Any] = (
        {"photometric": "ycbcr", "compression": "jpeg", "subsampling": (2, 2)}
        if colour
        else {"photometric": "minisblack", "compression": "zlib"}
    )
    with tifffile.TiffWriter(path, bigtiff=pixels * (3 if colour else 1) > _BIG_BYTES) as writer:
        for level, size in enumerate(sizes):
            per_cm = 10_000 / (job.mpp * 2**level)
            writer.write(
                spool.tiles(level) if level else base,
                shape=(*size, 3) if colour else tuple(size),
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                subfiletype=1 if level else 0,
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                description=(_SLIDE_IS if colour else _MASK_IS) if level == 0 else None,
                software="axial" if level == 0 else False,
                metadata=None,
                **kind,
            )
