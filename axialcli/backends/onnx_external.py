"""External data of ONNX files: taken from plain files directly beside the model, and from nowhere else."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from axialcli.backends.files import unreadable
from axialcli.errors import ModelError

MAX_MODEL_BYTES = (2 << 30) - (1 << 20)
"""What one message of protocol buffers can hold, and so what ONNX Runtime takes as bytes."""

NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def read_bounded(path: Path, *, follow: bool) -> bytes:
    """The content of a plain file, opened once. follow: whether it may be a link.

    Raises ModelError where it is no plain file, too large, or cannot be read; where links are not
    followed also where the file has a second name, which may lie anywhere.
    """
    try:
        if not follow:
            # Opening alone can have effects, of a pipe or a device: what it is comes first.
            _check_plain(path, path.lstat())
        descriptor = os.open(path, os.O_RDONLY | NO_WAIT | (0 if follow else NO_LINK))
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ModelError(f"{path}: not a file")
            if not follow:
                _check_plain(path, found)
            if found.st_size > MAX_MODEL_BYTES:
                raise ModelError(f"{path}: {found.st_size} bytes; an ONNX model has at most 2 GiB")
            data = file.read(found.st_size + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(data) != found.st_size:
        raise ModelError(f"{path}: changes while it is read")
    return data


def external_path(model_path: Path, location: str) -> Path:
    """The file beside a model that a tensor's data lies in; nothing is opened.

    Raises ModelError for everything but the plain name of a file in the model's own folder.
    """
    plain = (
        location.isprintable()
        and 0 < len(location) <= 255
        and location not in (".", "..")
        and location == PurePosixPath(location).name == PureWindowsPath(location).name
        and ":" not in location
    )
    if not plain:
        raise ModelError(
            f"{model_path}: its external data {location!r:.60} is refused: "
            "it has to be the name of a file beside the model"
        )
    return model_path.with_name(location)


def inline(tensor: onnx.TensorProto, nbytes: int, files: Mapping[str, bytes], where: str) -> None:
    """Puts a tensor's external data into the tensor.

    nbytes: what its shape and type need. files: by location. Raises ModelError where the data lies
    outside of the file or has another size.
    """
    said: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key in said:
            raise ModelError(f"{where}: tensor {tensor.name!r:.40} says its external {entry.key!r:.20} twice")
        said[entry.key] = entry.value
    if "location" not in said:
        raise ModelError(f"{where}: tensor {tensor.name!r:.40} does not say where its external data lies")
    data = files[said["location"]]
    offset = _whole(said.get("offset", "0"))
    length = _whole(said.get("length", str(nbytes)))
    if offset is None or length is None or length != nbytes or offset + length > len(data):
        raise ModelError(
            f"{where}: the external data of tensor {tensor.name!r:.40} is not {nbytes} bytes "
            f"within {said['location']!r:.60}"
        )
    tensor.raw_data = data[offset : offset + length]
    tensor.ClearField("data_location")
    tensor.ClearField("external_data")


def _check_plain(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ModelError(f"{path}: refused as external data: not a plain file; put the file itself there")
    if found.st_nlink != 1:
        raise ModelError(f"{path}: refused as external data: it has a second name (hard link); copy it")


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
