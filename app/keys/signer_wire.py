"""What the authority process and its signer say to each other over their socket pair.

A frame is a length, a kind, the number of the question, and byte fields, each with its length:

    length 4 | kind 1 | number 4 | (field length 4 | field) ...

all big-endian, the first length counting what follows it. The bounds hold on both sides: neither reads more than
`MAX_FRAME_BYTES` at a time, whatever the other claims. There is nothing to negotiate, because both ends are the same
program.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from app.authority.authorities.authority_ports import NewKey, StoredAuthority
from app.errors import AppError, ErrorCode

MAX_FRAME_BYTES = 16 * 1024 * 1024  # a revocation list of some 300,000 entries
MAX_FIELDS = 4_096
_LENGTH = struct.Struct(">I")
_HEAD = struct.Struct(">BI")
_SIGNED, _REFUSED = b"\x00", b"\x01"


class Kind(IntEnum):
    """What a message is."""

    START = 1
    GENERATE_KEY = 2
    OPEN_AUTHORITY = 3
    CLOSE_AUTHORITY = 4
    PROBE = 5
    SIGN_WORKLOADS = 6
    SIGN_AUTHORITY = 7
    SIGN_CSR = 8
    SIGN_CRL = 9
    SEAL = 10
    UNSEAL = 11
    DONE = 64  # an answer; its fields are the result
    FAILED = 65  # an answer; its field says why


@dataclass(frozen=True, slots=True)
class Message:
    """One question or answer; an answer has the number of its question."""

    kind: int
    number: int
    fields: Sequence[bytes] = ()


def _broken(reason: str) -> AppError:
    return AppError(ErrorCode.INTERNAL, "the signer was not understood", diagnosis=reason)


def encode(message: Message) -> bytes:
    """A frame.

    Raises:
        AppError: `TOO_LARGE` when it would exceed the bound.
    """
    parts = [_HEAD.pack(message.kind, message.number)]
    for field in message.fields:
        parts += (_LENGTH.pack(len(field)), field)
    body = b"".join(parts)
    if len(body) > MAX_FRAME_BYTES:
        raise AppError(ErrorCode.TOO_LARGE, f"more than {MAX_FRAME_BYTES} bytes are not handed to the signer at once")
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Puts messages together from the pieces in which a stream brings them."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Every message that is complete now.

        Raises:
            AppError: `INTERNAL` when a bound is broken or the bytes are no frame; the stream is then useless.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if not _HEAD.size <= length <= MAX_FRAME_BYTES:
                raise _broken("a frame has an impossible length")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            frame = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield _decode(frame)


def _decode(frame: bytes) -> Message:
    kind, number = _HEAD.unpack_from(frame)
    fields: list[bytes] = []
    at = _HEAD.size
    while at < len(frame):
        if at + _LENGTH.size > len(frame) or len(fields) >= MAX_FIELDS:
            raise _broken("the fields of a frame do not fit")
        (length,) = _LENGTH.unpack_from(frame, at)
        at += _LENGTH.size
        if at + length > len(frame):
            raise _broken("a field is longer than its frame")
        fields.append(frame[at : at + length])
        at += length
    return Message(kind, number, fields)


# Values in fields


def encode_error(error: AppError) -> bytes:
    """An error as a field."""
    return json.dumps({"code": error.code, "detail": error.detail, "diagnosis": error.diagnosis}).encode()


def decode_error(field: bytes) -> AppError:
    """The error in a field."""
    try:
        raw = json.loads(field)
        return AppError(ErrorCode(raw["code"]), str(raw["detail"]), diagnosis=str(raw["diagnosis"]))
    except (ValueError, KeyError, TypeError):
        return _broken("an error cannot be read")


def encode_signed(answer: bytes | AppError) -> bytes:
    """One answer of a batch: a signature, or why there is none."""
    return _REFUSED + encode_error(answer) if isinstance(answer, AppError) else _SIGNED + answer


def decode_signed(field: bytes) -> bytes | AppError:
    """The same back."""
    return field[1:] if field[:1] == _SIGNED else decode_error(field[1:])


def encode_authority(authority: StoredAuthority) -> list[bytes]:
    """What the signer needs of a stored authority: two fields, the second the sealed key."""
    known = {
        "id": authority.id,
        "role": authority.role,
        "state": authority.state,
        "certificate": authority.certificate_pem,
        "chain": authority.chain_pem,
        "keyRef": authority.key_ref,
        "createdAt": authority.created_at.isoformat(),
    }
    return [json.dumps(known).encode(), authority.sealed_key]


def decode_authority(fields: Sequence[bytes]) -> StoredAuthority:
    """The same back.

    Raises:
        AppError: `INTERNAL` when the fields are anything else.
    """
    try:
        known, sealed_key = json.loads(fields[0]), fields[1]
        return StoredAuthority(
            id=str(known["id"]),
            role=str(known["role"]),
            state=str(known["state"]),
            certificate_pem=str(known["certificate"]),
            chain_pem=str(known["chain"]),
            key_ref=str(known["keyRef"]),
            sealed_key=sealed_key,
            created_at=datetime.fromisoformat(known["createdAt"]),
        )
    except (ValueError, KeyError, TypeError, IndexError):
        raise _broken("an authority cannot be read") from None


def encode_new_key(key: NewKey) -> list[bytes]:
    """A new key as fields."""
    return [key.public_key_der, key.sealed, key.key_ref.encode()]


def decode_new_key(fields: Sequence[bytes]) -> NewKey:
    """The same back.

    Raises:
        AppError: `INTERNAL` when the fields are anything else.
    """
    if len(fields) != 3:
        raise _broken("a new key cannot be read")
    return NewKey(public_key_der=fields[0], sealed=fields[1], key_ref=fields[2].decode())
