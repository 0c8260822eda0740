"""Which certificate a peer presented: its issuer's key, its serial number, its hash.

Envoy sends a certificate as URL-encoded PEM (`source.certificate`, and `Cert` in x-forwarded-client-cert). Envoy has
verified it; here it is only named, to compare it with certificates that were revoked.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

MAX_CERTIFICATE_CHARS = 16_384  # URL-encoded PEM; a certificate of ours has some 1,200


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """The names of one certificate, each in lower-case hexadecimal; `serial` has no leading zeros."""

    issuer_key_id: str  # empty when the certificate does not say
    serial: str
    sha256: str


@lru_cache(maxsize=2_048)
def read_peer_certificate(text: str) -> PeerCertificate | None:
    """The certificate in URL-encoded PEM, None when it is none; cached, because connections are long-lived."""
    if len(text) > MAX_CERTIFICATE_CHARS:
        return None
    try:
        certificate = x509.load_pem_x509_certificate(unquote(text, errors="strict").encode("ascii"))
        sha256 = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
        return PeerCertificate(_issuer_key_id(certificate), f"{certificate.serial_number:x}", sha256)
    except (ValueError, x509.InvalidVersion):
        return None


def _issuer_key_id(certificate: x509.Certificate) -> str:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except (x509.ExtensionNotFound, x509.DuplicateExtension):
        return ""
    return (extension.value.key_identifier or b"").hex()
