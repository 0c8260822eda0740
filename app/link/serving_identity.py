"""The one secret of a worker: the key and the short-lived certificate with which it serves port 9193.

The key is made here, never leaves the process and is replaced with every certificate. Renewal is due at half of the
certificate's life; until the authority answers, the old certificate serves on.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.errors import AppError, ErrorCode

_log = structlog.get_logger(__name__)

_FIRST_RETRY_SECONDS = 0.2
_LAST_RETRY_SECONDS = 30.0


class CertificateLink(Protocol):
    """The part of the link that gives certificates."""

    async def request_serving_certificate(self, csr_pem: str) -> list[str]:
        """A chain for the key in the CSR."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingCertificate:
    """A private key, the chain to present with it (roots left out), and when a new one is due."""

    key_pem: bytes
    chain_pem: bytes
    renew_at: datetime
    not_after: datetime


class ServingIdentity:
    """Holds the newest serving certificate and keeps it fresh."""

    def __init__(self, link: CertificateLink) -> None:
        self._link = link
        self._ready = asyncio.Event()
        self.current: ServingCertificate | None = None

    async def wait_ready(self) -> ServingCertificate:
        """The certificate, as soon as there is one."""
        await self._ready.wait()
        assert self.current is not None
        return self.current

    async def renew(self) -> ServingCertificate:
        """Make a key, ask for its certificate, and use it from now on.

        Raises:
            AppError: `UNAVAILABLE` or `UNAUTHENTICATED` from the authority, `MALFORMED` for an answer that does not
                belong to the key.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        chain = await self._link.request_serving_certificate(csr.public_bytes(serialization.Encoding.PEM).decode())
        certificate = _accept(key, chain)
        self.current = certificate
        self._ready.set()
        _log.info("serving_certificate_renewed", not_after=certificate.not_after.isoformat())
        return certificate

    async def run(self) -> None:
        """Renew for ever; an authority that is away is asked again with a growing pause."""
        retry = _FIRST_RETRY_SECONDS
        while True:
            try:
                certificate = await self.renew()
            except AppError as error:
                _log.warning("serving_certificate_not_renewed", reason=error.detail, diagnosis=error.diagnosis)
                await asyncio.sleep(retry * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                retry = min(retry * 2, _LAST_RETRY_SECONDS)
                continue
            retry = _FIRST_RETRY_SECONDS
            await asyncio.sleep(max(1.0, (certificate.renew_at - datetime.now(UTC)).total_seconds()))


def _accept(key: ec.EllipticCurvePrivateKey, chain: list[str]) -> ServingCertificate:
    try:
        certificates = [x509.load_pem_x509_certificate(pem.encode()) for pem in chain[:-1] or chain]
    except ValueError as error:
        raise AppError(ErrorCode.MALFORMED, "the authority's answer is not a certificate chain") from error
    leaf = certificates[0]
    if leaf.public_key() != key.public_key():
        raise AppError(ErrorCode.MALFORMED, "the authority's certificate is for another key")
    life: timedelta = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    return ServingCertificate(
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        chain_pem=b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates),
        renew_at=leaf.not_valid_before_utc + life / 2,
        not_after=leaf.not_valid_after_utc,
    )
