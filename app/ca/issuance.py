"""Prepare, lint, sign, check: the only way to a workload certificate.

`prepare` builds the bytes and lints them before any key has seen them; its result is what the caller records
durably and then lets the signer sign; `assemble` puts bytes and signature together and compares the result with what
was linted. Whose signature it is (a wrong key or slot must not be found by a peer) says the validation of its path,
`app.ca.response.PathChecker`, without which no certificate leaves: verifying costs more than anything else here, so
it is done once.

Nothing of the CSR but its public key gets into a certificate.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from app.ca import der
from app.ca.authority import Authority
from app.ca.csr import Csr, check_key_not_blocked
from app.ca.lint import Expected, key_identifier, lint_workload
from app.ca.profile import TtlGrant, WorkloadProfile
from app.ca.serving_names import NO_SERVING_NAMES, ServingNames
from app.ca.signing import capture
from app.errors import AppError, ErrorCode
from app.identity.spiffe import SpiffeId

RANDOM_SERIAL_BYTES = 16
_SERIAL_PREFIX = b"\x47"  # keeps the number positive and of one length: 17 octets, 128 random bits

_KEY_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
_EXTENDED_KEY_USAGE = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
_NOT_AN_AUTHORITY = x509.BasicConstraints(ca=False, path_length=None)
# What is the same in every workload certificate, whoever issues it.
_PROFILE = (
    x509.CertificateBuilder()
    .subject_name(x509.Name([]))
    .add_extension(_KEY_USAGE, critical=True)
    .add_extension(_EXTENDED_KEY_USAGE, critical=False)
    .add_extension(_NOT_AN_AUTHORITY, critical=True)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSvid:
    """Linted to-be-signed bytes; only `prepare` makes one.

    Record it (the intent) durably before anybody signs its `tbs`, and sign it once: a retry prepares anew, with a
    new serial.
    """

    identity: SpiffeId
    tbs: bytes
    serial: int
    not_before: datetime
    not_after: datetime
    authority: Authority

    @property
    def serial_hex(self) -> str:
        """The serial number in lower-case hexadecimal."""
        return f"{self.serial:x}"

    @property
    def tbs_sha256(self) -> str:
        """The hash of the to-be-signed bytes, for the ledger's intent."""
        return hashlib.sha256(self.tbs).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedSvid:
    """A signed and checked workload certificate."""

    identity: SpiffeId
    certificate: x509.Certificate
    der: bytes
    pem: str
    serial: int
    not_before: datetime
    not_after: datetime

    @property
    def serial_hex(self) -> str:
        """The serial number in lower-case hexadecimal."""
        return f"{self.serial:x}"

    @property
    def sha256(self) -> str:
        """The certificate's fingerprint, for the ledger."""
        return hashlib.sha256(self.der).hexdigest()


def serial_number(random: bytes) -> int:
    """A serial number from 16 random bytes: positive, 17 octets, 128 unpredictable bits (RFC 5280 §4.1.2.2).

    Raises:
        ValueError: for any other number of bytes.
    """
    if len(random) != RANDOM_SERIAL_BYTES:
        raise ValueError(f"{RANDOM_SERIAL_BYTES} random bytes are wanted")
    return int.from_bytes(_SERIAL_PREFIX + random)


def prepare(
    identity: SpiffeId,
    csr: Csr,
    grant: TtlGrant,
    *,
    authority: Authority,
    profile: WorkloadProfile,
    now: datetime,
    serial: int,
    serving_names: ServingNames = NO_SERVING_NAMES,
) -> PreparedSvid:
    """Build the to-be-signed certificate and lint it.

    `serving_names` are for certificates of our own listeners and never come from a caller.

    Raises:
        AppError: `INVALID` when the key must not be certified; `FAILED_PRECONDITION` when the authority is not valid
            yet; `INTERNAL`, with the findings as diagnosis, when the
            lint finds anything or the identity is of another trust domain than the authority.
    """
    check_key_not_blocked(csr, authority.own_keys)
    not_before, not_after = _validity(grant, authority, profile, now)
    names = [x509.UniformResourceIdentifier(str(identity)), *serving_names.general_names()]
    builder = _builder(names, csr, authority, serial).not_valid_before(not_before).not_valid_after(not_after)
    _, stand_in = capture(builder, authority.public_key)
    expected = Expected(
        identity=identity,
        public_key_der=csr.public_key_der,
        issuer_name=authority.name,
        issuer_key_id=authority.key_id,
        issuer_scheme=authority.scheme,
        serial=serial,
        not_before=not_before,
        not_after=not_after,
        serving_names=serving_names,
    )
    findings = lint_workload(stand_in.public_bytes(Encoding.DER), expected)
    if identity.trust_domain != authority.trust_domain:
        findings.append("the identity is of another trust domain than the authority")
    if findings:
        raise AppError(ErrorCode.INTERNAL, "the certificate failed its own lint", diagnosis="; ".join(findings))
    return PreparedSvid(
        identity=identity,
        tbs=stand_in.tbs_certificate_bytes,
        serial=serial,
        not_before=not_before,
        not_after=not_after,
        authority=authority,
    )


def assemble(prepared: PreparedSvid, signature: bytes) -> IssuedSvid:
    """Put signature and bytes together; whether the signature is the authority's is for `PathChecker` to say.

    Raises:
        AppError: `INTERNAL` when the result is no certificate or says anything else than what was linted.
    """
    scheme = prepared.authority.scheme
    encoded = der.encode_certificate(prepared.tbs, scheme.oid, signature, null_parameters=scheme.has_null_parameters)
    # Read back what leaves the process, not what the encoder believes to have written.
    read_back = x509.load_der_x509_certificate(encoded)
    if read_back.tbs_certificate_bytes != prepared.tbs or read_back.signature_algorithm_oid != scheme.oid:
        raise AppError(
            ErrorCode.INTERNAL, "the certificate could not be signed", diagnosis="the signed bytes were not linted"
        )
    return IssuedSvid(
        identity=prepared.identity,
        certificate=read_back,
        der=encoded,
        pem=read_back.public_bytes(Encoding.PEM).decode("ascii"),
        serial=prepared.serial,
        not_before=prepared.not_before,
        not_after=prepared.not_after,
    )


def _validity(
    grant: TtlGrant, authority: Authority, profile: WorkloadProfile, now: datetime
) -> tuple[datetime, datetime]:
    """The first and the last second, both within the validity of every element of the chain."""
    now = now.astimezone(UTC).replace(microsecond=0)
    if now < authority.not_before:
        raise AppError(
            ErrorCode.FAILED_PRECONDITION,
            "the issuing authority is not valid yet",
            diagnosis=f"clock: the clock says {now:%Y-%m-%dT%H:%M:%SZ}, and the issuing chain begins at "
            f"{authority.not_before:%Y-%m-%dT%H:%M:%SZ}",
        )
    not_before = max(now - timedelta(seconds=profile.backdate_seconds), authority.not_before)
    not_after = min(now + timedelta(seconds=grant.seconds - 1), authority.not_after - timedelta(seconds=1))
    return not_before, not_after


def _builder(names: list[x509.GeneralName], csr: Csr, authority: Authority, serial: int) -> x509.CertificateBuilder:
    return (
        _PROFILE.issuer_name(authority.certificate.subject)
        .public_key(csr.public_key)
        .serial_number(serial)
        .add_extension(x509.SubjectKeyIdentifier(key_identifier(csr.public_key_der)), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier(
                authority.key_id, authority_cert_issuer=None, authority_cert_serial_number=None
            ),
            critical=False,
        )
        # Critical, because the subject is empty (RFC 5280 §4.1.2.6).
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
    )
