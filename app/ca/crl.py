"""Revocation lists (RFC 5280 §5): build, lint, sign, check, like certificates.

A list is complete (no delta, no partition), of version 2, and has exactly a number and the issuer's key identifier;
each entry has exactly a reason. Verifiers look a list up by the issuer's name, so each authority has its own.
What is in quarantine is on *hold*: the one reason from which a certificate may come back (§5.3.1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import CRLEntryExtensionOID, ExtensionOID

from app.ca import der
from app.ca.authority_lint import authority_key_id
from app.ca.lint import is_algorithm, is_time
from app.ca.signing import SignatureScheme, authority_public_key, capture, is_signed_by, replay
from app.errors import AppError, ErrorCode

_V2 = 1
MAX_NUMBER_OCTETS = 20  # §5.2.3


class RevocationReason(StrEnum):
    """Why a certificate is on a list."""

    ON_HOLD = "certificateHold"  # in quarantine, which may be lifted
    AUTHORITY_COMPROMISED = "cACompromise"  # the certificate of a tainted authority


_FLAGS = {
    RevocationReason.ON_HOLD: x509.ReasonFlags.certificate_hold,
    RevocationReason.AUTHORITY_COMPROMISED: x509.ReasonFlags.ca_compromise,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """One certificate that is not to be accepted any more, since `at`."""

    serial: int
    at: datetime
    reason: RevocationReason


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedCrl:
    """Linted to-be-signed bytes; only `prepare_crl` makes one."""

    tbs: bytes
    number: int
    this_update: datetime
    next_update: datetime
    entries: str
    issuer: x509.Certificate
    builder: x509.CertificateRevocationListBuilder


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCrl:
    """A signed and checked list."""

    der: bytes
    number: int
    this_update: datetime
    next_update: datetime
    entries: str


def may_sign_crls(issuer: x509.Certificate) -> bool:
    """Whether verifiers heed a list by this authority: its key usage has cRLSign, or it has none (RFC 5280 §6.3.3)."""
    try:
        return issuer.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True


def entries_fingerprint(revocations: Sequence[Revocation]) -> str:
    """A hash over what a list revokes and why, to see whether a new list would say anything new."""
    lines = sorted(f"{revocation.serial:x} {revocation.reason}" for revocation in revocations)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def revocation_times(crl: bytes) -> Mapping[int, datetime]:
    """Since when the certificates on a list of ours are revoked, by serial number.

    Raises:
        AppError: `INTERNAL` when it is not a list in DER.
    """
    try:
        return {entry.serial_number: entry.revocation_date_utc for entry in x509.load_der_x509_crl(crl)}
    except ValueError:
        raise AppError(ErrorCode.INTERNAL, "the stored revocation list is damaged") from None


def prepare_crl(
    issuer: x509.Certificate, revocations: Sequence[Revocation], *, number: int, now: datetime, lifetime: timedelta
) -> PreparedCrl:
    """Build the to-be-signed list and lint it.

    Raises:
        AppError: `FAILED_PRECONDITION` when nobody would heed a list of this issuer; `INTERNAL`, with the findings as
            diagnosis, when the lint finds anything.
    """
    if not may_sign_crls(issuer):
        raise AppError(
            ErrorCode.FAILED_PRECONDITION,
            "the authority's certificate has no cRLSign, so verifiers heed no revocation list of it",
        )
    this_update = now.astimezone(UTC).replace(microsecond=0)
    next_update = this_update + lifetime
    ordered = sorted(revocations, key=lambda revocation: revocation.serial)
    key_id = authority_key_id(issuer)
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=issuer.subject,
        last_update=this_update,
        next_update=next_update,
        extensions=[
            x509.Extension(
                ExtensionOID.AUTHORITY_KEY_IDENTIFIER, False, x509.AuthorityKeyIdentifier(key_id, None, None)
            ),
            x509.Extension(ExtensionOID.CRL_NUMBER, False, x509.CRLNumber(number)),
        ],
        # At once, because adding them one by one copies the list each time.
        revoked_certificates=[_entry(revocation) for revocation in ordered],
    )
    tbs, stand_in = capture(builder, authority_public_key(issuer.public_key()))
    findings = lint_crl(
        stand_in.public_bytes(Encoding.DER), issuer, ordered, number=number, times=(this_update, next_update)
    )
    if findings:
        raise AppError(ErrorCode.INTERNAL, "the revocation list failed its own lint", diagnosis="; ".join(findings))
    return PreparedCrl(
        tbs=tbs,
        number=number,
        this_update=this_update,
        next_update=next_update,
        entries=entries_fingerprint(ordered),
        issuer=issuer,
        builder=builder,
    )


def assemble_crl(prepared: PreparedCrl, signature: bytes) -> SignedCrl:
    """Put signature and bytes together and check the result.

    Raises:
        AppError: `INTERNAL` when the bytes differ from what was linted or the signature is not the issuer's.
    """
    public_key = authority_public_key(prepared.issuer.public_key())
    try:
        encoded = replay(prepared.builder, public_key, signature).public_bytes(Encoding.DER)
        # Read back what leaves the process, not what the builder believes to have written.
        read_back = x509.load_der_x509_crl(encoded)
        is_good = is_signed_by(public_key, read_back.signature, read_back.tbs_certlist_bytes)
    except ValueError:
        is_good = False
    if not is_good or read_back.tbs_certlist_bytes != prepared.tbs:
        raise AppError(
            ErrorCode.INTERNAL,
            "the revocation list could not be signed",
            diagnosis="the signature is not the issuer's, or the signed bytes were not linted",
        )
    return SignedCrl(
        der=encoded,
        number=prepared.number,
        this_update=prepared.this_update,
        next_update=prepared.next_update,
        entries=prepared.entries,
    )


def crl_pem(crl: bytes) -> str:
    """A list in PEM, ending in a newline."""
    return x509.load_der_x509_crl(crl).public_bytes(Encoding.PEM).decode("ascii")


def lint_crl(
    crl: bytes,
    issuer: x509.Certificate,
    revocations: Sequence[Revocation],
    *,
    number: int,
    times: tuple[datetime, datetime],
) -> list[str]:
    """Every way in which the list is not the expected one; empty is good. Never raises.

    Like the lint of certificates no list of mistakes but its opposite: each part must be exactly what was meant.
    """
    try:
        decoded = asn1.decode_der(der.CertificateList, crl)
        if asn1.encode_der(decoded) != crl:
            return ["not canonical DER"]
    except ValueError as error:
        return [f"not a revocation list in DER: {error}"]
    tbs, scheme = decoded.tbs_cert_list, SignatureScheme.of(issuer.public_key())
    entries = tbs.revoked_certificates or []
    wanted = {
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER: (
            False,
            asn1.encode_der(der.AuthorityKeyIdentifier(key_identifier=authority_key_id(issuer))),
        ),
        ExtensionOID.CRL_NUMBER: (False, asn1.encode_der(number)),
    }
    checks = {
        "version is not v2": tbs.version == _V2,
        "inner signature algorithm": is_algorithm(tbs.signature, scheme),
        "outer signature algorithm": is_algorithm(decoded.signature_algorithm, scheme),
        "signature has padding bits": decoded.signature.padding_bits() == 0,
        "issuer differs from the authority's subject": asn1.encode_der(tbs.issuer) == issuer.subject.public_bytes(),
        "this update is not the expected one": is_time(tbs.this_update, times[0]),
        "next update is not the expected one": is_time(tbs.next_update, times[1]),
        "next update is not after this update": times[0] < times[1],
        "number is not positive and of at most 20 octets": 0 < number.bit_length() < 8 * MAX_NUMBER_OCTETS,
        "an empty list of entries is encoded": tbs.revoked_certificates != [],
        "extensions are not exactly number and key identifier": _as_map(tbs.extensions or []) == wanted,
        "entries are not the expected ones, each once and in order": len(entries) == len(revocations)
        and len({revocation.serial for revocation in revocations}) == len(revocations)
        and all(_is_entry(entry, revocation) for entry, revocation in zip(entries, revocations, strict=True)),
    }
    return [finding for finding, holds in checks.items() if not holds]


def _entry(revocation: Revocation) -> x509.RevokedCertificate:
    return (
        x509.RevokedCertificateBuilder()
        .serial_number(revocation.serial)
        .revocation_date(revocation.at.astimezone(UTC).replace(microsecond=0))
        .add_extension(x509.CRLReason(_FLAGS[revocation.reason]), critical=False)
        .build()
    )


def _is_entry(found: der.RevokedCertificate, wanted: Revocation) -> bool:
    reason = (False, x509.CRLReason(_FLAGS[wanted.reason]).public_bytes())
    return (
        found.serial_number == wanted.serial
        and is_time(found.revocation_date, wanted.at.astimezone(UTC).replace(microsecond=0))
        and _as_map(found.extensions or []) == {CRLEntryExtensionOID.CRL_REASON: reason}
    )


def _as_map(extensions: Sequence[der.Extension]) -> dict[x509.ObjectIdentifier, tuple[bool, bytes]] | None:
    """Extensions by object identifier, None when one is repeated."""
    found = {extension.oid: (extension.critical, extension.value) for extension in extensions}
    return found if len(found) == len(extensions) else None
