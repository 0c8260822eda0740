"""Let the whole mesh renew its certificates by a deadline.

Node proxies renew at half of a certificate's life and cannot be told to do it sooner. But they can be given shorter
lives: from the start on, every certificate is so short that its renewal falls before the deadline. What was issued
before cannot be called back; who holds a certificate that is renewed later than the deadline is counted and listed.
A convergence is stored, so all replicas act on it, recorded in the ledger, and ends by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import structlog

from app.authority.actor import Actor, Role
from app.authority.ports import Clock
from app.authority.reasons import check_reason
from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind, LedgerEntry
from app.limits import CertificateLimits, Limits

_log = structlog.get_logger()

MAX_SHOWN_LATE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Convergence:
    """One deadline. `started_by` is who set it."""

    started_at: datetime
    deadline: datetime
    started_by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LateRenewal:
    """A certificate that is renewed only after the deadline."""

    identity: str
    node: str
    cluster: str
    renews_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvergenceProgress:
    """How many identities on nodes hold a certificate, by their newest one.

    `renewed` since the start, `pending`: older, and due before the deadline, `late`: due only after it (`latest`
    lists the last of them).
    """

    renewed: int
    pending: int
    late: int
    latest: Sequence[LateRenewal] = ()


class ConvergenceStore(Protocol):
    """Where deadlines rest."""

    async def current_convergence(self, now: datetime) -> Convergence | None:
        """The one that holds: not ended, and its deadline in the future."""
        ...

    async def begin_convergence(self, convergence: Convergence, entry: LedgerEntry) -> None:
        """Store one and end the one before, with the entry that records it, in one transaction."""
        ...

    async def end_convergence(self, now: datetime, entry: LedgerEntry) -> bool:
        """End the one that holds, with the entry that records it; False, and no entry, when none does."""
        ...

    async def convergence_progress(
        self, convergence: Convergence, *, now: datetime, backdate: timedelta, limit: int
    ) -> ConvergenceProgress:
        """How far it is; lists at most `limit` late ones."""
        ...


@dataclass(frozen=True, slots=True)
class ConvergenceStatus:
    """What holds now, and how far it is."""

    convergence: Convergence | None
    progress: ConvergenceProgress | None

    def to_json(self, now: datetime) -> dict[str, Any]:
        """What the API shows."""
        if self.convergence is None or self.progress is None:
            return {"active": False}
        return {
            "active": True,
            "startedAt": self.convergence.started_at.isoformat(),
            "deadline": self.convergence.deadline.isoformat(),
            "secondsLeft": max(0, int((self.convergence.deadline - now).total_seconds())),
            "startedBy": self.convergence.started_by,
            "reason": self.convergence.reason,
            "renewed": self.progress.renewed,
            "pending": self.progress.pending,
            "late": self.progress.late,
            "latest": [
                {
                    "identity": each.identity,
                    "node": each.node,
                    "cluster": each.cluster,
                    "renewsAt": each.renews_at.isoformat(),
                }
                for each in self.progress.latest
            ],
        }


class ConvergeMesh:
    """Starts, cancels and shows convergences, and tells the issuer of the one that holds."""

    def __init__(self, store: ConvergenceStore, *, clock: Clock, limits: Limits) -> None:
        self._store = store
        self._clock = clock
        self._limits: CertificateLimits = limits.certificate
        self._max_reason_chars = limits.policy.max_reason_chars
        self._current: Convergence | None = None

    def deadline(self) -> datetime | None:
        """Until when certificates that are issued now shall have been renewed; None when nothing converges."""
        current = self._current
        return current.deadline if current is not None and current.deadline > self._clock.now() else None

    async def start(self, actor: Actor, *, by: datetime, reason: str = "") -> ConvergenceStatus:
        """Set a deadline in place of the one before.

        Raises:
            AppError: `PERMISSION_DENIED`; `INVALID` when nobody could renew so soon, or when it is so far away that
                every certificate has ended before; `UNAVAILABLE`.
        """
        actor.require(Role.ADMIN)
        reason = check_reason(reason, self._max_reason_chars)
        now = self._clock.now()
        shortest, longest = self._limits.min_ttl_seconds, self._limits.max_ttl_seconds
        if not timedelta(seconds=shortest) <= by - now <= timedelta(seconds=longest):
            raise AppError(
                ErrorCode.INVALID,
                f"the deadline must lie between {shortest} s (the shortest certificate) and {longest} s "
                "(the longest) from now",
            )
        convergence = Convergence(started_at=now, deadline=by, started_by=actor.label, reason=reason)
        detail = {"act": "ca.converge", "deadline": _instant(by), "reason": reason}
        await self._store.begin_convergence(convergence, _entry(actor, now, detail))
        self._current = convergence
        _log.info("convergence_started", deadline=_instant(by), actor=actor.label, reason=reason)
        return await self.status(actor)

    async def cancel(self, actor: Actor, *, reason: str = "") -> ConvergenceStatus:
        """End the one that holds.

        Raises:
            AppError: `PERMISSION_DENIED`; `NOT_FOUND` when none holds; `UNAVAILABLE`.
        """
        actor.require(Role.ADMIN)
        reason = check_reason(reason, self._max_reason_chars)
        now = self._clock.now()
        entry = _entry(actor, now, {"act": "ca.converge.cancel", "reason": reason})
        if not await self._store.end_convergence(now, entry):
            raise AppError(ErrorCode.NOT_FOUND, "nothing converges now, so there is nothing to cancel")
        self._current = None
        _log.info("convergence_cancelled", actor=actor.label, reason=reason)
        return ConvergenceStatus(None, None)

    async def status(self, actor: Actor) -> ConvergenceStatus:
        """What holds now, and how far it is.

        Raises:
            AppError: `PERMISSION_DENIED`, `UNAVAILABLE`.
        """
        actor.require(Role.ADMIN)
        now = self._clock.now()
        convergence = await self._store.current_convergence(now)
        if convergence is None:
            return ConvergenceStatus(None, None)
        progress = await self._store.convergence_progress(
            convergence,
            now=now,
            backdate=timedelta(seconds=self._limits.backdate_seconds),
            limit=MAX_SHOWN_LATE,
        )
        return ConvergenceStatus(convergence, progress)

    async def refresh(self) -> None:
        """Read what holds.

        Raises:
            AppError: `UNAVAILABLE` when the database cannot be asked.
        """
        self._current = await self._store.current_convergence(self._clock.now())

    async def run(self) -> None:
        """Follow what other replicas start and cancel, for ever."""
        while True:
            await asyncio.sleep(self._limits.converge_poll_seconds)
            try:
                await self.refresh()
            except AppError as error:
                _log.warning("convergence_not_read", reason=error.detail)


def _entry(actor: Actor, now: datetime, detail: dict[str, Any]) -> LedgerEntry:
    return LedgerEntry(
        kind=EntryKind.ADMIN_ACT,
        time=now,
        actor=actor.label,
        subject="ca:convergence",
        request_id=actor.request_id,
        detail=detail,
    )


def _instant(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
