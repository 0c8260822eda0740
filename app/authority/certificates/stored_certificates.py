"""What is known of issued certificates beside their ledger entries: values, and the port to where they rest."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from app.policy.quarantine import Quarantine


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCertificate:
    """One issued certificate. `uid` names its ledger entry, in hexadecimal; `serial`, `sha256` are hexadecimal, too.

    `holder` tells several holders of an identity on one node apart. `purpose` is empty for a workload's certificate,
    else it says what of ours it is for. `sha256` is empty for what was issued before this column existed.
    """

    uid: str
    serial: str
    authority: str
    identity: str
    node: str
    cluster: str
    holder: str
    purpose: str
    bundle: str
    key_hash: str
    sha256: str
    not_before: datetime | None
    not_after: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFilter:
    """Which certificates are asked for; empty members ask nothing.

    `identity` may end in `*` and is then the beginning of a SPIFFE ID. `expiring_before` and `current_at` are about the
    last second of a certificate.
    """

    identity: str = ""
    serial: str = ""
    node: str = ""
    cluster: str = ""
    namespace: str = ""
    authority: str = ""
    expiring_before: datetime | None = None
    current_at: datetime | None = None

    @classmethod
    def of_quarantine(
        cls, quarantine: Quarantine, *, trust_domain: str, now: datetime, authority: str = ""
    ) -> CertificateFilter:
        """The unexpired certificates that a quarantine concerns; every one of them is of our trust domain."""
        identity = f"spiffe://{trust_domain}{quarantine.account}" if quarantine.account else quarantine.identity
        return cls(
            identity=identity,
            serial=quarantine.serial,
            node=quarantine.node,
            cluster=quarantine.cluster,
            authority=authority,
            current_at=now,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCrl:
    """The newest CRL of one issuer. `entries` is a hash over what it revokes, to see whether anything changed."""

    issuer: str  # the id of the authority
    number: int
    der: bytes
    entries: str
    this_update: datetime
    next_update: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedCertificates:
    """Certificates in the order of the ledger, the index to go on from, and whether that is its end by now."""

    items: list[StoredCertificate]
    following: int
    is_end: bool


class CertificateRows(Protocol):
    """Issued certificates and revocation lists, in a unit of work."""

    def page(self, asked: CertificateFilter, *, before: str, limit: int) -> list[StoredCertificate]:
        """Certificates, newest first, that come after the one with the uid `before` (empty: from the newest)."""
        ...

    def numbered(self, asked: CertificateFilter, *, first: int | None, limit: int) -> NumberedCertificates:
        """Those whose ledger entries have an index of at least `first` (None: from the next one on), in that order.

        Raises:
            AppError: `INVALID` when the ledger never had that many entries.
        """
        ...

    def find(self, serial: str) -> list[StoredCertificate]:
        """The certificates of that serial; more than one only when several authorities chose the same."""
        ...

    def entry(self, uid: str) -> tuple[int | None, bytes]:
        """The ledger entry of a certificate: its index, None when it has none yet, and its canonical bytes."""
        ...

    def overdue(self, *, now: datetime, margin: timedelta, limit: int) -> list[StoredCertificate]:
        """Unexpired workload certificates past half of their life and the margin, the newest of their kind.

        Of their kind means: of the same identity, node, cluster and holder. Those that expire first come first.
        """
        ...

    def count_overdue(self, *, now: datetime, margin: timedelta) -> int:
        """How many of them there are."""
        ...

    def crls(self) -> list[StoredCrl]:
        """The newest CRL of each issuer."""
        ...

    def replace_crl(self, crl: StoredCrl, *, expected_number: int) -> bool:
        """Store a CRL if the newest one of its issuer has that number (0: there is none); whether it was stored."""
        ...
