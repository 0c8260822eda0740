"""Building certificates around a signature that somebody else makes.

`CertificateBuilder` hands the to-be-signed bytes to a key object and puts its answer into the certificate. A key
object of ours turns that into two steps: *capture* the bytes with a signature that is none, and later *replay* the
same builder with the signature that the signer made. So no DER is written by hand, and the bytes that were linted
are compared with the bytes that were put together.

The capturing key needs no key material: nothing that it "signs" is ever verified, and the lint wants only a
signature of the right type. A stand-in that could sign nothing is safer than a throw-away key that could.
"""
# ruff: noqa: ARG002 - the methods of an abstract class keep its parameters

from __future__ import annotations

from typing import NoReturn, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from app.errors import AppError, ErrorCode

# A well-formed ECDSA-Sig-Value (RFC 3279 §2.2.3). No certificate with it leaves `capture`'s caller: see ADR 0007.
STAND_IN_SIGNATURE = encode_dss_signature(1, 1)


def signing_hash(curve: ec.EllipticCurve) -> hashes.SHA256 | hashes.SHA384:
    """The hash that belongs to an issuer's curve: SHA-256 for P-256, SHA-384 for P-384.

    Raises:
        AppError: `INVALID` for any other curve.
    """
    match curve:
        case ec.SECP256R1():
            return hashes.SHA256()
        case ec.SECP384R1():
            return hashes.SHA384()
        case _:
            raise AppError(ErrorCode.INVALID, "an authority's key must be on P-256 or P-384")


class FixedSignatureKey(ec.EllipticCurvePrivateKey):
    """A private key that signs everything with one given signature, and remembers what it signed."""

    def __init__(self, curve: ec.EllipticCurve, signature: bytes) -> None:
        self._curve = curve
        self._signature = signature
        self.signed = b""

    def sign(
        self, data: bytes | bytearray | memoryview, signature_algorithm: ec.EllipticCurveSignatureAlgorithm
    ) -> bytes:
        """The given signature, whatever the data."""
        self.signed = bytes(data)
        return self._signature

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve that it pretends to be on."""
        return self._curve

    @property
    def key_size(self) -> int:
        """The size that it pretends to have."""
        return self._curve.key_size

    def _has_no_key(self) -> NoReturn:
        raise NotImplementedError("there is no key behind a fixed signature")

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        """Not possible: there is no key."""
        self._has_no_key()

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Not possible: there is no key."""
        self._has_no_key()

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        """Not possible: there is no key."""
        self._has_no_key()

    def private_bytes(self, encoding: object, format: object, encryption_algorithm: object) -> bytes:  # noqa: A002
        """Not possible: there is no key."""
        self._has_no_key()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self


def capture(builder: x509.CertificateBuilder, curve: ec.EllipticCurve) -> tuple[bytes, x509.Certificate]:
    """The to-be-signed bytes of a builder, and the certificate with a signature that is none, for the lint."""
    key = FixedSignatureKey(curve, STAND_IN_SIGNATURE)
    certificate = builder.sign(key, signing_hash(curve))
    return key.signed, certificate


def replay(builder: x509.CertificateBuilder, curve: ec.EllipticCurve, signature: bytes) -> x509.Certificate:
    """The certificate of the same builder with a signature that was made elsewhere."""
    return builder.sign(FixedSignatureKey(curve, signature), signing_hash(curve))
