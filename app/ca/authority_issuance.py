"""Certificates and requests of authorities of our own: built and linted here, signed wherever the key is.

Like a workload certificate each is *prepared* (built, linted under a stand-in signature) and later *assembled* with
the signature that the keeper of the key made, so that no key of an authority signs what was not linted, and no key is
ever here.

Each generation has a distinct subject (the end of its serial number stands in it), because verifiers look up issuers
and revocation lists by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from app.ca.authority_lint import authority_key_id, authority_key_usage, check_parent, lint_authority
from app.ca.signing import AuthorityPublicKey, SignatureScheme, authority_public_key, capture, is_signed_by, replay
from app.errors import AppError, ErrorCode
from app.identity.spiffe import SCHEME, TrustDomain

ROOT_LIFETIME = timedelta(days=3650)
ISSUING_LIFETIME = timedelta(days=365)
# Earlier than any workload certificate's own backdate, so that the validity of children nests in their parents'.
AUTHORITY_BACKDATE = timedelta(hours=1)
ROOT_PATH_LENGTH = 1
ISSUING_PATH_LENGTH = 0
_MAX_ORGANISATION_CHARS = 64  # ub-organization-name, RFC 5280 appendix A.1


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedAuthority:
    """A linted to-be-signed certificate of an authority; only the functions here make one.

    `signer` is the public key that must sign `tbs`: the authority's own for a root, its parent's otherwise.
    """

    tbs: bytes
    builder: x509.CertificateBuilder
    signer: AuthorityPublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRequest:
    """A certificate request for an authority's key; `info` is what that key must sign."""

    info: bytes
    builder: x509.CertificateSigningRequestBuilder
    public_key: AuthorityPublicKey


def prepare_root(
    trust_domain: TrustDomain,
    public_key: AuthorityPublicKey,
    *,
    now: datetime,
    serial: int,
    lifetime: timedelta = ROOT_LIFETIME,
) -> PreparedAuthority:
    """A root certificate that `public_key` will sign for itself.

    Raises:
        AppError: `INVALID` for a key that no authority may have.
    """
    own_id = x509.SubjectKeyIdentifier.from_public_key(public_key)
    builder = (
        _builder(trust_domain, public_key, role="root", now=now, serial=serial, path_length=ROOT_PATH_LENGTH)
        .issuer_name(_subject(trust_domain, "root", serial))
        .not_valid_after(_last_second(now, lifetime))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_id), critical=False)
    )
    return _prepare(builder, public_key, trust_domain, path_length=ROOT_PATH_LENGTH)


def prepare_issuing(
    public_key: AuthorityPublicKey,
    parent: x509.Certificate,
    *,
    trust_domain: TrustDomain,
    now: datetime,
    serial: int,
    lifetime: timedelta = ISSUING_LIFETIME,
) -> PreparedAuthority:
    """An issuing certificate (path length 0) under `parent`, which it never outlives.

    Raises:
        AppError: `INVALID` when the parent has expired or may sign no authority, or for a key that no authority may
            have.
    """
    if parent.not_valid_after_utc <= now:
        raise AppError(ErrorCode.INVALID, "the root has expired")
    check_parent(parent, trust_domain)
    parent_key = authority_public_key(parent.public_key())
    builder = (
        _builder(trust_domain, public_key, role="issuing", now=now, serial=serial, path_length=ISSUING_PATH_LENGTH)
        .issuer_name(parent.subject)
        .not_valid_after(min(_last_second(now, lifetime), parent.not_valid_after_utc))
        .add_extension(
            x509.AuthorityKeyIdentifier(
                authority_key_id(parent), authority_cert_issuer=None, authority_cert_serial_number=None
            ),
            critical=False,
        )
    )
    return _prepare(builder, parent_key, trust_domain, path_length=ISSUING_PATH_LENGTH)


def assemble_authority(prepared: PreparedAuthority, signature: bytes) -> x509.Certificate:
    """The certificate, once it is signed, and checked.

    Raises:
        AppError: `INTERNAL` when the signature is not the expected key's or the bytes are not the linted ones.
    """
    certificate = replay(prepared.builder, prepared.signer, signature)
    read_back = x509.load_der_x509_certificate(certificate.public_bytes(Encoding.DER))
    if read_back.tbs_certificate_bytes != prepared.tbs:
        raise AppError(ErrorCode.INTERNAL, "the authority's certificate is not what was linted")
    if not is_signed_by(prepared.signer, signature, prepared.tbs):
        raise AppError(ErrorCode.INTERNAL, "the authority's certificate was signed by another key than its parent's")
    return read_back


def prepare_request(trust_domain: TrustDomain, public_key: AuthorityPublicKey, *, serial: int) -> PreparedRequest:
    """A request for an issuing certificate, to be signed by a parent that is somewhere else.

    It asks for what we would make ourselves; what the parent makes of it is the parent's choice. `serial` only makes
    the subject distinct.

    Raises:
        AppError: `INVALID` for a key that no authority may have.
    """
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_subject(trust_domain, "issuing", serial))
        .add_extension(x509.BasicConstraints(ca=True, path_length=ISSUING_PATH_LENGTH), critical=True)
        .add_extension(authority_key_usage(), critical=True)
        .add_extension(_spiffe_name(trust_domain), critical=False)
    )
    info, _ = capture(builder, public_key)
    return PreparedRequest(info=info, builder=builder, public_key=public_key)


def assemble_request(prepared: PreparedRequest, signature: bytes) -> x509.CertificateSigningRequest:
    """The request, once its own key signed it.

    Raises:
        AppError: `INTERNAL` when the signature is not that key's.
    """
    request = replay(prepared.builder, prepared.public_key, signature)
    if request.tbs_certrequest_bytes != prepared.info or not request.is_signature_valid:
        raise AppError(ErrorCode.INTERNAL, "the certificate request was signed by another key than its own")
    return request


def _builder(
    trust_domain: TrustDomain,
    public_key: AuthorityPublicKey,
    *,
    role: str,
    now: datetime,
    serial: int,
    path_length: int,
) -> x509.CertificateBuilder:
    SignatureScheme.of(public_key)  # a key that may not sign makes no authority
    return (
        x509.CertificateBuilder()
        .subject_name(_subject(trust_domain, role, serial))
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(now.replace(microsecond=0) - AUTHORITY_BACKDATE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(authority_key_usage(), critical=True)
        .add_extension(_spiffe_name(trust_domain), critical=False)
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


def _spiffe_name(trust_domain: TrustDomain) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"{SCHEME}{trust_domain}")])


def _last_second(now: datetime, lifetime: timedelta) -> datetime:
    return now.replace(microsecond=0) + lifetime - timedelta(seconds=1)


def _prepare(
    builder: x509.CertificateBuilder,
    signer: AuthorityPublicKey,
    trust_domain: TrustDomain,
    *,
    path_length: int,
) -> PreparedAuthority:
    """Lint before anybody signs."""
    tbs, stand_in = capture(builder, signer)
    findings = lint_authority(stand_in, trust_domain, path_length=path_length)
    if findings:
        raise AppError(
            ErrorCode.INTERNAL, "the authority's certificate failed its own lint", diagnosis="; ".join(findings)
        )
    return PreparedAuthority(tbs=tbs, builder=builder, signer=signer)
