"""Private keys: making them, and the one form in which they are sealed."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from app.errors import AppError, ErrorCode


def generate_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def encode_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 in DER, in the clear: only ever handed to `Sealer.seal`."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def decode_key(encoded: bytes) -> ec.EllipticCurvePrivateKey:
    """The key in what `encode_key` gave.

    Raises:
        AppError: `FAILED_PRECONDITION` when it is anything else; the bytes appear nowhere in it.
    """
    try:
        key = load_der_private_key(encoded, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise AppError(ErrorCode.FAILED_PRECONDITION, "a sealed key is not an elliptic curve key")
    return key
