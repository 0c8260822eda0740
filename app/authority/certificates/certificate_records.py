"""What is on record of certificates that were issued, as the use cases read it, and who must not renew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from app.authority.certificates.key_guard import CertifiedKey


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCertificate:
    """One certificate as the ledger has it. `key_hash` is the SHA-256 of its SubjectPublicKeyInfo, hexadecimal."""

    serial: str
    authority: str  # the id of the authority that signed it
    identity: str
    node: str
    cluster: str
    purpose: str  # empty for a workload's, else what of ours it is for
    key_hash: str
    holder: str  # who of that identity on the node holds it; empty for a node proxy, which holds one for all
    not_before: datetime | None
    not_after: datetime | None


class CertificateRecords(Protocol):
    """Reads the certificates on record."""

    async def find_certificate(self, serial: str) -> RecordedCertificate | None:
        """The certificate of a serial number (lower-case hexadecimal), or None.

        Raises:
            AppError: `UNAVAILABLE` when the database cannot be asked.
        """
        ...

    async def certified_keys(self, *, now: datetime, since: datetime | None, limit: int) -> Sequence[CertifiedKey]:
        """Keys of unexpired workload certificates that were recorded after `since`, oldest first, the newest `limit`.

        Raises:
            AppError: `UNAVAILABLE` when the database cannot be asked.
        """
        ...


class IssuerTrust(Protocol):
    """Which of our authorities are believed."""

    def is_believed(self, authority_id: str) -> bool:
        """Whether what that authority signed may still be renewed: it is known, and neither tainted nor retired."""
        ...


class Revocations(Protocol):
    """Which certificates were taken back."""

    def why_revoked(self, certificate: RecordedCertificate) -> str:
        """Why it must not renew, in a few words for the operator; empty when it may."""
        ...


class NoRevocations:
    """Nothing was taken back."""

    def why_revoked(self, certificate: RecordedCertificate) -> str:  # noqa: ARG002
        """Never."""
        return ""
