"""Writes DER, good and bad, for requests that no library would agree to make."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

OID_EC_PUBLIC_KEY = bytes.fromhex("06072a8648ce3d0201")
OID_P256 = bytes.fromhex("06082a8648ce3d030107")
OID_RSA = bytes.fromhex("06092a864886f70d010101")
OID_ECDSA_SHA256 = bytes.fromhex("06082a8648ce3d040302")
OID_ECDSA_SHA1 = bytes.fromhex("06072a8648ce3d0401")
OID_RSA_SHA256 = bytes.fromhex("06092a864886f70d01010b")
OID_RSA_MD5 = bytes.fromhex("06092a864886f70d010104")
NULL = b"\x05\x00"


def tlv(tag: int, *content: bytes) -> bytes:
    """One element with a definite length."""
    body = b"".join(content)
    size = len(body)
    if size < 0x80:
        return bytes((tag, size)) + body
    octets = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(octets))) + octets + body


def sequence(*content: bytes) -> bytes:
    return tlv(0x30, *content)


def integer(value: int) -> bytes:
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1))


def bit_string(value: bytes) -> bytes:
    return tlv(0x03, b"\x00" + value)


def ec_key(point: bytes, parameters: bytes = OID_P256) -> bytes:
    """A SubjectPublicKeyInfo with an elliptic curve point, on the curve or not."""
    return sequence(sequence(OID_EC_PUBLIC_KEY, parameters), bit_string(point))


def rsa_key(modulus: int, exponent: int) -> bytes:
    """A SubjectPublicKeyInfo with any two numbers."""
    return sequence(sequence(OID_RSA, NULL), bit_string(sequence(integer(modulus), integer(exponent))))


def unsigned_csr(key: bytes, *, attributes: bytes = b"", algorithm: bytes = sequence(OID_ECDSA_SHA256)) -> bytes:
    """A PKCS#10 request whose signature is nonsense."""
    info = sequence(integer(0), sequence(), key, tlv(0xA0, attributes))
    return sequence(info, algorithm, bit_string(sequence(integer(1), integer(1))))


def signed_csr(signer: ec.EllipticCurvePrivateKey, key: bytes, *, attributes: bytes = b"") -> bytes:
    """A PKCS#10 request over any key and attributes, signed for real."""
    info = sequence(integer(0), sequence(), key, tlv(0xA0, attributes))
    signature = signer.sign(info, ec.ECDSA(hashes.SHA256()))
    return sequence(info, sequence(OID_ECDSA_SHA256), bit_string(signature))
