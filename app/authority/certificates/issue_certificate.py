"""The issuer: from an authorised identity and a checked CSR to a certificate on record.

The order is the promise: prepare and lint, record the intent durably, sign, check the signed bytes, record the
certificate durably, answer. From intent to record it is a job of the issuer and not of the call: a cancelled call
leaves it running, so nothing is ever signed without both entries, and a drain waits for the jobs.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Self

import structlog

from app.authority.certificates.clock_guard import ClockGuard
from app.authority.certificates.key_guard import CertifiedKey, KeyGuard
from app.authority.ports import Ledger, MonotonicClock, Signer
from app.authority.quarantine.quarantines import NoQuarantines, Quarantines
from app.ca.authority import Authority
from app.ca.bundle import TrustBundle
from app.ca.csr import Csr
from app.ca.issuance import RANDOM_SERIAL_BYTES, IssuedSvid, PreparedSvid, assemble, prepare, serial_number
from app.ca.key_policy import key_hash
from app.ca.lifetimes import WorkloadLifetimes
from app.ca.profile import TtlGrant, WorkloadProfile
from app.ca.response import PathChecker, cert_chain, check_as_ztunnel
from app.ca.serving_names import NO_SERVING_NAMES, ServingNames
from app.errors import AppError, ErrorCode
from app.identity.spiffe import SpiffeId
from app.ledger.entry import EntryKind, LedgerEntry
from app.limits import CertificateLimits

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuingState:
    """What certificates are issued with now; replaced as a whole when an authority or the bundle changes.

    `check_may_sign` raises while the authority may not sign, so that nothing is recorded which never can be signed.
    """

    authority: Authority
    signer: Signer
    bundle: TrustBundle
    path: PathChecker
    check_may_sign: Callable[[], None] = lambda: None

    @classmethod
    def of(cls, authority: Authority, signer: Signer, bundle: TrustBundle) -> Self:
        """The state for an active authority, its signer and the bundle of all roots."""
        return cls(authority=authority, signer=signer, bundle=bundle, path=PathChecker(authority, bundle))


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One certificate to issue, everything decided but its lifetime.

    `detail` is what the ledger keeps of who asked (node, pod, token id ...): JSON values, no secrets.
    `holder` says for whom the key is certified (`key_guard.holder_of`): renewals are spread by it, and
    nobody else gets a certificate for the same key. It is empty for certificates of our own, which may.
    `serving_names` are for our own listeners and never come from a caller. `caller` is the SPIFFE ID of who asks where
    it asks for another, `presented_serial` the serial of the certificate that it showed: neither may be in quarantine.
    """

    identity: SpiffeId
    csr: Csr
    ttl_seconds: int
    actor: str
    request_id: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    holder: str = ""
    serving_names: ServingNames = NO_SERVING_NAMES
    caller: str = ""
    presented_serial: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate on record and the chain to answer with; `key_is_shared` when somebody else holds its key, too."""

    svid: IssuedSvid
    grant: TtlGrant
    chain: list[str]
    key_is_shared: bool = False


def _never() -> datetime | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuingRules:
    """What every certificate is issued under. `converge_by` is the deadline of a mesh that converges, or None."""

    lifetimes: WorkloadLifetimes
    keys: KeyGuard
    clock_guard: ClockGuard
    converge_by: Callable[[], datetime | None] = _never

    @classmethod
    def from_limits(cls, limits: CertificateLimits, clock: MonotonicClock) -> Self:
        """The rules when nobody has set any.

        Raises:
            AppError: `INVALID` when the limits contradict each other.
        """
        return cls(
            lifetimes=WorkloadLifetimes(WorkloadProfile.from_limits(limits)),
            keys=KeyGuard(max_keys=limits.max_tracked_keys),
            clock_guard=ClockGuard(clock, max_drift_seconds=limits.max_clock_drift_seconds),
        )


class Issuer:
    """Issues certificates; many jobs at a time, bounded."""

    def __init__(
        self,
        state: IssuingState,
        ledger: Ledger,
        *,
        clock: MonotonicClock,
        limits: CertificateLimits,
        rules: IssuingRules | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
        quarantines: Quarantines | None = None,
    ) -> None:
        self._state = state
        self._ledger = ledger
        self._clock = clock
        self._limits = limits
        self._rules = rules or IssuingRules.from_limits(limits, clock)
        self._random_bytes = random_bytes
        self._quarantines = quarantines or NoQuarantines()
        self._jobs: set[asyncio.Task[Issued]] = set()
        self._draining = False

    @property
    def state(self) -> IssuingState:
        """What is issued with now."""
        return self._state

    def replace_state(self, state: IssuingState) -> None:
        """Issue with another authority or bundle from now on; jobs under way keep theirs."""
        self._state = state

    @property
    def rules(self) -> IssuingRules:
        """What is issued under."""
        return self._rules

    @property
    def converge_by(self) -> datetime | None:
        """Until when what is issued now shall have been renewed; None when nothing converges."""
        return self._rules.converge_by()

    @property
    def jobs_in_flight(self) -> int:
        """How many jobs run."""
        return len(self._jobs)

    async def issue(self, order: Order) -> Issued:
        """Issue one certificate; cancelling this leaves the job running.

        Raises:
            AppError: `UNAUTHENTICATED` for who is in quarantine; `INVALID` for a lifetime or key that cannot be
                granted; `OVERLOADED` when too many jobs run;
                `UNAVAILABLE` when draining, or when ledger or signer cannot be reached in time;
                `FAILED_PRECONDITION` when the authority is about to expire or the clock was moved; `INTERNAL` when a
                check of ours fails.
        """
        self._check_room()
        self._rules.clock_guard.check()
        self._check_quarantine(order)  # before anything is on record
        state, now = self._state, self._clock.now()
        grant = self._grant(order.identity, order.ttl_seconds, order.holder, state, now)
        state.check_may_sign()
        is_shared = self._claim_key(order, grant, now)
        prepared = prepare(
            order.identity,
            order.csr,
            grant,
            authority=state.authority,
            profile=self._rules.lifetimes.profile,
            now=now,
            serial=serial_number(self._random_bytes(RANDOM_SERIAL_BYTES)),
            serving_names=order.serving_names,
        )
        if is_shared:
            order = replace(order, detail={**order.detail, "keyShared": True})
        job = asyncio.create_task(self._sign_on_record(order, grant, prepared, state, now))
        self._jobs.add(job)
        job.add_done_callback(self._forget)
        issued = await asyncio.shield(job)
        return replace(issued, key_is_shared=True) if is_shared else issued

    def foresee(self, identity: SpiffeId, ttl_seconds: int, holder: str) -> TtlGrant:
        """The lifetime that an order of `holder` would be granted now; nothing is issued.

        Raises:
            AppError: what `issue` would raise for want of room or because of the lifetime.
        """
        self._check_room()
        return self._grant(identity, ttl_seconds, holder, self._state, self._clock.now())

    def _check_room(self) -> None:
        if self._draining:
            raise AppError(ErrorCode.UNAVAILABLE, "shutting down; try again")
        if len(self._jobs) >= self._limits.max_in_flight:
            raise AppError(ErrorCode.OVERLOADED, "too many certificates are being issued; try again")

    def _grant(self, identity: SpiffeId, ttl_seconds: int, holder: str, state: IssuingState, now: datetime) -> TtlGrant:
        _, _, namespace, _, account = identity.path.split("/")
        return self._rules.lifetimes.grant(
            ttl_seconds,
            namespace=namespace,
            service_account=account,
            spread_by=holder,
            now=now,
            chain_not_after=state.authority.not_after,
            converge_by=self.converge_by,
        )

    def _claim_key(self, order: Order, grant: TtlGrant, now: datetime) -> bool:
        """Whether the key is somebody else's, too; refuses keys that must not be certified."""
        hashed = key_hash(order.csr.public_key_der)
        self._rules.keys.check_blocked(hashed)
        if not order.holder:
            return False
        until = now + timedelta(seconds=grant.seconds)
        return self._rules.keys.claim(CertifiedKey(key_hash=hashed, holder=order.holder, not_after=until), now=now)

    async def drain(self) -> None:
        """Take no more orders and wait until every job has ended."""
        self._draining = True
        while self._jobs:
            await asyncio.wait(tuple(self._jobs))

    async def _sign_on_record(
        self, order: Order, grant: TtlGrant, prepared: PreparedSvid, state: IssuingState, now: datetime
    ) -> Issued:
        detail = _detail(order, grant, prepared)
        try:
            async with asyncio.timeout(self._limits.max_job_seconds):
                await self._ledger.append(_intent(order, detail, prepared, now))
                self._check_quarantine(order)  # once more: the intent may have waited for the disk
                signature = await state.signer.sign(prepared.tbs)
                svid = assemble(prepared, signature)
                chain = cert_chain(svid, state.authority, state.bundle)
                check_as_ztunnel(chain, str(order.identity))
                state.path.check(svid, now=now)
                await self._ledger.append(_record(order, detail, svid, state.bundle, self._clock.now()))
        except TimeoutError:
            raise AppError(
                ErrorCode.UNAVAILABLE,
                "the certificate could not be recorded in time; try again",
                diagnosis=f"ledger or signer took longer than {self._limits.max_job_seconds:.3g} s",
            ) from None
        return Issued(svid=svid, grant=grant, chain=chain)

    def _check_quarantine(self, order: Order) -> None:
        if order.serving_names != NO_SERVING_NAMES:
            # Our own listener, with a key made a moment ago: without it nobody could reach us to lift anything.
            return
        node, cluster = str(order.detail.get("node", "")), str(order.detail.get("cluster", ""))
        self._quarantines.check(identity=str(order.identity), node=node, cluster=cluster, serial=order.presented_serial)
        if order.caller:
            self._quarantines.check(identity=order.caller)

    def _forget(self, job: asyncio.Task[Issued]) -> None:
        self._jobs.discard(job)
        # Retrieved here too, because the call that would have taken the exception may be gone.
        if not job.cancelled() and (error := job.exception()) is not None and not isinstance(error, AppError):
            _log.error("issuance_job_crashed", error=repr(error))


def _detail(order: Order, grant: TtlGrant, prepared: PreparedSvid) -> dict[str, Any]:
    """What both entries of one certificate say."""
    return {
        **order.detail,
        "serial": prepared.serial_hex,
        "authority": prepared.authority.id,
        "notBefore": _instant(prepared.not_before),
        "notAfter": _instant(prepared.not_after),
        "ttlRequested": order.ttl_seconds,
        "ttlGranted": grant.seconds,
        "ttlClamp": grant.clamp.value,
        "ttlSpread": grant.spread_seconds,
    }


def _intent(order: Order, detail: Mapping[str, Any], prepared: PreparedSvid, now: datetime) -> LedgerEntry:
    detail = {**detail, "tbsSha256": prepared.tbs_sha256, "keyType": order.csr.key_type}
    return _entry(EntryKind.CERTIFICATE_INTENT, order, now, detail)


def _record(
    order: Order, detail: Mapping[str, Any], svid: IssuedSvid, bundle: TrustBundle, now: datetime
) -> LedgerEntry:
    detail = {
        **detail,
        "certificate": base64.b64encode(svid.der).decode("ascii"),
        "certificateSha256": svid.sha256,
        "keySha256": hashlib.sha256(order.csr.public_key_der).hexdigest(),
        "bundle": bundle.fingerprint,
    }
    return _entry(EntryKind.CERTIFICATE_ISSUED, order, now, detail)


def _entry(kind: EntryKind, order: Order, now: datetime, detail: Mapping[str, Any]) -> LedgerEntry:
    return LedgerEntry(
        kind=kind,
        time=now,
        actor=order.actor,
        subject=str(order.identity),
        request_id=order.request_id,
        detail=detail,
    )


def _instant(moment: datetime) -> str:
    """A time in UTC, of whole seconds."""
    return moment.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
