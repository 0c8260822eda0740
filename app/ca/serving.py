"""Certificates for our own listeners: names of hosts instead of a SPIFFE ID, for servers only, short-lived.

Made as workload certificates are: built, looked at, signed elsewhere, put together and compared. ztunnel (webpki)
wants a subject alternative name that is the host it dialled, DNS or IP, and serverAuth if there is any extended key
usage; it ignores the subject.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from app.ca.authority import Authority
from app.ca.signing import capture, replay, signing_hash
from app.errors import AppError, ErrorCode

BACKDATE = timedelta(minutes=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedServing:
    """The to-be-signed bytes of a listener's certificate."""

    tbs: bytes
    serial: int
    not_before: datetime
    not_after: datetime
    authority: Authority
    builder: x509.CertificateBuilder


def prepare_serving(
    names: tuple[str, ...],
    public_key: ec.EllipticCurvePublicKey,
    *,
    authority: Authority,
    now: datetime,
    lifetime: timedelta,
    serial: int,
) -> PreparedServing:
    """Build the to-be-signed certificate of a listener that is reached under `names` (DNS names and IP addresses).

    Raises:
        AppError: `INVALID` without a name or with one that is neither.
    """
    if not names:
        raise AppError(ErrorCode.INVALID, "a listener's certificate needs a name")
    now = now.astimezone(UTC).replace(microsecond=0)
    not_before = max(now - BACKDATE, authority.not_before)
    not_after = min(now + lifetime, authority.not_after - timedelta(seconds=1))
    usage = x509.KeyUsage(
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
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.certificate.subject)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(authority.key_id, None, None), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=True)
    )
    tbs, _ = capture(builder, authority.public_key.curve)
    return PreparedServing(
        tbs=tbs, serial=serial, not_before=not_before, not_after=not_after, authority=authority, builder=builder
    )


def assemble_serving(prepared: PreparedServing, signature: bytes) -> x509.Certificate:
    """Put signature and bytes together and check both.

    Raises:
        AppError: `INTERNAL` when the bytes differ or the signature is not the authority's.
    """
    public_key = prepared.authority.public_key
    try:
        certificate = replay(prepared.builder, public_key.curve, signature)
        read_back = x509.load_der_x509_certificate(certificate.public_bytes(Encoding.DER))
        public_key.verify(
            read_back.signature, read_back.tbs_certificate_bytes, ec.ECDSA(signing_hash(public_key.curve))
        )
    except (InvalidSignature, ValueError):
        raise AppError(ErrorCode.INTERNAL, "the listener's certificate could not be signed") from None
    if read_back.tbs_certificate_bytes != prepared.tbs:
        raise AppError(ErrorCode.INTERNAL, "the listener's certificate is not what was prepared")
    return read_back


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError:
        raise AppError(ErrorCode.INVALID, f"{name!r} is neither a DNS name nor an IP address") from None
