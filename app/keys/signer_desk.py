"""Answers the questions of the authority process with a key ring, one after the other."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta

from app.errors import AppError, ErrorCode
from app.keys.key_ring import KeyRing
from app.keys.signer_wire import (
    Kind,
    Message,
    decode_authority,
    encode_error,
    encode_new_key,
    encode_signed,
)

_Answer = Callable[[Sequence[bytes]], Sequence[bytes]]


class SignerDesk:
    """Every question has exactly one answer; a failure is one too."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring
        self._answers: dict[int, _Answer] = {
            Kind.GENERATE_KEY: self._generate,
            Kind.CLOSE_AUTHORITY: self._close,
            Kind.PROBE: self._probe,
            Kind.SIGN_WORKLOADS: self._sign_workloads,
            Kind.SIGN_AUTHORITY: _named(ring.sign_authority),
            Kind.SIGN_CSR: _named(ring.sign_csr),
            Kind.SIGN_CRL: _named(ring.sign_crl),
            Kind.SEAL: _named(ring.seal),
            Kind.UNSEAL: _named(ring.unseal),
        }

    def answer(self, message: Message, descriptors: list[int]) -> Message:
        """The answer; open files that came with the question are taken from `descriptors` and closed."""
        try:
            if message.kind == Kind.OPEN_AUTHORITY:
                return Message(Kind.DONE, message.number, self._open(message.fields, descriptors))
            return Message(Kind.DONE, message.number, self._answers[message.kind](message.fields))
        except AppError as error:
            return Message(Kind.FAILED, message.number, [encode_error(error)])
        except Exception:  # noqa: BLE001 - one strange question must not take the keys away from all others
            # Where it happened, and not what was handled: an exception's text may quote it.
            frames = traceback.extract_tb(sys.exc_info()[2])[-3:]
            where = ", ".join(f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in frames)  # noqa: PTH119
            failure = AppError(ErrorCode.INTERNAL, "the signer could not answer", diagnosis=where)
            return Message(Kind.FAILED, message.number, [encode_error(failure)])

    def _generate(self, fields: Sequence[bytes]) -> Sequence[bytes]:
        return encode_new_key(self._ring.generate_key(fields[0].decode()))

    def _close(self, fields: Sequence[bytes]) -> Sequence[bytes]:
        self._ring.close_authority(fields[0].decode())
        return ()

    def _probe(self, fields: Sequence[bytes]) -> Sequence[bytes]:
        self._ring.probe(fields[0].decode())
        return ()

    def _sign_workloads(self, fields: Sequence[bytes]) -> Sequence[bytes]:
        return [encode_signed(answer) for answer in self._ring.sign_workloads(fields[0].decode(), fields[1:])]

    def _open(self, fields: Sequence[bytes], descriptors: list[int]) -> Sequence[bytes]:
        """Fields: the stored authority (two), the longest life in seconds, and whether a key file comes with it."""
        key_file = descriptors.pop(0) if fields[3] == b"1" else None
        try:
            authority = decode_authority(fields[:2])
            lifetime = timedelta(seconds=int(fields[2]))
            self._ring.open_authority(authority, max_lifetime=lifetime, key_file=key_file)
        finally:
            if key_file is not None:
                os.close(key_file)
        return ()


def _named(act: Callable[[str, bytes], bytes]) -> _Answer:
    """What takes a name and bytes, and gives bytes."""
    return lambda fields: [act(fields[0].decode(), fields[1])]
