"""Publishes revocation lists: one for each authority whose certificates somebody may still present.

A list is made anew when what it says changes (a quarantine began, ended or was lifted, an authority was tainted) and
when half of its life is over. An expired certificate leaves with the next list after its last second, and is no reason
to make one. Several replicas may try: the number of the last list is compared and set, so that numbers only grow and
whoever comes second finds nothing left to do. Publication says nothing about who has read a list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import structlog
from cryptography import x509

from app.authority.authorities.authority_ports import AuthorityRole, AuthorityState, KeyKeeper, StoredAuthority
from app.authority.authorities.authority_set import parse_certificates
from app.authority.certificates.clock_guard import ClockGuard
from app.authority.certificates.stored_certificates import CertificateFilter, StoredCrl
from app.authority.quarantine.quarantines import QuarantineView
from app.authority.store import Store, Transaction
from app.ca.crl import (
    Revocation,
    RevocationReason,
    assemble_crl,
    crl_pem,
    entries_fingerprint,
    prepare_crl,
    revocation_times,
)
from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind, LedgerEntry
from app.limits import QuarantineLimits
from app.policy.canonical import sha256_hex

_log = structlog.get_logger(__name__)

_ATTEMPTS = 3
_RETRY_SECONDS = 2.0
_CLOCK = "the clock of the authority's host was moved; lists are made again when it is right"


class Authorities(Protocol):
    """Where authorities are read."""

    async def list_authorities(self) -> Sequence[StoredAuthority]:
        """Every authority, oldest first."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCrl:
    """A list as it is given out, with what can be said of it without parsing it again."""

    stored: StoredCrl
    pem: str
    revoked: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpublished:
    """An authority that should have a list and has none, or an old one, and what that costs."""

    issuer: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Issuer:
    """An authority that has, or should have, a list."""

    stored: StoredAuthority
    certificate: x509.Certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What one list has to say, and the list that there is."""

    revocations: tuple[tuple[int, RevocationReason], ...]
    last: StoredCrl | None


class CrlPublisher:
    """Keeps the newest list of each authority: in the database, in memory, and handed to `sink` as one PEM text."""

    def __init__(
        self,
        store: Store,
        authorities: Authorities,
        keeper: KeyKeeper,
        quarantines: QuarantineView,
        *,
        clock: ClockGuard,
        limits: QuarantineLimits,
        max_lifetime: timedelta,
        sink: Callable[[str], None] | None = None,
    ) -> None:
        self._store = store
        self._authorities = authorities
        self._keeper = keeper
        self._quarantines = quarantines
        self._clock = clock
        self._limits = limits
        self._max_lifetime = max_lifetime
        self._sink = sink
        self._written: str | None = None
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._crls: tuple[PublishedCrl, ...] = ()
        self._unpublished: tuple[Unpublished, ...] = ()

    @property
    def crls(self) -> tuple[PublishedCrl, ...]:
        """The newest lists, by issuer."""
        return self._crls

    @property
    def unpublished(self) -> tuple[Unpublished, ...]:
        """The authorities without a list of now."""
        return self._unpublished

    @property
    def pem(self) -> str:
        """All lists, one after the other: the content of the file that ztunnel's CRL_PATH names."""
        return "".join(crl.pem for crl in self._crls)

    def find(self, issuer: str) -> PublishedCrl | None:
        """The list of one authority, by its id."""
        return next((crl for crl in self._crls if crl.stored.issuer == issuer), None)

    def notify(self) -> None:
        """Something changed that lists may have to say."""
        self._wake.set()

    async def run(self) -> None:
        """Publish for ever: on every hint, and often enough that no list expires; failures are tried again."""
        while True:
            self._wake.clear()
            pause = self._limits.refresh_seconds
            try:
                await self.publish()
            except AppError as error:
                _log.warning("crls_not_published", reason=error.detail, diagnosis=error.diagnosis)
                pause = _RETRY_SECONDS
            except Exception:  # noqa: BLE001 - issuing certificates must not end because of a list
                _log.exception("crl_publication_crashed")
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def publish(self) -> None:
        """Make every list say what is true now; while the clock is wrong, the lists from before stay.

        By a clock that is ahead, what they revoke, or whoever signed them, would have expired.

        Raises:
            AppError: `UNAVAILABLE` when the database is away.
        """
        async with self._lock:
            if not self._clock.is_right:
                self._note(tuple(Unpublished(issuer=crl.stored.issuer, reason=_CLOCK) for crl in self._crls))
                return
            issuers = _issuers(await self._authorities.list_authorities(), self._clock.now())
            needed, unpublished = [], []
            for issuer in issuers:
                try:
                    if await self._publish(issuer, issuers):
                        needed.append(issuer)
                except AppError as error:
                    if error.code is ErrorCode.UNAVAILABLE:
                        raise
                    needed.append(issuer)
                    reason = error.diagnosis or error.detail
                    unpublished.append(Unpublished(issuer=issuer.stored.id, reason=reason))
            self._note(tuple(unpublished))
            await self._take(needed)

    def _note(self, unpublished: tuple[Unpublished, ...]) -> None:
        for one in unpublished:
            if one not in self._unpublished:
                _log.warning("crl_not_published", issuer=one.issuer, reason=one.reason)
        self._unpublished = unpublished

    async def _publish(self, issuer: _Issuer, issuers: Sequence[_Issuer]) -> bool:
        """Make the list of one issuer, if it is due; whether anybody needs one."""
        for _ in range(_ATTEMPTS):
            now = self._clock.now()
            wanted = await self._store.read(lambda transaction: self._wanted(transaction, issuer, issuers))
            if wanted is None or not self._is_due(wanted, now):
                return wanted is not None
            crl = await self._sign(issuer, wanted, now)
            number = wanted.last.number if wanted.last is not None else 0
            entry = _entry(crl, len(wanted.revocations), now)

            def work(transaction: Transaction, crl: StoredCrl = crl, number: int = number) -> bool:
                is_stored = transaction.certificates.replace_crl(crl, expected_number=number)
                if is_stored:
                    transaction.record(entry)  # noqa: B023 - runs before the next turn
                return is_stored

            if await self._store.write(work):
                _log.info("crl_published", issuer=crl.issuer, number=crl.number, revoked=len(wanted.revocations))
                return True
        raise AppError(ErrorCode.CONFLICT, "other replicas publish revocation lists faster than this one")

    def _is_due(self, wanted: _Wanted, now: datetime) -> bool:
        last = wanted.last
        if last is None or last.this_update > now:  # made while the clock was ahead: valid for nobody, and for long
            return True
        if last.next_update - now < timedelta(seconds=self._limits.crl_renew_seconds):
            return True
        revocations = [Revocation(serial=serial, at=now, reason=reason) for serial, reason in wanted.revocations]
        return last.entries != entries_fingerprint(revocations)

    def _wanted(self, transaction: Transaction, issuer: _Issuer, issuers: Sequence[_Issuer]) -> _Wanted | None:
        """What the issuer's list has to say; None when nobody can present a certificate of it."""
        now, rows, stored = self._clock.now(), transaction.certificates, issuer.stored
        if stored.role == AuthorityRole.ROOT:
            if stored.state == AuthorityState.RETIRED and not _is_needed(
                transaction, (one.stored.id for one in issuers if one.stored.root_id == stored.id), now
            ):
                return None
            return _Wanted(revocations=_tainted_below(issuer, issuers, now), last=_last(rows.crls(), issuer))
        is_active = stored.state in (AuthorityState.ACTIVE, AuthorityState.PREPARED)
        if not is_active and not _is_needed(transaction, (stored.id,), now):
            return None
        last = _last(rows.crls(), issuer)
        # RFC 5280 §3.3: an entry stays until it was on one list after its certificate expired.
        since = now if last is None else min(now, last.this_update)
        serials: dict[int, RevocationReason] = {}
        for quarantine in self._quarantines.index.all():
            if quarantine.holds(now):
                asked = CertificateFilter.of_quarantine(
                    quarantine, trust_domain=self._quarantines.trust_domain, now=since, authority=issuer.stored.id
                )
                for certificate in rows.page(asked, before="", limit=self._limits.max_revoked):
                    serials[int(certificate.serial, 16)] = RevocationReason.ON_HOLD
        newest = list(serials.items())[: self._limits.max_revoked]
        return _Wanted(revocations=tuple(newest), last=last)

    async def _sign(self, issuer: _Issuer, wanted: _Wanted, now: datetime) -> StoredCrl:
        last = wanted.last
        since: Mapping[int, datetime] = revocation_times(last.der) if last is not None else {}
        revocations = [
            Revocation(serial=serial, at=since.get(serial, now), reason=reason) for serial, reason in wanted.revocations
        ]
        prepared = await asyncio.to_thread(
            prepare_crl,
            issuer.certificate,
            revocations,
            number=(last.number if last is not None else 0) + 1,
            now=now,
            lifetime=timedelta(seconds=self._limits.crl_lifetime_seconds),
        )
        signature = await self._signature(issuer.stored, prepared.tbs)
        signed = await asyncio.to_thread(assemble_crl, prepared, signature)
        return StoredCrl(
            issuer=issuer.stored.id,
            number=signed.number,
            der=signed.der,
            entries=signed.entries,
            this_update=signed.this_update,
            next_update=signed.next_update,
        )

    async def _signature(self, authority: StoredAuthority, tbs: bytes) -> bytes:
        """A signature by a key that may be at rest, as a root's is: then it is opened for this one moment."""
        if not (authority.sealed_key or authority.key_ref):
            raise AppError(
                ErrorCode.FAILED_PRECONDITION, f"the key of the authority {authority.id} is not here: it signs no list"
            )
        try:
            return await self._keeper.sign_crl(authority.id, tbs)
        except AppError as error:
            if error.code is not ErrorCode.FAILED_PRECONDITION:
                raise
        await self._keeper.open_authority(authority, max_lifetime=self._max_lifetime)
        try:
            return await self._keeper.sign_crl(authority.id, tbs)
        finally:
            await self._keeper.close_authority(authority.id)

    async def _take(self, issuers: Sequence[_Issuer]) -> None:
        """Read back what is stored, whoever stored it, and hand it on."""
        known = {issuer.stored.id for issuer in issuers}
        stored = await self._store.read(lambda transaction: transaction.certificates.crls())
        before = {crl.stored.issuer: crl for crl in self._crls}
        taken = []
        for crl in stored:
            if crl.issuer in known:
                last = before.get(crl.issuer)
                is_new = last is None or last.stored != crl
                taken.append(await asyncio.to_thread(_published, crl) if is_new else last)
        self._crls = tuple(one for one in taken if one is not None)
        if self._sink is not None and self._written != self.pem:
            await asyncio.to_thread(self._sink, self.pem)
            self._written = self.pem


def _issuers(authorities: Sequence[StoredAuthority], now: datetime) -> list[_Issuer]:
    """The authorities of our own that have not expired."""
    found = []
    for stored in authorities:
        if stored.role == AuthorityRole.PEER or not stored.certificate_pem:
            continue
        certificate, *_ = parse_certificates(stored.certificate_pem, what="a stored authority")
        if certificate.not_valid_after_utc > now:
            found.append(_Issuer(stored=stored, certificate=certificate))
    return found


def _tainted_below(
    root: _Issuer, issuers: Sequence[_Issuer], now: datetime
) -> tuple[tuple[int, RevocationReason], ...]:
    """The tainted authorities that a root certified."""
    return tuple(
        (issuer.certificate.serial_number, RevocationReason.AUTHORITY_COMPROMISED)
        for issuer in issuers
        if issuer.stored.state == AuthorityState.TAINTED
        and issuer.stored.role == AuthorityRole.ISSUING
        and issuer.certificate.issuer == root.certificate.subject
        and issuer.certificate.not_valid_after_utc > now
    )


def _is_needed(transaction: Transaction, authorities: Iterable[str], now: datetime) -> bool:
    """Whether somebody has an unexpired certificate of one of these authorities."""
    return not transaction.authorities.last_ends(now).keys().isdisjoint(authorities)


def _last(crls: Sequence[StoredCrl], issuer: _Issuer) -> StoredCrl | None:
    return next((crl for crl in crls if crl.issuer == issuer.stored.id), None)


def _published(crl: StoredCrl) -> PublishedCrl:
    return PublishedCrl(
        stored=crl, pem=crl_pem(crl.der), revoked=len(revocation_times(crl.der)), sha256=sha256_hex(crl.der)
    )


def _entry(crl: StoredCrl, revoked: int, now: datetime) -> LedgerEntry:
    return LedgerEntry(
        kind=EntryKind.CRL_PUBLISHED,
        time=now,
        actor="system",
        subject=crl.issuer,
        detail={
            "issuer": crl.issuer,
            "number": crl.number,
            "revoked": revoked,
            "sha256": sha256_hex(crl.der),
            "thisUpdate": crl.this_update.isoformat(),
            "nextUpdate": crl.next_update.isoformat(),
        },
    )
