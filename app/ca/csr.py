"""Certificate signing requests: from PEM text to a value that is safe to build a certificate from.

A CSR is the most hostile input of the certificate authority, and of all it says we use one thing: its public
key. It is bounded before it is parsed, cut out of its PEM by hand in linear time, its self-signature is
verified (RFC 2986 §4.2: proof of possession), its key must pass the key policy (`app.ca.key_policy`), and
whatever it asks for beyond a SPIFFE ID is refused rather than ignored, so that nobody believes to have got it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from app.identity.spiffe import SpiffeId
from app.limits import CertificateLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Csr:
    """A checked request.

    `public_key_der` is the key's SubjectPublicKeyInfo and `key_type` reads `EC-P256`, `EC-P384`, `RSA-2048` ...
    """

    public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
    public_key_der: bytes
    key_type: str
    uri_sans: tuple[str, ...]


def parse_csr(pem: str, limits: CertificateLimits) -> Csr:
    """Parse and check one PEM CSR.

    Raises:
        AppError: `MALFORMED` when it is not exactly one PEM PKCS#10 request within the size bound; `INVALID` when
            its signature, its key or what it asks for is not acceptable.
    """
    raise NotImplementedError


def check_requested_identity(csr: Csr, identity: SpiffeId) -> None:
    """Refuse a CSR that names another identity than the authorised one (none at all is fine).

    Raises:
        AppError: `INVALID` when a URI name of the CSR is not exactly `identity`.
    """
    raise NotImplementedError
