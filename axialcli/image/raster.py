"""PNG and JPEG through Pillow: one level, decoded whole at the first read.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from axialcli.errors import AxialError, ImageError, LimitError, UsageError
from axialcli.geometry import Box, Size
from axialcli.image.scale import NO_SCALE, Scale, from_density
from axialcli.image.work import Counts

PICTURE_LIMIT_BYTES = 2**30
"""The largest picture that is decoded whole."""

_CHANNELS = {"1": 1, "L": 1, "LA": 1, "I;16": 1, "I;16B": 1, "I": 1, "P": 3, "RGB": 3, "RGBA": 3}
_ORIENTATION = 274
_guard = threading.Lock()


class RasterPicture:
    """A PNG or JPEG as the one level of a slide. See LevelSource.

    stored: a palette's numbers are returned instead of its colours, and bits as 0 and 1.
    """

    def __init__(self, path: Path, counts: Counts, *, stored: bool = False) -> None:
        """Reads the header. Raises ImageError where it is damaged or of a kind that is not read,
        LimitError where the decoded picture would be over PICTURE_LIMIT_BYTES."""
        self.path = path
        self._counts = counts
        self._stored = stored
        self._lock = threading.Lock()
        self._pixels: NDArray[Any] | None = None
        self._picks: list[int] | slice = slice(None)
        with self._opened() as image:
            self.format = str(image.format).lower().replace("mpo", "jpeg")
            self.mode = image.mode
            self.size = Size(image.height, image.width)
            # Of a PNG without this block, Pillow would decode everything to look for it at the end.
            exif = image.getexif() if self.format == "jpeg" or "exif" in image.info else {}
            self.orientation = int(exif.get(_ORIENTATION, 1))
            self.scale = _scale(image)
            self.warnings = [] if _png_depth(path) != 16 or self.mode != "RGB" else ["16 bits are read as 8"]
        if self.mode not in _CHANNELS:
            raise ImageError(f"{path}: {self.mode} pixels are not read; convert it to RGB")
        self.channels = 1 if stored and self.mode == "P" else _CHANNELS[self.mode]
        self.dtype = np.dtype(np.uint16 if self.mode.startswith("I") else np.uint8)
        self.segment = self.size
        self.compression = self.format
        self.check()

    def check(self) -> None:
        size = self.size.height * self.size.width * (4 if self.channels == 3 else self.dtype.itemsize)
        if size > PICTURE_LIMIT_BYTES:
            raise LimitError(
                f"{self.path}: {self.format.upper()} would unpack to {size / 2**30:.1f} GiB, "
                f"over the limit of {PICTURE_LIMIT_BYTES / 2**30:.0f} GiB; "
                "convert it with `vips tiffsave --tile --pyramid`"
            )

    def read_into(self, box: Box, out_HWC: NDArray[Any]) -> None:
        with self._lock:
            if self._pixels is None:
                self._pixels = self._decode()
        out_HWC[:] = self._pixels[box.y0 : box.y1, box.x0 : box.x1, self._picks]

    def pick(self, channels: Sequence[int]) -> None:
        """Returns only these channels from now on. Raises UsageError where one does not exist."""
        for channel in channels:
            if not 0 <= channel < self.channels:
                raise UsageError(
                    f"{self.path}: channel {channel} does not exist; the picture has 0 to {self.channels - 1}"
                )
        self._picks = list(channels)

    def close(self) -> None:
        self._pixels = None

    def _decode(self) -> NDArray[Any]:
        with self._opened() as image:
            try:
                wanted = "RGB" if self.channels == 3 else "L" if self.dtype == np.uint8 else image.mode
                if self._stored and image.mode in ("P", "1"):
                    wanted = image.mode
                array = np.asarray(image.convert(wanted) if image.mode != wanted else image)
            except MemoryError as error:
                raise LimitError(f"{self.path}: out of memory; convert it to a tiled TIFF") from error
            except Exception as error:
                raise ImageError(f"{self.path}: the picture is damaged ({error})") from error
        if self.dtype == np.uint16 and array.max(initial=0) > 65535:
            raise ImageError(f"{self.path}: pixels of 32 bits are not read; convert it to 16 bits")
        self._counts.add(decoded=1, read=self.path.stat().st_size)
        return array.astype(self.dtype, copy=False).reshape(*self.size, self.channels)

    def _opened(self) -> Image.Image:
        """The picture, its header read. Our own limit stands in place of Pillow's warning."""
        with _guard:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                return Image.open(self.path, formats=("PNG", "JPEG"))
            except UnidentifiedImageError as error:
                raise ImageError(
                    f"{self.path}: the PNG or JPEG is damaged: its header cannot be read"
                ) from error
            except AxialError:
                raise
            except Exception as error:
                raise ImageError(f"{self.path}: the PNG or JPEG is damaged ({error})") from error
            finally:
                Image.MAX_IMAGE_PIXELS = limit


def _png_depth(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(25)
    return head[24] if head.startswith(b"\x89PNG") and len(head) == 25 else 0


def _scale(image: Image.Image) -> Scale:
    dpi = image.info.get("dpi")
    if not dpi or not all(dpi):
        return NO_SCALE
    return from_density(float(dpi[1]), float(dpi[0]), per_cm=False, source="resolution of the picture")
