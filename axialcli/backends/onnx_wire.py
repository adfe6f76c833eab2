"""Protocol buffers on the wire: what an ONNX file would unpack to, found without unpacking it.

A parser builds an object of hundreds of bytes from two bytes of file, and there is no bound on that but
the file's size. So the fields are counted first, in the bytes as they lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from axialcli.errors import ModelError

MAX_FIELDS = 2_000_000
MAX_DEPTH = 64
MAX_PACKED_BYTES = 2 << 30
MAX_ENTRY_BYTES = 64 << 10

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

PACKED_GROWTH = {
    FieldDescriptor.TYPE_INT64: 8,
    FieldDescriptor.TYPE_UINT64: 8,
    FieldDescriptor.TYPE_INT32: 4,
    FieldDescriptor.TYPE_FLOAT: 1,
    FieldDescriptor.TYPE_DOUBLE: 1,
}
"""Bytes in memory of one byte of a packed list, at worst."""


def scan(data: bytes, where: str) -> list[str]:
    """Counts the fields of an ONNX file; returns the locations of its external data, sorted.

    where: names the file in errors. Raises ModelError where the bytes are no ONNX file, or would unpack
    to more than any network needs.
    """
    locations: set[str] = set()
    stack: list[tuple[Descriptor, int, int, int]] = [(onnx.ModelProto.DESCRIPTOR, 0, len(data), 1)]
    known = _Known()
    packed_bytes = fields = 0
    while stack:
        descriptor, at, end, depth = stack.pop()
        numbers = known[descriptor]
        while at < end:
            fields += 1
            if fields > MAX_FIELDS:
                raise ModelError(f"{where}: more than {MAX_FIELDS} entries, more than any network has")
            key, at = data[at], at + 1
            if key > 127:
                key, at = _varint(data, at - 1, end, where)
            kind = key & 7
            if kind == VARINT:
                _, at = _varint(data, at, end, where)
            elif kind in (FIXED64, FIXED32):
                at += 8 if kind == FIXED64 else 4
            elif kind == BYTES:
                length, at = _varint(data, at, end, where)
                if length > end - at:
                    raise _damaged(where)
                message, growth, is_entry = numbers.get(key >> 3, (None, 0, False))
                packed_bytes += growth * length
                if is_entry:
                    locations.update(_location(data[at : at + length], where))
                elif message is not None:
                    stack.append((message, at, at + length, depth + 1))
                at += length
            else:
                raise _damaged(where)
        if at > end:
            raise _damaged(where)
        if depth > MAX_DEPTH:
            raise ModelError(f"{where}: nested more than {MAX_DEPTH} deep; no network is")
        if packed_bytes > MAX_PACKED_BYTES:
            raise ModelError(f"{where}: would unpack to more than 2 GiB")
    return sorted(locations)


class _Known(dict[Descriptor, Mapping[int, tuple[Any, int, bool]]]):
    """Per kind of message: what each field number holds: a message, a packed list, external data."""

    def __missing__(self, descriptor: Descriptor) -> Mapping[int, tuple[Any, int, bool]]:
        is_tensor = descriptor is onnx.TensorProto.DESCRIPTOR
        self[descriptor] = {
            field.number: (
                field.message_type,
                PACKED_GROWTH.get(field.type, 0),
                is_tensor and field.name == "external_data",
            )
            for field in descriptor.fields
        }
        return self[descriptor]


def _varint(data: bytes, at: int, end: int, where: str) -> tuple[int, int]:
    """A whole number at a place, and the place behind it."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise _damaged(where)


def _location(entry: bytes, where: str) -> list[str]:
    if len(entry) > MAX_ENTRY_BYTES:
        raise _damaged(where)
    try:
        pair = onnx.StringStringEntryProto.FromString(entry)
    except DecodeError as error:
        raise _damaged(where) from error
    return [pair.value] if pair.key == "location" else []


def _damaged(where: str) -> ModelError:
    return ModelError(f"{where}: not a whole ONNX file; copy or export it again")
