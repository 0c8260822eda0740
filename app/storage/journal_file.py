"""The bytes of a journal segment: how an entry is framed, and what a segment that was found on disk still says.

A frame carries its sequence number and the number of the last frame that was known to be flushed when it was
written. So a damaged end can be told from a damaged middle: frames behind the damage that were never covered by a
flush are what a power cut leaves, and nobody was promised them; a frame that says "what is missing was flushed" means
that something acknowledged is gone, which no reader may pass over in silence.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = b"GHJ1"
UID_BYTES = 16
_PREFIX = struct.Struct(">4sI")  # magic, CRC-32 of all that follows
_HEAD = struct.Struct(f">IQQ{UID_BYTES}s")  # length of the data, sequence, flushed, uid
OVERHEAD_BYTES = _PREFIX.size + _HEAD.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One entry in the journal. `flushed` is the sequence of the last frame that was durable before this one."""

    sequence: int
    flushed: int
    uid: bytes
    data: bytes

    def to_bytes(self) -> bytes:
        """The frame as it is written."""
        body = _HEAD.pack(len(self.data), self.sequence, self.flushed, self.uid) + self.data
        return _PREFIX.pack(MAGIC, zlib.crc32(body)) + body


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What a segment holds: how many whole frames, where they end, and whether something torn follows."""

    frames: int
    end: int
    size: int
    last_sequence: int

    @property
    def is_torn(self) -> bool:
        """Whether bytes follow that are no frame."""
        return self.end < self.size


class HoleError(Exception):
    """A frame that was acknowledged is missing; `sequence` is its number, `offset` where it should be."""

    def __init__(self, sequence: int, offset: int) -> None:
        super().__init__(f"entry {sequence} is damaged at byte {offset}")
        self.sequence = sequence
        self.offset = offset


def read_frame(buffer: bytes, offset: int) -> tuple[Frame, int] | None:
    """The frame at an offset and where the next one begins; None when there is no whole, undamaged frame."""
    start = offset + _PREFIX.size
    if len(buffer) < start + _HEAD.size:
        return None
    magic, checksum = _PREFIX.unpack_from(buffer, offset)
    length, sequence, flushed, uid = _HEAD.unpack_from(buffer, start)
    end = start + _HEAD.size + length
    if magic != MAGIC or end > len(buffer) or zlib.crc32(memoryview(buffer)[start:end]) != checksum:
        return None
    return Frame(sequence=sequence, flushed=flushed, uid=uid, data=buffer[end - length : end]), end


def read_frames(buffer: bytes, offset: int = 0) -> Iterator[tuple[Frame, int]]:
    """Whole frames one after the other, each with where the next one begins."""
    while (found := read_frame(buffer, offset)) is not None:
        yield found
        offset = found[1]


def survey(buffer: bytes, first_sequence: int) -> Segment:
    """What a segment that begins with `first_sequence` holds.

    Raises:
        HoleError: when something is damaged that a later frame says was flushed.
    """
    end, expected = 0, first_sequence
    for frame, after in read_frames(buffer):
        if frame.sequence != expected:
            break
        end, expected = after, expected + 1
    if any(frame.flushed >= expected for frame in _stray_frames(buffer, end)):
        raise HoleError(expected, end)
    return Segment(frames=expected - first_sequence, end=end, size=len(buffer), last_sequence=expected - 1)


def _stray_frames(buffer: bytes, offset: int) -> Iterator[Frame]:
    """Whole frames anywhere behind an offset."""
    while (offset := buffer.find(MAGIC, offset)) >= 0:
        found = read_frame(buffer, offset)
        if found is not None:
            yield found[0]
        offset = offset + 1 if found is None else found[1]
