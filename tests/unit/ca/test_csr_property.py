"""Hostile bytes: whatever arrives, a CSR is either refused with an `AppError` or is a checked value."""

from __future__ import annotations

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ca.csr import parse_csr
from app.errors import AppError, ErrorCode
from tests.support import der_writer as der
from tests.support.certificates import LIMITS, make_csr, pem_csr, spki

# One key for ever: the length of a signature varies, and the tests below count its bytes.
KEY = ec.derive_private_key(int.from_bytes(b"a key that is only ever a test's"), ec.SECP256R1())
GOOD = base64.b64decode("".join(make_csr(KEY).splitlines()[1:-1]))
EXTENSION_REQUEST = bytes.fromhex("06092a864886f70d01090e")

changes = st.lists(
    st.tuples(st.integers(0, len(GOOD) - 1), st.sampled_from(["flip", "cut", "insert"]), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


def accepted(pem: str) -> bool:
    try:
        return parse_csr(pem, LIMITS).public_key_der == spki(KEY)
    except AppError as error:
        code = error.code
    assert code in {ErrorCode.MALFORMED, ErrorCode.INVALID}
    return False


@settings(max_examples=1500, deadline=None)
@given(changes)
def test_a_changed_request_is_never_accepted_as_something_else(edits: list[tuple[int, str, int]]) -> None:
    """Flipped, cut and inserted bytes: refused, unless all that was signed is unchanged."""
    changed = bytearray(GOOD)
    for position, kind, value in edits:
        at = position % max(len(changed), 1)
        if kind == "flip" and changed:
            changed[at] ^= value
        elif kind == "cut":
            del changed[at : at + 1 + value % 8]
        elif kind == "insert":
            changed[at:at] = bytes([value])
    if accepted(pem_csr(bytes(changed))):
        signed = x509.load_der_x509_csr(bytes(changed)).tbs_certrequest_bytes
        assert x509.load_der_x509_csr(GOOD).tbs_certrequest_bytes == signed


def test_the_unchanged_request_is_accepted() -> None:
    """The one that all the others are changed from."""
    assert accepted(pem_csr(GOOD))


@pytest.mark.parametrize("position", range(len(GOOD)))
def test_every_single_byte_is_looked_at(position: int) -> None:
    """Each byte set to a few others: refused wherever it is, but for the unused bits of the signature's last octet."""
    for value in (0x00, 0x01, 0x30, 0x7F, 0x80, 0xFF):
        changed = GOOD[:position] + bytes([value]) + GOOD[position + 1 :]
        if changed != GOOD and accepted(pem_csr(changed)):
            assert (0x03, 0x01) == (GOOD[position - 2], value)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_attributes_under_a_good_signature_are_answered(content: bytes, framed: bool) -> None:
    """The signature holds, so what was signed is read: by a parser that must not fall over."""
    attribute = der.sequence(EXTENSION_REQUEST, der.tlv(0x31, der.sequence(content))) if framed else content
    accepted(pem_csr(der.signed_csr(KEY, spki(KEY), attributes=attribute)))


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=200),
    st.booleans(),
    st.sampled_from(["551d11", "551d13", "551d0f", "551d25", "551d1e", "551d0e"]),
)
def test_any_value_of_a_known_extension_is_answered(value: bytes, critical: bool, oid: str) -> None:
    """Names, constraints, usages with nonsense inside."""
    flag = b"\x01\x01\xff" if critical else b""
    extension = der.sequence(der.tlv(0x06, bytes.fromhex(oid)), flag, der.tlv(0x04, value))
    attribute = der.sequence(EXTENSION_REQUEST, der.tlv(0x31, der.sequence(extension)))
    accepted(pem_csr(der.signed_csr(KEY, spki(KEY), attributes=attribute)))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=400))
def test_any_text_is_answered(text: str) -> None:
    """Also between the right labels."""
    assert not accepted(text)
    assert not accepted(f"-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_key_bytes_are_answered(content: bytes) -> None:
    """In the place of the public key."""
    assert not accepted(pem_csr(der.unsigned_csr(der.sequence(content))))
    assert not accepted(pem_csr(der.unsigned_csr(der.ec_key(content))))
    assert not accepted(
        pem_csr(der.unsigned_csr(der.sequence(der.sequence(der.OID_RSA, der.NULL), der.bit_string(content))))
    )
