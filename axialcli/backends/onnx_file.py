"""Reading an ONNX file without trusting it: one self-contained model comes out, or one line of refusal.

Nothing here runs the model, and no library is given a path: what ONNX Runtime sees later are bytes with
all weights inside, so that there is nothing left in them that it could follow.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError

from axialcli.backends.onnx_check import check_operators, check_tensor, image_input, tensor_bytes, tensors
from axialcli.backends.onnx_external import MAX_MODEL_BYTES, external_path, inline, read_bounded
from axialcli.backends.onnx_wire import scan
from axialcli.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """A checked model.

    model: external data inside, unknown fields removed. sha256: of the file, and of its external data
    where there is any. external: the files that the data came from.
    """

    path: Path
    model: onnx.ModelProto
    sha256: str
    external: tuple[Path, ...]

    def to_bytes(self) -> bytes:
        """The model for ONNX Runtime, self-contained. Raises ModelError above 2 GiB."""
        try:
            data: bytes = self.model.SerializeToString()
        except (EncodeError, ValueError) as error:
            raise ModelError(f"{self.path}: with its external data more than 2 GiB") from error
        return data

    def metadata(self) -> dict[str, str]:
        """The texts that the model carries about itself."""
        return {entry.key: entry.value for entry in self.model.metadata_props}

    def parameters(self) -> int:
        """How many numbers its weights hold."""
        return sum(math.prod(tensor.dims) for tensor in self.model.graph.initializer)


def read_onnx(path: Path) -> OnnxFile:
    """Reads and checks an ONNX file. Raises ModelError, without having opened what is refused."""
    where = str(path)
    data = read_bounded(path, follow=True)
    locations = scan(data, where)
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise ModelError(f"{where}: not a whole ONNX file; copy or export it again") from error
    # ONNX Runtime may know fields that this parser does not, and training is not run.
    model.DiscardUnknownFields()
    model.ClearField("training_info")
    if not model.HasField("graph"):
        raise ModelError(f"{where}: not an ONNX model: it has no graph")
    check_operators(model, where)
    image_input(model, where)
    paths = [external_path(path, location) for location in locations]
    files = dict(zip(locations, _read_beside(paths), strict=True))
    total = 0
    for tensor in tensors(model):
        total += tensor_bytes(tensor, where)
        if total > MAX_MODEL_BYTES:
            raise ModelError(f"{where}: its weights have more than 2 GiB")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            inline(tensor, tensor_bytes(tensor, where), files, where)
        tensor.ClearField("external_data")
        check_tensor(tensor, where)
    return OnnxFile(path=path, model=model, sha256=_hash(data, files), external=tuple(paths))


def external_files(path: Path) -> list[Path]:
    """The files beside an ONNX file that its weights lie in, whether they are there or not.

    Raises ModelError where the file is damaged or points elsewhere.
    """
    locations = scan(read_bounded(path, follow=True), str(path))
    return [external_path(path, location) for location in locations]


def onnx_hash(path: Path) -> str:
    """sha256 of an ONNX file and of its external data, in hexadecimal. Raises ModelError."""
    data = read_bounded(path, follow=True)
    locations = scan(data, str(path))
    contents = _read_beside([external_path(path, location) for location in locations])
    return _hash(data, dict(zip(locations, contents, strict=True)))


def _read_beside(paths: list[Path]) -> list[bytes]:
    found: list[bytes] = []
    for path in paths:
        found.append(read_bounded(path, follow=False))
        if sum(map(len, found)) > MAX_MODEL_BYTES:
            raise ModelError(f"{path}: the model's files together have more than 2 GiB")
    return found


def _hash(data: bytes, files: dict[str, bytes]) -> str:
    digest = hashlib.sha256(data)
    for location, content in files.items():
        # Sizes stand between, so that no byte can move from one file to the next unseen.
        digest.update(f"\0{location}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
