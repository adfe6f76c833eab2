"""Compressed segments before they are decoded: which codecs are allowed, what a stream declares.

A codec written in C allocates what the stream's own header asks for, so that header is read first.
"""

from __future__ import annotations

from typing import NamedTuple

CODECS: dict[int, str] = {
    1: "none",
    5: "lzw",
    7: "jpeg",
    8: "deflate",
    32773: "packbits",
    32946: "deflate",
    33003: "jpeg2000",
    33004: "jpeg2000",
    33005: "jpeg2000",
    34712: "jpeg2000",
    34925: "lzma",
    50000: "zstd",
    50001: "webp",
}
"""Values of tag 259 that are read. All but JPEG, JPEG 2000 and WebP unpack into a buffer of known size."""

REFUSED: dict[int, str] = {
    2: "CCITT",
    3: "CCITT fax 3",
    4: "CCITT fax 4",
    6: "old-style JPEG",
    34887: "LERC",
    34892: "lossy JPEG of a DNG",
    50002: "JPEG XL",
}
"""Codecs that people do meet and that are left out: wrong pixels were seen, or no size can be checked."""

JPEG = frozenset({7})
JPEG2000 = frozenset({33003, 33004, 33005, 34712})
WEBP = frozenset({50001})
IMAGE_CODECS = JPEG | JPEG2000 | WEBP


class Declared(NamedTuple):
    """What a stream's header says: rows, columns and components."""

    height: int
    width: int
    samples: int


def declared(compression: int, stream: bytes) -> Declared | None:
    """What the header of an image stream declares; None for byte codecs, and where there is no header.

    Raises ValueError where the stream does not begin as its codec demands.
    """
    if compression in JPEG:
        return _jpeg_size(stream)
    if compression in JPEG2000:
        return _jpeg2000_size(stream)
    if compression in WEBP:
        return _webp_size(stream)
    return None


def jpeg2000_is_plain_ycc(stream: bytes) -> bool:
    """Whether three components of one size are stored without the codestream's own colour transform.

    Aperio's codec 33003 keeps YCbCr that way, and no decoder can know.
    """
    at = _codestream(stream)
    size_end = at + 4 + int.from_bytes(stream[at + 4 : at + 6], "big")
    components = int.from_bytes(stream[at + 40 : at + 42], "big")
    sampling = stream[at + 42 : at + 42 + 3 * components]
    if components != 3 or any(
        sampling[i + 1] != 1 or sampling[i + 2] != 1 for i in range(0, len(sampling) - 2, 3)
    ):
        return False
    while size_end + 4 <= len(stream):
        marker = stream[size_end : size_end + 2]
        if marker == b"\xff\x52":  # COD: Scod, progression, layers (2), multiple component transform
            return stream[size_end + 8] == 0
        if marker == b"\xff\x90":  # SOT: the main header is over
            return False
        size_end += 2 + int.from_bytes(stream[size_end + 2 : size_end + 4], "big")
    return False


def _jpeg_size(stream: bytes) -> Declared | None:
    if stream[:2] != b"\xff\xd8":
        raise ValueError("it does not begin like a JPEG")
    at = 2
    while at + 9 < len(stream):
        if stream[at] != 0xFF:
            raise ValueError("a JPEG marker is missing")
        marker = stream[at + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD7:
            at += 1 if marker == 0xFF else 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height = int.from_bytes(stream[at + 5 : at + 7], "big")
            width = int.from_bytes(stream[at + 7 : at + 9], "big")
            return Declared(height, width, stream[at + 9])
        if marker in (0xDA, 0xD9):
            break
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    raise ValueError("the JPEG has no frame header")


def _codestream(stream: bytes) -> int:
    """Where the SOC marker stands: at the start, or inside a JP2 box."""
    at = 0 if stream[:4] == b"\xff\x4f\xff\x51" else stream.find(b"\xff\x4f\xff\x51", 0, 4096)
    if at < 0 or len(stream) < at + 42:
        raise ValueError("it does not begin like JPEG 2000")
    return at


def _jpeg2000_size(stream: bytes) -> Declared:
    at = _codestream(stream)
    # SIZ after SOC: marker, length, capabilities, then Xsiz, Ysiz, XOsiz, YOsiz.
    x1, y1, x0, y0 = (int.from_bytes(stream[at + i : at + i + 4], "big") for i in (8, 12, 16, 20))
    return Declared(y1 - y0, x1 - x0, int.from_bytes(stream[at + 40 : at + 42], "big"))


def _webp_size(stream: bytes) -> Declared:
    if stream[:4] != b"RIFF" or stream[8:12] != b"WEBP" or len(stream) < 30:
        raise ValueError("it does not begin like WebP")
    kind = stream[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(stream[i : i + 3], "little") + 1 for i in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(stream[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (int.from_bytes(stream[i : i + 2], "little") & 0x3FFF for i in (26, 28))
    else:
        raise ValueError("it is of an unknown kind of WebP")
    return Declared(height, width, 4)
