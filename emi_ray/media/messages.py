"""Send flat rows of text and bytes over a pipe.

A message has eight bytes with the big-endian length of a JSON header; the header, a list of [name, value] pairs in
which {"bytes": n} stands for n bytes; then those bytes. Unlike pickle, reading a message runs no code.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

Message = Mapping[str, Any]
"""Text, numbers, None or bytes, by name."""

_LENGTH = struct.Struct(">Q")


def write_message(stream: BinaryIO, message: Message) -> None:
    """Write one message and flush.

    Raises:
        BrokenPipeError: the reader is gone.
    """
    entries = [
        # Bytes follow the header in the same order, so nothing is encoded or copied for JSON.
        [name, {"bytes": len(value)} if isinstance(value, bytes) else value]
        for name, value in message.items()
    ]
    header = json.dumps(entries).encode()
    stream.write(_LENGTH.pack(len(header)))
    stream.write(header)
    for value in message.values():
        if isinstance(value, bytes):
            stream.write(value)
    stream.flush()


def read_message(stream: BinaryIO) -> dict[str, Any]:
    """Read one message.

    Raises:
        EOFError: the writer is gone, before or within the message.
    """
    (length,) = _LENGTH.unpack(_read_exactly(stream, _LENGTH.size))
    header = json.loads(_read_exactly(stream, length))
    return {
        name: _read_exactly(stream, value["bytes"]) if isinstance(value, dict) else value
        for name, value in header
    }


def _read_exactly(stream: BinaryIO, num_bytes: int) -> bytes:
    data = stream.read(num_bytes)
    if len(data) < num_bytes:
        raise EOFError("the other side of the pipe is gone")
    return data
