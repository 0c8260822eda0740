"""Checkpoints: what the log's key says about the tree, as a signed note that other tools read too.

The text is a C2SP tlog-checkpoint (https://c2sp.org/tlog-checkpoint): origin, size and root hash, each on a line,
signed as a note (https://c2sp.org/signed-note) with Ed25519. Signature lines of others (witnesses) may follow ours
and are kept. The public key is written as notes write verifier keys: `<origin>+<key id>+<base64>`.

Making a signature is not done here: `text_of` says what is signed and `note_of` puts the note together.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from app.errors import AppError, ErrorCode
from app.ledger.merkle import HASH_BYTES

MAX_NOTE_BYTES = 8_192  # ours have some 250; room for the signatures of witnesses
_ED25519 = b"\x01"
_KEY_ID_BYTES = 4
_SIGNATURE_LINE = "\u2014 "  # an em dash, as the specification of notes wants it
_MAX_SIZE_DIGITS = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The tree at one size. `note` is the whole signed text; whoever parsed it has not verified it yet."""

    origin: str
    size: int
    root: bytes
    note: str

    @classmethod
    def parse(cls, note: str) -> Self:
        """Read a signed note.

        Raises:
            AppError: `MALFORMED` when it is not a checkpoint.
        """
        body, separator, signatures = note.partition("\n\n")
        lines = body.split("\n")
        if len(note.encode("utf-8", "replace")) > MAX_NOTE_BYTES or not separator or len(lines) < 3:
            raise _malformed()
        origin, size, root = lines[:3]
        if not _is_key_name(origin) or not _is_size(size) or not signatures.startswith(_SIGNATURE_LINE):
            raise _malformed()
        return cls(origin=origin, size=int(size), root=_decoded(root, HASH_BYTES), note=note)


@dataclass(frozen=True, slots=True)
class LogKey:
    """The public key of a log, with the origin that its checkpoints carry."""

    origin: str
    public_key: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the form `<origin>+<key id>+<base64>`.

        Raises:
            AppError: `INVALID` when it is not an Ed25519 verifier key, or its id is not the key's.
        """
        origin, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        wanted = AppError(ErrorCode.INVALID, "not the public key of a ledger; `gatehouse audit key` prints it")
        try:
            data = decode_base64(encoded)
        except ValueError:
            raise wanted from None
        if not _is_key_name(origin) or len(data) != 33 or data[:1] != _ED25519:
            raise wanted
        key = cls(origin, data[1:])
        if key_id != key.key_id.hex():
            raise wanted
        return key

    def __str__(self) -> str:
        return f"{self.origin}+{self.key_id.hex()}+{base64.b64encode(_ED25519 + self.public_key).decode()}"

    @property
    def key_id(self) -> bytes:
        """Four bytes by which signature lines name the key."""
        return hashlib.sha256(self.origin.encode() + b"\n" + _ED25519 + self.public_key).digest()[:_KEY_ID_BYTES]

    def verify(self, note: str) -> Checkpoint:
        """The checkpoint in a note that this key signed.

        Raises:
            AppError: `MALFORMED` when it is no checkpoint, `UNAUTHENTICATED` when this key did not sign it.
        """
        checkpoint = Checkpoint.parse(note)
        body, _, signatures = note.partition("\n\n")
        refused = AppError(
            ErrorCode.UNAUTHENTICATED, f"the checkpoint of size {checkpoint.size} is not signed by this ledger's key"
        )
        if checkpoint.origin != self.origin:
            raise refused
        for line in signatures.splitlines():
            name, _, encoded = line.removeprefix(_SIGNATURE_LINE).partition(" ")
            if name == self.origin and self._holds(f"{body}\n".encode(), encoded):
                return checkpoint
        raise refused

    def _holds(self, text: bytes, encoded: str) -> bool:
        try:
            data = decode_base64(encoded)
            if data[:_KEY_ID_BYTES] != self.key_id:
                return False
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(data[_KEY_ID_BYTES:], text)
        except (InvalidSignature, ValueError):
            return False
        return True


def origin_of(trust_domain: str) -> str:
    """The name of the ledger of a trust domain."""
    return f"gatehouse/{trust_domain}"


def text_of(origin: str, size: int, root: bytes) -> bytes:
    """What is signed."""
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n".encode()


def note_of(key: LogKey, text: bytes, signature: bytes) -> str:
    """The signed note."""
    encoded = base64.b64encode(key.key_id + signature).decode()
    return f"{text.decode()}\n{_SIGNATURE_LINE}{key.origin} {encoded}\n"


def _is_key_name(text: str) -> bool:
    return 0 < len(text) <= 512 and "+" not in text and not any(c.isspace() or not c.isprintable() for c in text)


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_SIZE_DIGITS and (text == "0" or text[0] != "0")


def decode_base64(text: str) -> bytes:
    """The bytes of a text that is their one base64 form, so that no two texts say the same (RFC 4648 §3.5).

    Raises:
        ValueError: when it is not.
    """
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("not the canonical form")
    return data


def _decoded(text: str, size: int) -> bytes:
    try:
        data = decode_base64(text)
    except ValueError:
        raise _malformed() from None
    if len(data) != size:
        raise _malformed()
    return data


def _malformed() -> AppError:
    return AppError(ErrorCode.MALFORMED, "not a signed checkpoint of a ledger")
