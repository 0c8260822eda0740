"""What crosses the pipe to a confined child and back: frames, each some JSON behind its length."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any, BinaryIO

LENGTH_BYTES = 4
MAX_FRAME_BYTES = 67_108_864  # what is larger goes in pieces


def frame(data: bytes) -> bytes:
    """One frame."""
    return struct.pack(">I", len(data)) + data


def json_frame(value: Any) -> bytes:
    """One frame with the JSON of a value."""
    return frame(json.dumps(value, separators=(",", ":")).encode("ascii"))


def read_frame(source: BinaryIO) -> bytes | None:
    """The next frame of a blocking stream, None at its end.

    Raises:
        ValueError: when the frame is longer than `MAX_FRAME_BYTES`, or ends too early.
    """
    head = source.read(LENGTH_BYTES)
    if not head:
        return None
    length = _length(head)
    data = source.read(length)
    if len(data) != length:
        raise ValueError("a frame ends too early")
    return data


async def receive_frame(reader: asyncio.StreamReader, max_bytes: int) -> bytes:
    """The next frame.

    Raises:
        ValueError: when it is longer than `max_bytes`.
        EOFError: when the stream ends before it is complete.
    """
    length = _length(await reader.readexactly(LENGTH_BYTES))
    if length > max_bytes:
        raise ValueError("a frame is too long")
    return await reader.readexactly(length)


def _length(head: bytes) -> int:
    if len(head) != LENGTH_BYTES:
        raise ValueError("a frame ends too early")
    length: int = struct.unpack(">I", head)[0]
    if length > MAX_FRAME_BYTES:
        raise ValueError("a frame is too long")
    return length
