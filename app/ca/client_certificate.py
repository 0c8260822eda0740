"""What a client certificate says, read from its own bytes, before anything is believed of it.

TLS has verified the chain and that the caller has the key. That is not enough to renew: the certificate must be one
of *ours* for a *workload*. gRPC reduces a certificate to a few properties and reads names as C strings, so everything
is taken from the DER here: exactly one URI name and it is a workload of our trust domain (X509-SVID §2, §3), no
authority (§4.1), made for TLS clients (§4.4), valid by our own clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from app.ca.key_policy import key_hash
from app.ca.pem import decode_one_block
from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain, WorkloadIdentity
from app.identity.token_claims import OPAQUE_REFUSAL

_LABELS = ("CERTIFICATE",)
E = TypeVar("E", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificate:
    """A workload certificate that looks like one of ours. `serial` is lower-case hexadecimal, as on record."""

    identity: WorkloadIdentity
    serial: str
    key_hash: str  # SHA-256 of the SubjectPublicKeyInfo, hexadecimal, as on record
    not_before: datetime
    not_after: datetime


def _refuse(reason: str) -> AppError:
    return AppError(ErrorCode.UNAUTHENTICATED, OPAQUE_REFUSAL, diagnosis=reason)


def read_client_certificate(pem: str, *, trust_domain: TrustDomain, now: datetime) -> ClientCertificate:
    """Read the leaf that a TLS client has shown.

    Raises:
        AppError: `UNAUTHENTICATED`, always with the same text; the diagnosis begins with the reason.
    """
    try:
        certificate = x509.load_der_x509_certificate(decode_one_block(pem, _LABELS, what="the certificate"))
        extensions = certificate.extensions
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        serial = certificate.serial_number
    except (
        AppError,
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise _refuse(f"malformed: the client certificate cannot be read ({type(error).__name__})") from None
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise _refuse("not_valid_now: the client certificate has expired or is not valid yet")
    _check_purpose(extensions)
    return ClientCertificate(
        identity=_identity(extensions, trust_domain),
        serial=f"{serial:x}",
        key_hash=key_hash(key).hex(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def _check_purpose(extensions: x509.Extensions) -> None:
    constraints = _find(extensions, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise _refuse("purpose: the client certificate is a certificate authority's")
    usage = _find(extensions, x509.KeyUsage)
    if usage is None or not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        raise _refuse("purpose: the client certificate's key usage is not a workload's")
    purposes = _find(extensions, x509.ExtendedKeyUsage)
    if purposes is None or ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise _refuse("purpose: the client certificate is not for TLS clients")


def _identity(extensions: x509.Extensions, trust_domain: TrustDomain) -> WorkloadIdentity:
    names = _find(extensions, x509.SubjectAlternativeName)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []
    if len(uris) != 1:
        raise _refuse(f"malformed: the client certificate has {len(uris)} URI names; a workload's has one")
    try:
        identity = WorkloadIdentity.parse(uris[0])
    except AppError as error:
        raise _refuse(f"malformed: the client certificate's name is {error.detail}") from None
    if identity.trust_domain != trust_domain:
        raise _refuse(f"trust_domain: the client certificate is of {identity.trust_domain}, not of {trust_domain}")
    return identity


def _find(extensions: x509.Extensions, kind: type[E]) -> E | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
