"""Private keys of authorities: making them, the one form in which they are sealed, and reading the user's own."""

from __future__ import annotations

import re
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from app.ca.signing import AuthorityPrivateKey, SignatureScheme, sign_bytes
from app.errors import AppError, ErrorCode

MAX_KEY_FILE_BYTES = 16_384
_KEY_BLOCK = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----[^-]{1,16384}-----END \1-----")


class SigningKey(Protocol):
    """A key that signs by the scheme of its kind, wherever it is. It shows itself to nobody."""

    @property
    def public_key_der(self) -> bytes:
        """Its public half, SubjectPublicKeyInfo."""
        ...

    def sign(self, data: bytes) -> bytes:
        """A signature as certificates carry it.

        Raises:
            AppError: `UNAVAILABLE` when the key cannot be reached now.
        """
        ...


class MemoryKey:
    """A key in the memory of this process."""

    __slots__ = ("_key", "_public_key_der")

    def __init__(self, key: AuthorityPrivateKey) -> None:
        SignatureScheme.of(key)
        self._key = key
        self._public_key_der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def __repr__(self) -> str:
        return "MemoryKey(***)"

    def __reduce__(self) -> str:
        raise TypeError("a key does not travel")

    @property
    def public_key_der(self) -> bytes:
        """Its public half."""
        return self._public_key_der

    def sign(self, data: bytes) -> bytes:
        """A signature; a key in memory is always there."""
        return sign_bytes(self._key, data)


def generate_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def encode_key(key: AuthorityPrivateKey) -> bytes:
    """PKCS#8 in DER, in the clear: only ever handed to `Sealer.seal`."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def decode_key(encoded: bytes) -> AuthorityPrivateKey:
    """The key in what `encode_key` gave.

    Raises:
        AppError: `FAILED_PRECONDITION` when it is anything else; the bytes appear nowhere in it.
    """
    try:
        return _usable(load_der_private_key(encoded, password=None), "a sealed key")
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise AppError(ErrorCode.FAILED_PRECONDITION, "a sealed key is damaged") from None


def decode_pem_key(content: bytes, *, source: str) -> AuthorityPrivateKey:
    """The key in a PEM file: PKCS#8, PKCS#1 or SEC 1; what else is in the file is passed over.

    Raises:
        AppError: `FAILED_PRECONDITION` when there is not exactly one, it is encrypted, or no authority may have it;
            `source` opens the sentence, and the bytes appear nowhere in it.
    """
    if len(content) > MAX_KEY_FILE_BYTES:
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"{source} is larger than {MAX_KEY_FILE_BYTES} bytes")
    blocks = list(_KEY_BLOCK.finditer(content))
    if len(blocks) != 1:
        encrypted = b"Proc-Type: 4,ENCRYPTED" in content
        reason = (
            "is encrypted; give it in the clear, mode 0600" if encrypted else "does not hold one private key in PEM"
        )
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"{source} {reason}")
    try:
        return _usable(load_pem_private_key(blocks[0].group(), password=None), source)
    except TypeError:
        raise AppError(
            ErrorCode.FAILED_PRECONDITION, f"{source} is encrypted; give it in the clear, mode 0600"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"{source} holds a private key that is damaged") from None


def _usable(key: object, source: str) -> AuthorityPrivateKey:
    try:
        SignatureScheme.of(key)
    except AppError as error:
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"{source} is not usable: {error.detail}") from None
    assert isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey))
    return key
