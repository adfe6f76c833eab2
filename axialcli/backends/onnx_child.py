"""The trial run of a foreign model: a process of its own, which may crash, hang or run out of memory.

It is started as a file and imports nothing of axial, so that it is ready in a fraction of a second. It
reads one model, then pictures, from its input, and answers each on its output. A message is eight bytes
of length, a JSON text of that length, then the bytes of the array that the text describes, if any.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from typing import IO, Any

import numpy as np
import onnxruntime as ort


def main() -> None:
    """Serves until the input ends."""
    # Libraries may print; the answers keep the real output for themselves.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    ort.set_default_logger_severity(4)
    header, data = receive(sys.stdin.buffer)
    _limit(header["memory_bytes"], header["cpu_s"])
    try:
        session = _session(data, header["threads"])
    except Exception as error:  # noqa: BLE001 - whatever a library says is the answer
        send(answers, {"error": _line(error)})
        return
    send(answers, {})
    while True:
        try:
            header, data = receive(sys.stdin.buffer)
        except EOFError:
            return
        image = np.frombuffer(data, header["dtype"]).reshape(header["shape"])
        try:
            first = session.get_outputs()[0].name
            output = session.run([first], {session.get_inputs()[0].name: image})[0]
            if not isinstance(output, np.ndarray) or output.dtype.kind not in "fiub":
                raise TypeError("it does not answer numbers")
        except Exception as error:  # noqa: BLE001 - the same
            send(answers, {"error": _line(error)})
        else:
            send(answers, {"dtype": output.dtype.str, "shape": output.shape}, output.tobytes())


def receive(source: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """The next message: its JSON, and its bytes. Raises EOFError at the end."""
    (length,) = struct.unpack("<Q", _exactly(source, 8))
    header = json.loads(_exactly(source, length))
    return header, _exactly(source, header["bytes"])


def send(target: IO[bytes], header: dict[str, Any], data: bytes = b"") -> None:
    """Writes one message."""
    text = json.dumps({**header, "bytes": len(data)}).encode()
    target.write(struct.pack("<Q", len(text)) + text)
    target.write(data)
    target.flush()


def _exactly(source: IO[bytes], count: int) -> bytes:
    data = source.read(count)
    if len(data) != count:
        raise EOFError
    return data


def _session(data: bytes, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Else bytes that begin like ONNX Runtime's own format would be read by another parser.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _limit(memory_bytes: int, cpu_s: int) -> None:
    """Memory, time and, from here on, not one file more, where the platform has such limits."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def _line(error: Exception) -> str:
    """What a library says, without its own prefixes, as one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.rpartition("Status Message: ")[2].rpartition(" : ")[2][:400]


if __name__ == "__main__":
    main()
