"""The authority's view of quarantines: who gets no certificate, and which certificates workers must turn away.

In memory, because CreateCertificate asks twice for every certificate. It is brought up to date before a local change
is acknowledged, and by the change poll for those of other replicas; while the database is away the last view holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

import structlog

from app.authority.authorities.authority_set import parse_certificates
from app.authority.certificates.certificate_records import RecordedCertificate
from app.authority.certificates.credentials import unauthenticated
from app.authority.certificates.stored_certificates import CertificateFilter, StoredCertificate
from app.authority.ports import Clock
from app.authority.store import Store, Transaction
from app.ca.authority_lint import authority_key_id
from app.errors import AppError, ErrorCode
from app.limits import Limits
from app.policy.document import QUARANTINE, parse_document
from app.policy.quarantine import (
    NO_QUARANTINES,
    NOTHING_REVOKED,
    Quarantine,
    QuarantineIndex,
    RevokedCertificates,
    normal_serial,
    quarantine_from_document,
)

_log = structlog.get_logger(__name__)

QUARANTINE_ADVICE = "`gatehouse quarantine list` shows it; lift it when it is over."
QUARANTINED = "quarantined"  # how the diagnosis of such a refusal begins
_READ_AT_ONCE = 500
_RETRY_SECONDS = 1.0


class Quarantines(Protocol):
    """Says whether somebody is in quarantine."""

    def check(self, *, identity: str = "", node: str = "", cluster: str = "", serial: str = "") -> None:
        """Insist that none of these is in quarantine now; what is empty is not asked.

        Raises:
            AppError: `UNAUTHENTICATED`, opaque outward, its diagnosis beginning with `quarantined`; `UNAVAILABLE`
                when the quarantines were never read.
        """
        ...


class NoQuarantines:
    """Nobody is; for what has no policies."""

    def check(self, *, identity: str = "", node: str = "", cluster: str = "", serial: str = "") -> None:
        """Nothing."""


class ChangeSource(Protocol):
    """Where a change of the stored documents is noticed."""

    async def wait_for_change(self, number: int, seconds: float) -> bool:
        """Wait until the snapshot number is greater; False when the time is over."""
        ...


class QuarantineView:
    """Implements `Quarantines`, and the port by which the publisher learns of revoked certificates."""

    def __init__(self, store: Store, *, clock: Clock, limits: Limits, trust_domain: str) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self.trust_domain = trust_domain
        self.on_change: Callable[[], None] = lambda: None  # called after quarantines changed, here or elsewhere
        self._lock = asyncio.Lock()
        self._index: QuarantineIndex | None = None
        self._number = -1

    @property
    def index(self) -> QuarantineIndex:
        """Every quarantine of now, with the certificates that those of nodes and serials revoke."""
        return self._index or NO_QUARANTINES

    @property
    def number(self) -> int:
        """The snapshot number that the view is at least as new as, -1 before the first reading."""
        return self._number

    def find(self, *, identity: str = "", node: str = "", cluster: str = "", serial: str = "") -> Quarantine | None:
        """The quarantine that concerns one of these and holds now; None when nobody is in quarantine.

        Raises:
            AppError: `UNAVAILABLE` when the quarantines were never read.
        """
        index = self._index
        if index is None:
            raise AppError(ErrorCode.UNAVAILABLE, "the quarantines are not read yet; try again")
        if not len(index):
            return None
        now = self._clock.now()
        found = index.of_identity(identity, now) if identity else None
        if found is None and node:
            found = index.of_node(node, cluster, now)
        if found is None and serial:
            found = index.of_serial(normal_serial(serial) or serial, now)
        return found

    def check(self, *, identity: str = "", node: str = "", cluster: str = "", serial: str = "") -> None:
        """See `Quarantines.check`."""
        found = self.find(identity=identity, node=node, cluster=cluster, serial=serial)
        if found is not None:
            raise unauthenticated(f"{QUARANTINED}: {found.subject} by Quarantine {found.name}: {found.reason}")

    def why_revoked(self, certificate: RecordedCertificate) -> str:
        """Why a certificate must not renew, for `certificate_records.Revocations`; empty when it may."""
        found = self.find(
            identity=certificate.identity,
            node=certificate.node,
            cluster=certificate.cluster,
            serial=certificate.serial,
        )
        return f"{found.subject} is in quarantine by {found.name}: {found.reason}" if found is not None else ""

    async def refresh(self) -> None:
        """Read the quarantines, and which certificates they revoke.

        Raises:
            AppError: `UNAVAILABLE`; then the view stays as it was.
        """
        async with self._lock:
            before = self.index
            self._number, index = await self._store.read(self._read)
            self._index = index
            if before.all() != index.all() or before.revoked != index.revoked:
                self.on_change()

    async def revoked(self, number: int) -> RevokedCertificates:
        """What nodes and serials in quarantine revoke, as of (at least) this snapshot number.

        Raises:
            AppError: `UNAVAILABLE`.
        """
        if number > self._number:
            await self.refresh()
        return self.index.revoked

    async def run(self, changes: ChangeSource) -> None:
        """Follow what other replicas change, for ever, and certificates that were on their way at the time."""
        while True:
            try:
                changed = await changes.wait_for_change(self._number, self._limits.quarantine.refresh_seconds)
                if changed or len(self.index):
                    await self.refresh()
            except AppError as error:
                _log.warning("quarantines_not_read", reason=error.detail, diagnosis=error.diagnosis)
                await asyncio.sleep(_RETRY_SECONDS)

    def _read(self, transaction: Transaction) -> tuple[int, QuarantineIndex]:
        number = transaction.status().snapshot_number
        quarantines = tuple(self._documents(transaction))
        revoked = self._revoked(transaction, quarantines) if quarantines else NOTHING_REVOKED
        return number, QuarantineIndex(quarantines, revoked)

    def _documents(self, transaction: Transaction) -> Iterable[Quarantine]:
        after = ""
        while True:
            stored = transaction.policies.documents_after(
                after, kind=QUARANTINE, namespace="", limit=_READ_AT_ONCE, max_bytes=self._limits.policy.max_page_bytes
            )
            for document in stored:
                yield quarantine_from_document(parse_document(document.content, self._limits.policy))
            if not stored:
                return
            after = stored[-1].key

    def _revoked(self, transaction: Transaction, quarantines: Iterable[Quarantine]) -> RevokedCertificates:
        now = self._clock.now()
        serials: dict[tuple[str, str], str] = {}
        hashes: dict[str, str] = {}
        key_ids = {
            authority.id: authority_key_id(certificate).hex()
            for authority in transaction.authorities.list()
            for certificate in parse_certificates(authority.certificate_pem, what="a stored authority")[:1]
        }
        for quarantine in quarantines:
            if not quarantine.holds(now) or not (quarantine.node or quarantine.serial):
                continue
            for certificate in self._concerned(transaction, quarantine):
                key_id = key_ids.get(certificate.authority)
                if key_id is not None:
                    serials[key_id, certificate.serial] = quarantine.name
                if certificate.sha256:
                    hashes[certificate.sha256] = quarantine.name
        return RevokedCertificates(serials=serials, hashes=hashes)

    def _concerned(self, transaction: Transaction, quarantine: Quarantine) -> list[StoredCertificate]:
        asked = CertificateFilter.of_quarantine(quarantine, trust_domain=self.trust_domain, now=self._clock.now())
        return transaction.certificates.page(asked, before="", limit=self._limits.quarantine.max_revoked)
