"""Building certificates around a signature that somebody else makes.

`CertificateBuilder` hands the to-be-signed bytes to a key object and puts its answer into the certificate. A key
object of ours turns that into two steps: *capture* the bytes with a signature that is none, and later *replay* the
same builder with the signature that the signer made. So no DER is written by hand, and the bytes that were linted
are compared with the bytes that were put together. Revocation lists and certificate requests go the same way.

The capturing key needs no key material: nothing that it "signs" is ever verified, and the lint wants only a
signature of the right type. A stand-in that could sign nothing is safer than a throw-away key that could.
"""
# ruff: noqa: ARG002 - the methods of an abstract class keep its parameters

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, Self, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import SignatureAlgorithmOID

from app.errors import AppError, ErrorCode

AuthorityPublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
AuthorityPrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

# A well-formed ECDSA-Sig-Value (RFC 3279 §2.2.3). No certificate with it leaves `capture`'s caller: see ADR 0007.
STAND_IN_SIGNATURE = encode_dss_signature(1, 1)
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 4096


@dataclass(frozen=True, slots=True)
class SignatureScheme:
    """How the keys of an authority sign: ECDSA with the hash of its curve, or RSA with PKCS #1 v1.5 and SHA-256.

    `oid` names it in certificates; its parameters are NULL for RSA and absent for ECDSA (RFC 4055 §5, RFC 5758 §3.2).
    """

    oid: x509.ObjectIdentifier
    hash: hashes.SHA256 | hashes.SHA384
    curve: ec.EllipticCurve | None
    ecdsa: ec.ECDSA | None = None

    @property
    def has_null_parameters(self) -> bool:
        """Whether the algorithm identifier carries NULL."""
        return self.curve is None

    @classmethod
    def of(cls, key: object) -> SignatureScheme:
        """The scheme of a public or private key.

        Raises:
            AppError: `INVALID` for a key that no authority of ours may have.
        """
        match key:
            case ec.EllipticCurvePublicKey() | ec.EllipticCurvePrivateKey():
                return _of_curve(key.curve)
            case rsa.RSAPublicKey() | rsa.RSAPrivateKey() if MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
                return _RSA
            case _:
                raise AppError(
                    ErrorCode.INVALID,
                    f"an authority's key must be on P-256 or P-384, or RSA with {MIN_RSA_BITS} to {MAX_RSA_BITS} bits",
                )


_RSA = SignatureScheme(SignatureAlgorithmOID.RSA_WITH_SHA256, hashes.SHA256(), None)
_P256 = SignatureScheme(
    SignatureAlgorithmOID.ECDSA_WITH_SHA256, hashes.SHA256(), ec.SECP256R1(), ec.ECDSA(hashes.SHA256())
)
_P384 = SignatureScheme(
    SignatureAlgorithmOID.ECDSA_WITH_SHA384, hashes.SHA384(), ec.SECP384R1(), ec.ECDSA(hashes.SHA384())
)


def _of_curve(curve: ec.EllipticCurve) -> SignatureScheme:
    match curve:
        case ec.SECP256R1():
            return _P256
        case ec.SECP384R1():
            return _P384
        case _:
            raise AppError(ErrorCode.INVALID, "an authority's key must be on P-256 or P-384")


def authority_public_key(key: object) -> AuthorityPublicKey:
    """The key, as one that an authority may have.

    Raises:
        AppError: `INVALID` when it is not.
    """
    SignatureScheme.of(key)
    assert isinstance(key, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey))
    return key


def sign_bytes(key: AuthorityPrivateKey, data: bytes) -> bytes:
    """A signature by the scheme of the key."""
    scheme = SignatureScheme.of(key)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        assert scheme.ecdsa is not None
        return key.sign(data, scheme.ecdsa)
    return key.sign(data, PKCS1v15(), scheme.hash)


def is_signed_by(key: AuthorityPublicKey, signature: bytes, data: bytes) -> bool:
    """Whether the signature over `data` is that key's, by the scheme of the key."""
    scheme = SignatureScheme.of(key)
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            assert scheme.ecdsa is not None
            key.verify(signature, data, scheme.ecdsa)
        else:
            key.verify(signature, data, PKCS1v15(), scheme.hash)
    except InvalidSignature:
        return False
    return True


class _FixedSignature:
    """What the two kinds of keys with a fixed signature share."""

    def __init__(self, public_key: Any, signature: bytes) -> None:
        self._public_key = public_key
        self._signature = signature
        self.signed = b""

    @property
    def key_size(self) -> int:
        """The size of the key that it stands in for."""
        return int(self._public_key.key_size)

    def public_key(self) -> Any:
        """The public key that it stands in for."""
        return self._public_key

    def _has_no_key(self) -> NoReturn:
        raise NotImplementedError("there is no key behind a fixed signature")

    def private_numbers(self) -> Any:
        """Not possible: there is no key."""
        self._has_no_key()

    def private_bytes(self, encoding: object, format: object, encryption_algorithm: object) -> bytes:  # noqa: A002
        """Not possible: there is no key."""
        self._has_no_key()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self


class FixedSignatureKey(_FixedSignature, ec.EllipticCurvePrivateKey):
    """An elliptic curve key that signs everything with one given signature, and remembers what it signed."""

    def sign(
        self, data: bytes | bytearray | memoryview, signature_algorithm: ec.EllipticCurveSignatureAlgorithm
    ) -> bytes:
        """The given signature, whatever the data."""
        self.signed = bytes(data)
        return self._signature

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve of the key that it stands in for."""
        curve: ec.EllipticCurve = self._public_key.curve
        return curve

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        """Not possible: there is no key."""
        self._has_no_key()


class FixedSignatureRsaKey(_FixedSignature, rsa.RSAPrivateKey):
    """The same for RSA."""

    def sign(self, data: bytes | bytearray | memoryview, padding: object, algorithm: object) -> bytes:
        """The given signature, whatever the data."""
        self.signed = bytes(data)
        return self._signature

    def decrypt(self, ciphertext: bytes, padding: object) -> bytes:
        """Not possible: there is no key."""
        self._has_no_key()


_SignedT_co = TypeVar("_SignedT_co", covariant=True)


class Builder(Protocol[_SignedT_co]):
    """A builder of something signed: certificate, revocation list, certificate request."""

    def sign(self, private_key: Any, algorithm: Any) -> _SignedT_co:
        """Build and sign."""
        ...


def capture(builder: Builder[_SignedT_co], public_key: AuthorityPublicKey) -> tuple[bytes, _SignedT_co]:
    """The to-be-signed bytes of a builder, and the whole with a signature that is none, for the lint.

    `public_key` is the key that will sign.

    Raises:
        AppError: `INVALID` for a key that no authority of ours may have.
    """
    if isinstance(public_key, rsa.RSAPublicKey):
        return _build(builder, public_key, b"\x01" * (public_key.key_size // 8))
    return _build(builder, public_key, STAND_IN_SIGNATURE)


def replay(builder: Builder[_SignedT_co], public_key: AuthorityPublicKey, signature: bytes) -> _SignedT_co:
    """What the same builder makes with a signature that was made elsewhere."""
    return _build(builder, public_key, signature)[1]


def _build(
    builder: Builder[_SignedT_co], public_key: AuthorityPublicKey, signature: bytes
) -> tuple[bytes, _SignedT_co]:
    scheme = SignatureScheme.of(public_key)
    kind = FixedSignatureRsaKey if scheme.curve is None else FixedSignatureKey
    key = kind(public_key, signature)
    signed = builder.sign(key, scheme.hash)
    return key.signed, signed
