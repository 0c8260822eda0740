"""Authorities: root and issuing certificates, and how they are made.

Each generation has a distinct subject (the end of its serial number stands in it), because verifiers look up
issuers and revocation lists by name. Private keys are handed in and never kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from app.ca.authority_lint import authority_key_usage, check_chain, lint_authority
from app.ca.key_policy import key_hash
from app.ca.signing import capture, signing_hash
from app.errors import AppError, ErrorCode
from app.identity.spiffe import SCHEME, TrustDomain

ROOT_LIFETIME = timedelta(days=3650)
ISSUING_LIFETIME = timedelta(days=365)
# Earlier than any workload certificate's own backdate, so that the validity of children nests in their parents'.
AUTHORITY_BACKDATE = timedelta(hours=1)
_ROOT_PATH_LENGTH = 1
_ISSUING_PATH_LENGTH = 0
_MAX_ORGANISATION_CHARS = 64  # ub-organization-name, RFC 5280 appendix A.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A signing authority that may issue, with everything that issuing needs worked out once.

    `intermediates` starts with the authority's own certificate and ends below the root; it is empty when a root
    issues itself. `not_before` and `not_after` are the bounds within which every element of the chain, root
    included, is valid. `own_keys` are hashes of the chain's public keys, which no workload may present as its own.
    """

    id: str
    trust_domain: TrustDomain
    certificate: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]
    intermediate_pems: tuple[str, ...]
    root: x509.Certificate
    public_key: ec.EllipticCurvePublicKey
    name: bytes  # the subject, DER
    key_id: bytes  # the subject key identifier
    not_before: datetime
    not_after: datetime
    own_keys: frozenset[bytes]

    @classmethod
    def of(cls, certificate: x509.Certificate, above: tuple[x509.Certificate, ...], trust_domain: TrustDomain) -> Self:
        """Build it from its certificate and those above it, the root last.

        Raises:
            AppError: `INVALID` when the chain does not hold together or its key cannot sign for us.
        """
        chain = (certificate, *above)
        check_chain(chain)
        public_key = certificate.public_key()
        if not isinstance(public_key, ec.EllipticCurvePublicKey):
            raise AppError(ErrorCode.INVALID, "an issuing authority's key must be on P-256 or P-384")
        signing_hash(public_key.curve)
        return cls(
            id=authority_id(certificate),
            trust_domain=trust_domain,
            certificate=certificate,
            intermediates=chain[:-1],
            intermediate_pems=tuple(element.public_bytes(Encoding.PEM).decode("ascii") for element in chain[:-1]),
            root=chain[-1],
            public_key=public_key,
            name=certificate.subject.public_bytes(),
            key_id=_key_id(certificate),
            not_before=max(element.not_valid_before_utc for element in chain),
            not_after=min(element.not_valid_after_utc for element in chain),
            own_keys=frozenset(key_hash(_spki(element)) for element in chain),
        )


def authority_id(certificate: x509.Certificate) -> str:
    """The name of an authority in tables and logs: its subject key identifier in hexadecimal."""
    return _key_id(certificate).hex()


def create_root(
    trust_domain: TrustDomain,
    key: ec.EllipticCurvePrivateKey,
    *,
    now: datetime,
    serial: int,
    lifetime: timedelta = ROOT_LIFETIME,
) -> x509.Certificate:
    """A self-signed root certificate for `key`.

    Raises:
        AppError: `INVALID` for a key on another curve than P-256 or P-384.
    """
    builder = _builder(
        trust_domain, key.public_key(), role="root", now=now, serial=serial, path_length=_ROOT_PATH_LENGTH
    )
    subject = _subject(trust_domain, "root", serial)
    builder = builder.issuer_name(subject).not_valid_after(_last_second(now, lifetime))
    own_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_id), critical=False
    )
    return _sign(builder, key, trust_domain, path_length=_ROOT_PATH_LENGTH)


def create_issuing(
    public_key: ec.EllipticCurvePublicKey,
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
    *,
    trust_domain: TrustDomain,
    now: datetime,
    serial: int,
    lifetime: timedelta = ISSUING_LIFETIME,
) -> x509.Certificate:
    """An issuing certificate (path length 0) under `root`, which it never outlives.

    Raises:
        AppError: `INVALID` when the root has expired, or a key is on another curve than P-256 or P-384.
    """
    if root.not_valid_after_utc <= now:
        raise AppError(ErrorCode.INVALID, "the root has expired")
    signing_hash(public_key.curve)
    builder = _builder(
        trust_domain, public_key, role="issuing", now=now, serial=serial, path_length=_ISSUING_PATH_LENGTH
    )
    builder = builder.issuer_name(root.subject).not_valid_after(
        min(_last_second(now, lifetime), root.not_valid_after_utc)
    )
    root_id = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(root_id), critical=False
    )
    certificate = _sign(builder, root_key, trust_domain, path_length=_ISSUING_PATH_LENGTH)
    check_chain((certificate, root))
    return certificate


def _builder(
    trust_domain: TrustDomain,
    public_key: ec.EllipticCurvePublicKey,
    *,
    role: str,
    now: datetime,
    serial: int,
    path_length: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_subject(trust_domain, role, serial))
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(now.replace(microsecond=0) - AUTHORITY_BACKDATE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(authority_key_usage(), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"{SCHEME}{trust_domain}")]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _subject(trust_domain: TrustDomain, role: str, serial: int) -> x509.Name:
    return x509.Name(
        [
            # A label for people: who an authority is for stands in its SPIFFE ID.
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain.name[:_MAX_ORGANISATION_CHARS]),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Gatehouse {role} {serial & (2**64 - 1):016x}"),
        ]
    )


def _last_second(now: datetime, lifetime: timedelta) -> datetime:
    return now.replace(microsecond=0) + lifetime - timedelta(seconds=1)


def _sign(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, trust_domain: TrustDomain, *, path_length: int
) -> x509.Certificate:
    """Lint first, sign then, and compare: no key of an authority ever signs what was not linted."""
    linted, stand_in = capture(builder, key.curve)
    findings = lint_authority(stand_in, trust_domain, path_length=path_length)
    if findings:
        raise AppError(
            ErrorCode.INTERNAL, "the authority's certificate failed its own lint", diagnosis="; ".join(findings)
        )
    certificate = builder.sign(key, signing_hash(key.curve))
    if certificate.tbs_certificate_bytes != linted:
        raise AppError(ErrorCode.INTERNAL, "the authority's certificate is not what was linted")
    return certificate


def _key_id(certificate: x509.Certificate) -> bytes:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
