"""The authorities that are in force in this process: who signs, which roots are trusted.

Holds one immutable state and replaces it as a whole. Changes are made in the database and taken over from there, on
the replica that made them at once and on others within a poll. Without the database it serves on with what it has
until its lease ends: others wait for that long before they rely on this replica having taken over a change, so a
replica that knows nothing of a removed root can never issue under it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol

import structlog

from app.authority.authorities.authority_ports import AuthorityState, PublishedBundle, StoredAuthority
from app.authority.authorities.authority_set import AuthoritySet, read_fleet, refused
from app.authority.authorities.authority_store import StoredBundle
from app.authority.authorities.commit_authorities import AuthorityChange, commit_change, publish_bundle
from app.authority.authorities.make_authorities import AuthorityMaker
from app.authority.certificates.clock_guard import ClockGuard
from app.authority.certificates.issue_certificate import IssuingState
from app.authority.ports import Signer
from app.authority.store import Store, Transaction
from app.ca.lifecycle import Fleet, Replica, Rules
from app.errors import AppError, ErrorCode
from app.limits import AuthorityLimits

_log = structlog.get_logger(__name__)

_CLOSED_STATES = frozenset({AuthorityState.RETIRED.value})


class AuthorityObserver(Protocol):
    """Hears of every set of authorities that is taken over."""

    def taken_over(self, known: AuthoritySet, published: PublishedBundle) -> None:
        """These are in force now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """What this process issues by now. `issuing` is None while nobody may sign."""

    known: AuthoritySet
    published: PublishedBundle
    issuing: IssuingState | None


class Authorities:
    """Follows the authorities in the database. Implements `BundleSource` and `TrustSource`.

    Call `open` once, hand `issuing` to an issuer and its `replace_state` to `follow`, then let `run` run.
    """

    def __init__(
        self,
        store: Store,
        maker: AuthorityMaker,
        *,
        clock: ClockGuard,
        longest_life: timedelta,
        backdate: timedelta = timedelta(0),
        limits: AuthorityLimits,
        replica_id: str = "local",
        observer: AuthorityObserver | None = None,
    ) -> None:
        self.store = store
        self.maker = maker
        self.clock = clock
        self.limits = limits
        self.rules = Rules(
            longest_life=longest_life,
            settle=timedelta(seconds=limits.settle_seconds),
            lease=timedelta(seconds=limits.lease_seconds),
            min_lives_left=limits.min_lives_left,
            # A certificate begins in the past, by its backdate.
            propagation=timedelta(seconds=limits.propagation_seconds) + backdate,
        )
        self.trust_domain = maker.trust_domain
        self._keeper = maker.keeper
        self._replica_id = replica_id
        self._observer = observer
        self._open_keys: set[str] = set()
        self._missing_keys: dict[str, str] = {}  # why they did not open, by the id of the authority
        self._in_force: InForce | None = None
        self._lease_ends: datetime | None = None
        self._reported_epoch: int | None = None
        self._has_unrecorded: Callable[[], bool] = lambda: False
        self._followers: list[Callable[[IssuingState], None]] = []
        self._lock = asyncio.Lock()

    @property
    def in_force(self) -> InForce:
        """What holds now; `open` must have been called."""
        assert self._in_force is not None
        return self._in_force

    @property
    def issuing(self) -> IssuingState:
        """What certificates are issued with.

        Raises:
            AppError: `FAILED_PRECONDITION` while no authority may sign.
        """
        state = self.in_force.issuing
        if state is None:
            raise refused("there is no active issuing authority; activate one: gatehouse ca list")
        return state

    def current(self) -> PublishedBundle:
        """The trust bundle of now."""
        return self.in_force.published

    def trust_bundle(self) -> Mapping[str, Any]:
        """The trust bundle as snapshots and the API show it."""
        bundle = self.current().bundle
        return {"trustDomain": str(bundle.trust_domain), "pem": bundle.pem}

    def follow(self, take_over: Callable[[IssuingState], None]) -> None:
        """Call this with every state from now on."""
        self._followers.append(take_over)

    def wait_for(self, has_unrecorded: Callable[[], bool]) -> None:
        """Tell other replicas of a change only once every certificate from before is in the database.

        `has_unrecorded` says whether some are still in a journal of this process, where no other replica sees them.
        """
        self._has_unrecorded = has_unrecorded

    async def open(self) -> InForce:
        """Take over what is stored.

        Raises:
            AppError: `FAILED_PRECONDITION` when there is no authority that signs or ever did, a key does not open, or
                the stored authorities are damaged or of another trust domain; `UNAVAILABLE`.
        """
        await self.refresh()
        _ = self.issuing
        return self.in_force

    async def refresh(self) -> bool:
        """Take over what is stored now; whether it is something new.

        Raises:
            AppError: what the store and the keeper raise; then everything stays as it was.
        """
        async with self._lock:
            now = self.clock.now()
            epoch = await self.store.read(lambda transaction: transaction.authorities.epoch())
            current = self._in_force
            is_new = current is None or current.known.epoch != epoch or self._has_expired_root(current, now)
            if is_new:
                current = await self._take_over(now)
            elif current is not None and current.known.active_id() in self._missing_keys:
                await self._open_keys_of(current.known)
            assert current is not None
            await self._keep_lease(current.known.epoch, now)
            return is_new

    async def run(self) -> None:
        """Follow for ever; a database that is away is waited for."""
        while True:
            await asyncio.sleep(self.limits.poll_seconds)
            try:
                await self.refresh()
            except AppError as error:
                _log.warning("authorities_not_read", reason=error.detail, diagnosis=error.diagnosis)

    async def close(self) -> None:
        """Say that this replica issues no more."""
        now = self.clock.now()
        self._lease_ends = now
        with contextlib.suppress(AppError):
            await self.store.write(
                lambda transaction: transaction.authorities.forget_replicas(
                    seen_before=now - 2 * self.rules.lease, replica_id=self._replica_id
                )
            )

    async def read_fleet(self) -> tuple[AuthoritySet, Fleet]:
        """The stored authorities and everything that a step is judged by."""
        now = self.clock.now()

        def work(transaction: Transaction) -> tuple[AuthoritySet, Fleet]:
            known = AuthoritySet.read(transaction, self.trust_domain)
            return known, read_fleet(transaction, known, self.rules, now)

        return await self.store.read(work)

    async def commit(self, change: AuthorityChange) -> AuthoritySet:
        """Make a change and take it over.

        Raises:
            AppError: as `check_clock`, `check_keys` and `commit_change`, and `UNAVAILABLE`.
        """
        self.check_clock()
        await self.check_keys(change)
        stored = await self.store.write(lambda transaction: commit_change(transaction, change, self.trust_domain))
        _log.info(
            "authorities_changed",
            transition=change.transition,
            actor=change.actor,
            subject=change.subject,
            epoch=stored.epoch,
        )
        await self.take_over_now()
        return stored

    async def check_keys(self, change: AuthorityChange) -> None:
        """Refuse to let an authority sign whose key does not open here: then nobody would.

        Raises:
            AppError: `FAILED_PRECONDITION`, or `UNAVAILABLE` when its key cannot be asked for now.
        """
        for row in change.replaced:
            if row.role == "issuing" and row.state == AuthorityState.ACTIVE and row.id not in self._open_keys:
                await self.maker.open(row)

    async def take_over_now(self) -> None:
        """Take over a change that is stored; where that fails it is done all the same, and the next poll does."""
        try:
            await self.refresh()
        except AppError as error:
            _log.warning("authorities_not_read", reason=error.detail, diagnosis=error.diagnosis)

    def check_clock(self) -> None:
        """Refuse what is judged by the time while that is wrong: a successor, a removal, an activation.

        Raises:
            AppError: `FAILED_PRECONDITION`.
        """
        if not self.clock.is_right:
            raise refused(
                "the clock of this host was moved, and steps of authorities are judged by the time: set it right; "
                "if it was wrong when the authority started and is right now, restart it"
            )

    def check_may_sign(self, authority_id: str) -> None:
        """Whether an authority may sign in this process at this moment.

        Raises:
            AppError: `UNAVAILABLE` when it may not (any more), or when this replica heard nothing of the database for
                so long that others stopped to count on it.
        """
        if self._lease_ends is None or self.clock.now() >= self._lease_ends:
            raise AppError(
                ErrorCode.UNAVAILABLE,
                "this replica does not know whether its authorities are still in force; try another",
                diagnosis=f"no word from the database for {self.rules.lease}",
            )
        row = next((one for one in self.in_force.known.rows if one.id == authority_id), None)
        if row is None or row.state in (AuthorityState.TAINTED, AuthorityState.RETIRED):
            raise AppError(ErrorCode.UNAVAILABLE, "the authority was just replaced; try again")
        if authority_id in self._missing_keys:
            raise AppError(
                ErrorCode.UNAVAILABLE,
                "the key of the authority that signs is not in its file: put that file back, or activate another "
                "authority (`gatehouse ca list`)",
                diagnosis=self._missing_keys[authority_id],
            )

    async def _take_over(self, now: datetime) -> InForce:
        known, published = await self._read(now)
        bundle = known.bundle(now)
        await self._open_keys_of(known)
        # Where nobody signs, a process that starts stands with who signed last and is refused each signature: whoever
        # is to replace it must find it running.
        active = known.active() or (known.signed_last() if self._in_force is None else None)
        issuing = None
        if active is not None:
            signer = _GuardedSigner(self, active.id, self._keeper.signer(active.id))
            issuing = replace(
                IssuingState.of(known.authority(active), signer, bundle),
                check_may_sign=partial(self.check_may_sign, active.id),
            )
        self._in_force = InForce(
            known=known,
            published=PublishedBundle(
                bundle=bundle, own=known.own_bundle(now), sequence=published.sequence, since=published.since
            ),
            issuing=issuing,
        )
        if issuing is not None:
            for take_over in self._followers:
                take_over(issuing)
        await self._close_keys_of(known)
        if self._observer is not None:
            self._observer.taken_over(known, self._in_force.published)
        return self._in_force

    async def _read(self, now: datetime) -> tuple[AuthoritySet, StoredBundle]:
        """The stored set and its bundle; published anew where time took a root out of it."""

        def read(transaction: Transaction) -> tuple[AuthoritySet, StoredBundle | None]:
            return AuthoritySet.read(transaction, self.trust_domain), transaction.authorities.published()

        def publish(transaction: Transaction) -> tuple[AuthoritySet, StoredBundle | None]:
            transaction.lock()
            publish_bundle(transaction, AuthoritySet.read(transaction, self.trust_domain), now)
            return read(transaction)

        known, published = await self.store.read(read)
        if not known.trusted_roots():
            raise refused("the database has no active certificate authority; nothing can be issued")
        is_other = published is None or published.fingerprint != known.bundle(now).fingerprint
        if is_other and (published is None or self.clock.is_right):
            known, published = await self.store.write(publish)
        assert published is not None
        return known, published

    async def _open_keys_of(self, known: AuthoritySet) -> None:
        """Open the key of every issuing authority that may still sign something, if only a revocation list.

        Whoever has exchanged the files of a parent while no process ran has taken away the key that signs. Where that
        cannot be opened a process starts all the same, refuses each signature, and tries again: it publishes the roots
        in the new files, and only a running one can let a new authority take over.
        """
        for row in known.rows:
            if row.id in self._open_keys or not _wants_key(row):
                continue
            try:
                await self.maker.open(row)
            except AppError as error:
                if row.state == AuthorityState.ACTIVE and not self._may_wait_for(row, error):
                    raise
                if self._missing_keys.get(row.id) != error.detail:
                    _log.error("authority_key_not_opened", authority=row.id, state=row.state, reason=error.detail)
                self._missing_keys[row.id] = error.detail
                continue
            self._missing_keys.pop(row.id, None)
            self._open_keys.add(row.id)

    def _may_wait_for(self, row: StoredAuthority, error: AppError) -> bool:
        """Whether to stand with an authority that cannot sign: its key is in somebody's file, and none signs here yet.

        A process in which another one still signs stays with that one.
        """
        before = self._in_force.known.active_id() if self._in_force is not None else ""
        is_file = error.code is ErrorCode.FAILED_PRECONDITION and row.key_ref.startswith("file:")
        return is_file and before not in self._open_keys

    async def _close_keys_of(self, known: AuthoritySet) -> None:
        wanted = {row.id for row in known.rows if _wants_key(row)}
        for authority_id in self._open_keys - wanted:
            await self._keeper.close_authority(authority_id)
        self._open_keys &= wanted
        self._missing_keys = {name: why for name, why in self._missing_keys.items() if name in wanted}

    def _has_expired_root(self, current: InForce, now: datetime) -> bool:
        """Whether time takes a root out of the bundle; not by a clock that is wrong."""
        is_over = any(root.not_valid_after_utc <= now for root in current.published.bundle.roots)
        if not is_over or not self.clock.is_right:
            return False
        return current.known.bundle(now).fingerprint != current.published.bundle.fingerprint

    async def _keep_lease(self, epoch: int, now: datetime) -> None:
        """Tell others what this replica took over, on a change and well before the lease ends."""
        lease, ends = self.rules.lease, self._lease_ends
        if self._reported_epoch is not None and self._has_unrecorded():
            epoch = self._reported_epoch
        if self._reported_epoch == epoch and ends is not None and ends - now > lease * (2 / 3):
            return
        replica = Replica(id=self._replica_id, epoch=epoch, seen_at=now)
        await self.store.write(lambda transaction: transaction.authorities.report_replica(replica))
        self._reported_epoch = epoch
        self._lease_ends = now + lease


class _GuardedSigner:
    """A signer that asks before each signature whether its authority is still in force."""

    __slots__ = ("_authorities", "_authority_id", "_signer")

    def __init__(self, authorities: Authorities, authority_id: str, signer: Signer) -> None:
        self._authorities = authorities
        self._authority_id = authority_id
        self._signer = signer

    async def sign(self, tbs: bytes) -> bytes:
        """A signature, if the authority may sign."""
        self._authorities.check_may_sign(self._authority_id)
        return await self._signer.sign(tbs)


def _wants_key(row: StoredAuthority) -> bool:
    has_key = bool(row.sealed_key or row.key_ref) and bool(row.certificate_pem)
    return row.role == "issuing" and has_key and row.state not in _CLOSED_STATES
