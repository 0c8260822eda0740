"""Revocation lists: what they say, read by others than who wrote them."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from app.ca.crl import (
    Revocation,
    RevocationReason,
    SignedCrl,
    assemble_crl,
    crl_pem,
    entries_fingerprint,
    lint_crl,
    may_sign_crls,
    prepare_crl,
    revocation_times,
)
from app.ca.signing import AuthorityPrivateKey, sign_bytes
from app.errors import AppError, ErrorCode
from tests.support.certificates import NOW, make_csr, make_pki
from tests.support.openssl import needs_openssl, openssl, verify
from tests.support.pkix_lint import pkix_crl_findings

HOLD = RevocationReason.ON_HOLD
DAY = dt.timedelta(days=1)
PKI = make_pki()


def issuer_of(key: AuthorityPrivateKey, *, crl_sign: bool | None = True) -> x509.Certificate:
    """A self-signed authority as somebody else may have made it."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Corporate root")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + 365 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if crl_sign is not None:
        usage = x509.KeyUsage(False, False, False, False, False, True, crl_sign, False, False)
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(key, hashes.SHA256())


def hold(*serials: int, at: dt.datetime = NOW) -> list[Revocation]:
    return [Revocation(serial=serial, at=at, reason=HOLD) for serial in serials]


def make_crl(
    key: AuthorityPrivateKey, issuer: x509.Certificate, *revocations: Revocation, number: int = 1
) -> SignedCrl:
    prepared = prepare_crl(issuer, revocations, number=number, now=NOW, lifetime=DAY)
    return assemble_crl(prepared, sign_bytes(key, prepared.tbs))


KEYS: dict[str, AuthorityPrivateKey] = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "RSA": rsa.generate_private_key(65_537, 2_048),
}


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("serials", [(), (0x47_00, 3, 2**135)])
def test_a_list_is_what_rfc_5280_says_and_what_was_asked_for(kind: str, serials: tuple[int, ...]) -> None:
    """Number, key identifier, reasons and times, for each kind of issuer; an independent linter finds nothing."""
    key = KEYS[kind]
    issuer = issuer_of(key)
    signed = make_crl(key, issuer, *hold(*serials, at=NOW - DAY), number=4711)
    read = x509.load_der_x509_crl(signed.der)

    assert read.is_signature_valid(key.public_key())
    assert [] == pkix_crl_findings(read)
    assert issuer.subject == read.issuer
    assert (NOW, NOW + DAY) == (read.last_update_utc, read.next_update_utc)
    assert 4711 == read.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    key_id = read.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest == key_id
    assert sorted(serials) == [entry.serial_number for entry in read]
    assert {x509.ReasonFlags.certificate_hold} >= {
        entry.extensions.get_extension_for_class(x509.CRLReason).value.reason for entry in read
    }
    assert dict.fromkeys(serials, NOW - DAY) == revocation_times(signed.der)


def test_the_same_entries_have_the_same_fingerprint_whatever_their_order_and_times() -> None:
    """So that a list is made anew only when it says something new."""
    assert entries_fingerprint(hold(1, 2)) == entries_fingerprint(hold(2, 1, at=NOW - DAY))
    tainted = Revocation(serial=2, at=NOW, reason=RevocationReason.AUTHORITY_COMPROMISED)
    assert entries_fingerprint(hold(1, 2)) != entries_fingerprint([*hold(1), tainted])


def test_a_certificate_without_crl_sign_signs_no_list() -> None:
    """Nobody would heed it; without a key usage everything is allowed."""
    key = KEYS["P-256"]
    assert [True, False, True] == [may_sign_crls(issuer_of(key, crl_sign=said)) for said in (True, False, None)]
    with pytest.raises(AppError) as failure:
        make_crl(key, issuer_of(key, crl_sign=False))
    assert ErrorCode.FAILED_PRECONDITION is failure.value.code


def test_a_serial_twice_is_found_before_anybody_signs() -> None:
    """Two entries for one certificate may contradict each other."""
    with pytest.raises(AppError) as failure:
        prepare_crl(PKI.root, hold(1, 1), number=1, now=NOW, lifetime=DAY)
    assert "each once and in order" in failure.value.diagnosis


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"number": 2}, "extensions are not exactly number and key identifier"),
        ({"times": (NOW, NOW + 2 * DAY)}, "next update is not the expected one"),
        ({"times": (NOW - DAY, NOW + DAY)}, "this update is not the expected one"),
        ({"revocations": hold(5)}, "entries are not the expected ones, each once and in order"),
        ({"revocations": hold(5, 7)}, "entries are not the expected ones, each once and in order"),
        ({"issuer": PKI.authority.certificate}, "issuer differs from the authority's subject"),
    ],
)
def test_the_lint_finds_what_was_not_meant(change: dict[str, Any], finding: str) -> None:
    """Each deviation is named."""
    signed = make_crl(PKI.root_key, PKI.root, *hold(5, 6))
    expected: dict[str, Any] = {
        "issuer": PKI.root,
        "revocations": hold(5, 6),
        "number": 1,
        "times": (NOW, NOW + DAY),
    }
    assert [] == lint_crl(signed.der, **expected)
    assert finding in lint_crl(signed.der, **{**expected, **change})
    assert ["not canonical DER"] != lint_crl(signed.der + b"\0", **expected) != []


def test_a_signature_of_another_key_is_no_list() -> None:
    """What comes back from the signer is checked."""
    prepared = prepare_crl(PKI.root, hold(5), number=1, now=NOW, lifetime=DAY)
    with pytest.raises(AppError):
        assemble_crl(prepared, sign_bytes(PKI.issuing_key, prepared.tbs))
    with pytest.raises(AppError):
        assemble_crl(replace(prepared, tbs=prepared.tbs + b"\0"), sign_bytes(PKI.root_key, prepared.tbs))


def test_a_damaged_stored_list_is_no_reason_to_crash() -> None:
    """It is an error with a name."""
    with pytest.raises(AppError):
        revocation_times(b"\x30\x00")


@needs_openssl
def test_openssl_reads_a_list_and_its_signature(tmp_path: Path) -> None:
    """An independent reader sees number, reason and serial, and verifies the signature."""
    (tmp_path / "crl.pem").write_text(crl_pem(make_crl(PKI.root_key, PKI.root, *hold(0xABCDEF), number=9).der))
    (tmp_path / "root.pem").write_text(PKI.root.public_bytes(Encoding.PEM).decode())
    said = openssl(
        "crl", "-in", tmp_path / "crl.pem", "-CAfile", tmp_path / "root.pem", "-noout", "-text", "-crlnumber"
    )

    assert "verify OK" in said
    assert "crlNumber=0x09" in said
    assert "Serial Number: ABCDEF" in said
    assert "Certificate Hold" in said


@needs_openssl
def test_openssl_refuses_exactly_what_the_lists_revoke_in_the_whole_chain(tmp_path: Path) -> None:
    """All lists in one file, as ztunnel reads them."""
    good, held = PKI.issue(make_csr()), PKI.issue(make_csr(), number=8)
    root_list = crl_pem(make_crl(PKI.root_key, PKI.root).der)
    lists = root_list + crl_pem(make_crl(PKI.issuing_key, PKI.authority.certificate, *hold(held.serial)).der)
    tainted = Revocation(
        serial=PKI.authority.certificate.serial_number, at=NOW, reason=RevocationReason.AUTHORITY_COMPROMISED
    )
    cut = crl_pem(make_crl(PKI.root_key, PKI.root, tainted).der) + lists.removeprefix(root_list)

    def verdict(leaf: str, crls: str) -> str:
        return verify(
            tmp_path,
            roots=PKI.bundle.pem,
            intermediates="".join(PKI.authority.intermediate_pems),
            crls=crls,
            leaf=leaf,
            at=int(NOW.timestamp()) + 60,
        )

    assert "leaf.pem: OK" in verdict(good.pem, lists)
    assert "certificate revoked" in verdict(held.pem, lists)
    assert "certificate revoked" in verdict(good.pem, cut)
    assert "unable to get certificate CRL" in verdict(good.pem, root_list)
