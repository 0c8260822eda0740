"""The frames between a worker and its Rego child."""

from __future__ import annotations

import asyncio
import io

import pytest

from app.confinement.frames import MAX_FRAME_BYTES, frame, json_frame, read_frame, receive_frame


def test_a_frame_read_is_the_frame_written() -> None:
    """One after the other, until the end."""
    source = io.BytesIO(frame(b"one") + json_frame({"a": [1]}))

    assert [b"one", b'{"a":[1]}', None] == [read_frame(source), read_frame(source), read_frame(source)]


@pytest.mark.parametrize("data", [b"\x00", b"\x00\x00\x00\x05four", (MAX_FRAME_BYTES + 1).to_bytes(4, "big")])
def test_half_a_frame_and_one_that_is_too_long_are_none(data: bytes) -> None:
    """Nothing is read on after nonsense."""
    with pytest.raises(ValueError, match="frame"):
        read_frame(io.BytesIO(data))


async def test_a_received_frame_is_bounded_by_its_receiver() -> None:
    """Before it is read; an end in the middle is an end."""
    reader = asyncio.StreamReader()
    reader.feed_data(frame(b"12345") + frame(b"123456"))
    assert b"12345" == await receive_frame(reader, 5)
    with pytest.raises(ValueError, match="too long"):
        await receive_frame(reader, 5)
    ended = asyncio.StreamReader()
    ended.feed_data(frame(b"12345")[:-1])
    ended.feed_eof()
    with pytest.raises(EOFError):
        await receive_frame(ended, 5)
