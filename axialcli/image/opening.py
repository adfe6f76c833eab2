"""Opening: from a path to a Slide, or to the one line that says why not."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from axialcli.errors import ImageError, LimitError, UsageError
from axialcli.image.assemble import Assembled, assemble
from axialcli.image.cache import SegmentCache
from axialcli.image.layout import FoundImage
from axialcli.image.raster import RasterPicture
from axialcli.image.segments import LevelSource
from axialcli.image.slide import Slide
from axialcli.image.tiff import Tiff
from axialcli.image.work import Counts, Workers

TIFF_MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


def open_slide(
    path: str | os.PathLike[str],
    *,
    channels: Sequence[int] | None = None,
    z: int | None = None,
    mpp_override: float | None = None,
    threads: int | None = None,
) -> Slide:
    """Opens a TIFF, PNG or JPEG and chooses its largest image, never a thumbnail, label or macro.

    channels: which of the picture's channels to return, counted from 0; all by default. z: which plane
    of a stack; by default the vendor's own, or else the middle one, with a warning. mpp_override:
    microns per pixel of level 0, in place of what the file says. threads: for reading; by default as
    many as there are cores, at most 8.

    Raises ImageError where the file cannot be read, LimitError where a limit would be passed, UsageError
    where `channels`, `z` or `mpp_override` do not fit the picture.
    """
    path = Path(path)
    if mpp_override is not None and not 0 < mpp_override < float("inf"):
        raise UsageError(f"{mpp_override} microns per pixel make no sense: give a number above 0")
    head = read_head(path)
    counts, cache, workers = Counts(), SegmentCache(), Workers(threads or reading_threads())
    if head[:4] in TIFF_MAGIC:
        tiff = Tiff(path)
        opened = [tiff]
        try:
            made = assemble(tiff, opened, channels, z, counts=counts, cache=cache, workers=workers)
            _check_any(made.sources, made.warnings)
        except BaseException:
            for one in opened:
                one.close()
            raise
    else:
        made = _raster(RasterPicture(path, counts), channels, z)
    selection = {
        "channels": None if channels is None else list(channels),
        "z": z,
        "mpp_override": mpp_override,
    }
    return Slide(path, made, counts=counts, workers=workers, cache=cache, selection=selection)


def read_head(path: Path) -> bytes:
    """The first bytes of a file that may be a picture. Raises ImageError where it cannot be one."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(f"{path}: is a folder; give one picture")
        if not stat.S_ISREG(mode):
            # Opening a pipe waits for whoever writes to it.
            raise ImageError(f"{path}: is a pipe, socket or device; give one picture as a file")
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except OSError as error:
        raise ImageError(f"{path}: cannot be opened ({error.strerror})") from error
    except ValueError as error:
        raise ImageError(f"{str(path)!r}: no file can have this name") from error
    if not head:
        raise ImageError(f"{path}: the file is empty")
    if head[:4] in TIFF_MAGIC or head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return head
    raise ImageError(
        f"{path}: not a TIFF, PNG or JPEG; other slides are converted with `vips tiffsave --tile --pyramid`"
    )


def reading_threads() -> int:
    """As many threads as there are cores, at most 8."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, 8)


def _check_any(sources: Sequence[LevelSource], warnings: list[str]) -> None:
    """Raises LimitError where no level can be read; a warning where only level 0 cannot."""
    first: LimitError | None = None
    for number, source in enumerate(sources):
        try:
            source.check()
        except LimitError as error:
            first = first or error
            warnings.append(f"level {number} is over the limit of what is unpacked at once")
        else:
            return
    if first is not None:
        raise first


def _raster(picture: RasterPicture, channels: Sequence[int] | None, z: int | None) -> Assembled:
    if z not in (None, 0):
        raise UsageError(f"{picture.path}: the picture has one plane; leave out --z {z}")
    source: LevelSource = picture
    count = picture.channels
    if channels is not None:
        picture.pick(channels)
        count = len(channels)
    return Assembled(
        format=picture.format,
        sources=[source],
        channels=count,
        dtype=picture.dtype,
        scale=picture.scale,
        georeference=None,
        orientation=picture.orientation,
        warnings=picture.warnings,
        chosen=f"the {picture.format.upper()} picture itself ({picture.size.width} x {picture.size.height})",
        images=(FoundImage(role="main", size=picture.size, channels=picture.channels, directory="0"),),
        close=picture.close,
        files=(),
        source=lambda level, z: source,
    )
