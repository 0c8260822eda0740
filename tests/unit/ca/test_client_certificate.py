"""Reading client certificates: one of ours, for a workload, valid now; everything else is refused and named."""

from __future__ import annotations

import base64
import contextlib
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from app.ca.client_certificate import read_client_certificate
from app.ca.key_policy import key_hash
from app.errors import AppError, ErrorCode
from tests.support.certificates import IDENTITY, NOW, TRUST_DOMAIN, make_csr, make_pki
from tests.support.client_certificates import ClientShape, make_client_certificate

PKI = make_pki()
CART = str(IDENTITY)


def refusal(pem: str, *, after: timedelta = timedelta(0)) -> AppError:
    with pytest.raises(AppError) as caught:
        read_client_certificate(pem, trust_domain=TRUST_DOMAIN, now=NOW + after)
    return caught.value


def test_a_certificate_of_ours_is_read() -> None:
    """Identity, serial number and key as they stand on record."""
    issued = PKI.issue(make_csr())
    got = read_client_certificate(issued.pem, trust_domain=TRUST_DOMAIN, now=NOW)
    key = issued.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    assert (str(got.identity), got.serial, got.key_hash) == (CART, issued.serial_hex, key_hash(key).hex())
    assert (got.not_before, got.not_after) == (issued.not_before, issued.not_after)


SHAPES = {
    "015-expired": (ClientShape(begins=timedelta(hours=-2), ends=timedelta(hours=-1)), "not_valid_now"),
    "015-not-yet-valid": (ClientShape(begins=timedelta(hours=1), ends=timedelta(hours=2)), "not_valid_now"),
    "015-other-trust-domain": (ClientShape(uris=["spiffe://other.local/ns/shop/sa/cart"]), "trust_domain"),
    "015-two-uris": (ClientShape(uris=[CART, "spiffe://cluster.local/ns/shop/sa/pay"]), "malformed"),
    "015-same-uri-twice": (ClientShape(uris=[CART, CART]), "malformed"),
    "015-no-uri": (ClientShape(uris=[]), "malformed"),
    "015-authority": (ClientShape(is_authority=True), "purpose"),
    "016-nul": (ClientShape(uris=[CART + "\0"]), "malformed"),
    "016-nul-inside": (ClientShape(uris=[CART + "\0.evil.example"]), "malformed"),
    "016-newline": (ClientShape(uris=[CART + "\n"]), "malformed"),
    "not-a-workload": (ClientShape(uris=["spiffe://cluster.local/gateway"]), "malformed"),
    "not-spiffe": (ClientShape(uris=["https://cluster.local/ns/shop/sa/cart"]), "malformed"),
    "server-only": (ClientShape(purposes=[ExtendedKeyUsageOID.SERVER_AUTH]), "purpose"),
    "any-purpose": (ClientShape(purposes=[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), "purpose"),
    "no-purpose": (ClientShape(purposes=[]), "purpose"),
    "no-signatures": (ClientShape(digital_signature=False), "purpose"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_case_015_and_016_a_certificate_that_is_not_a_workloads_is_refused(name: str) -> None:
    """Opaque outside, the reason inside."""
    shape, reason = SHAPES[name]
    error = refusal(make_client_certificate(PKI, shape, now=NOW).pem)

    assert (error.code, error.detail) == (ErrorCode.UNAUTHENTICATED, "request authenticate failure")
    assert error.diagnosis.partition(":")[0] == reason
    assert "\n" not in error.diagnosis
    assert "\0" not in error.diagnosis


def test_the_last_second_counts_and_the_next_does_not() -> None:
    """RFC 5280 §4.1.2.5: validity includes its end."""
    made = make_client_certificate(PKI, ClientShape(ends=timedelta(seconds=10)), now=NOW)
    read_client_certificate(made.pem, trust_domain=TRUST_DOMAIN, now=NOW + timedelta(seconds=10))

    assert refusal(made.pem, after=timedelta(seconds=11)).diagnosis.startswith("not_valid_now")


@given(st.binary(max_size=600))
def test_bytes_that_are_no_certificate_are_refused(data: bytes) -> None:
    """Whatever the transport hands over."""
    assert refusal(data.decode("latin-1")).diagnosis.startswith("malformed")


@given(st.integers(0, 600), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_changes_nothing_that_counts(position: int, flip: int) -> None:
    """The signature is TLS's business; nothing here may crash, and no other identity may come out."""
    made = make_client_certificate(PKI, now=NOW).leaf
    data = bytearray(made.public_bytes(Encoding.DER))
    data[position % len(data)] ^= flip
    pem = f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(bytes(data)).decode()}-----END CERTIFICATE-----\n"
    with contextlib.suppress(AppError):
        got = read_client_certificate(pem, trust_domain=TRUST_DOMAIN, now=NOW)
        assert got.identity.trust_domain == TRUST_DOMAIN
