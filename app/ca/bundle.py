"""The trust bundle: the roots that a trust domain believes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from cryptography import x509

from app.identity.spiffe import TrustDomain


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The roots of one trust domain, in a stable order."""

    trust_domain: TrustDomain
    roots: tuple[x509.Certificate, ...]
    pem: str  # all roots, one after the other, each ending in a newline

    @classmethod
    def of(cls, trust_domain: TrustDomain, roots: tuple[x509.Certificate, ...]) -> Self:
        """A bundle of the given roots, without duplicates.

        Raises:
            AppError: `INVALID` when there is none, or one is not a certificate authority.
        """
        raise NotImplementedError

    @classmethod
    def from_pem(cls, trust_domain: TrustDomain, pem: str) -> Self:
        """Parse a bundle; nothing but `CERTIFICATE` blocks may be in it.

        Raises:
            AppError: `MALFORMED` or `INVALID`.
        """
        raise NotImplementedError
