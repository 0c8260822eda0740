"""Authorities: root and issuing certificates, and how they are made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from app.identity.spiffe import TrustDomain

ROOT_LIFETIME = timedelta(days=3650)
ISSUING_LIFETIME = timedelta(days=365)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A signing authority that may issue, with everything that issuing needs worked out once.

    `intermediates` starts with the authority's own certificate and ends below the root; `not_after` is the
    earliest end of any element, root included.
    """

    id: str
    trust_domain: TrustDomain
    certificate: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]
    root: x509.Certificate
    key_id: bytes  # subject key identifier
    not_after: datetime

    @classmethod
    def of(cls, certificate: x509.Certificate, above: tuple[x509.Certificate, ...], trust_domain: TrustDomain) -> Self:
        """Build it from its certificate and those above it, root last.

        Raises:
            AppError: `INVALID` when the chain does not hold together.
        """
        raise NotImplementedError


def create_root(
    trust_domain: TrustDomain,
    key: ec.EllipticCurvePrivateKey,
    *,
    now: datetime,
    serial: int,
    lifetime: timedelta = ROOT_LIFETIME,
) -> x509.Certificate:
    """A self-signed root certificate for `key`."""
    raise NotImplementedError


def create_issuing(
    public_key: ec.EllipticCurvePublicKey,
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
    *,
    now: datetime,
    serial: int,
    lifetime: timedelta = ISSUING_LIFETIME,
) -> x509.Certificate:
    """An issuing certificate (path length 0) under `root`."""
    raise NotImplementedError
