"""What authorities do by themselves: a successor in time, its activation, and forgetting what nobody needs.

Works on every replica: what is done is fenced by the epoch, so that two that see the same chore do it once.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from app.authority.authorities import Authorities
from app.authority.authority_ports import AuthorityRole, AuthorityState
from app.authority.authority_set import AuthoritySet
from app.authority.commit_authorities import AuthorityChange, with_states
from app.ca.lifecycle import Allowed, Fleet, Member, Step, judge
from app.ca.lifecycle_chores import Chore, Due, due_chore
from app.errors import AppError, ErrorCode

_log = structlog.get_logger(__name__)

_ACTOR = "system"
_FIRST_RETRY = timedelta(seconds=10)
_MAX_STEPS = 16  # chores of one turn; each leaves the next to be seen
_LOOK = timedelta(minutes=5)
_WARN_SHARES = (0.9, 0.75, 0.5)  # of a life that is over, when nothing renews by itself


class ChoreObserver(Protocol):
    """Hears how chores go, for metrics."""

    def chore_done(self, chore: str) -> None:
        """One was done."""
        ...

    def chore_failed(self, chore: str) -> None:
        """One could not be done, and will be tried again."""
        ...

    def fleet_seen(self, fleet: Fleet) -> None:
        """How the authorities stand."""
        ...


class AuthorityChores:
    """Looks every few seconds whether something is due."""

    def __init__(
        self,
        authorities: Authorities,
        *,
        prepare_at: float = 0.5,
        automatic: bool = True,
        observer: ChoreObserver | None = None,
    ) -> None:
        self._authorities = authorities
        self._prepare_at = prepare_at
        self._automatic = automatic
        self._observer = observer
        self._not_before: datetime | None = None  # of the next attempt to prepare
        self._pause = _FIRST_RETRY
        self._looked_at: datetime | None = None
        self._warned: dict[str, float] = {}

    async def run(self) -> None:
        """Do chores for ever; a failure is logged and tried again later."""
        while True:
            await asyncio.sleep(self._authorities.limits.chore_seconds)
            try:
                await self.turn()
            except AppError as error:
                _log.warning("authority_chore_failed", reason=error.detail, diagnosis=error.diagnosis)

    async def turn(self) -> list[Due]:
        """Do what is due now.

        Raises:
            AppError: what the store raises.
        """
        done: list[Due] = []
        for _ in range(_MAX_STEPS):
            now = self._authorities.clock.now()
            if not self._may_be_due(self._authorities.in_force.known, now) and not self._is_time_to_look(now):
                return done
            known, fleet = await self._authorities.read_fleet()
            if self._observer is not None:
                self._observer.fleet_seen(fleet)
            due = self._due(known, fleet, now)
            if due is None or not await self._do(due, known, fleet, now):
                self._warn_of_end(known, fleet, now)
                return done
            done.append(due)
        return done

    def _may_be_due(self, known: AuthoritySet, now: datetime) -> bool:
        """Whether it is worth to read who holds what, which costs something in a large mesh."""
        longest = self._authorities.rules.longest_life
        for row in known.rows:
            member = known.member(row, {})
            passed = member.share_passed(now)
            match AuthorityState(row.state):
                case AuthorityState.PREPARED if row.automatic:
                    return True
                case AuthorityState.RETIRING if row.role != AuthorityRole.ROOT:
                    if passed >= 1 or member.since + longest <= now:
                        return True
                case AuthorityState.ACTIVE if row.role == AuthorityRole.ISSUING and passed >= self._prepare_at:
                    return True
        return False

    def _is_time_to_look(self, now: datetime) -> bool:
        """Every few minutes, for the metrics and the warnings."""
        if self._looked_at is not None and timedelta(0) <= now - self._looked_at < _LOOK:
            return False
        self._looked_at = now
        return True

    def _due(self, known: AuthoritySet, fleet: Fleet, now: datetime) -> Due | None:
        may_prepare = self._automatic and (self._not_before is None or now >= self._not_before)
        return due_chore(
            fleet,
            self._authorities.rules,
            now,
            prepare_at=self._prepare_at,
            can_prepare=may_prepare and self._has_online_parent(known, now),
            automatic=[row.id for row in known.rows if row.automatic],
        )

    def _has_online_parent(self, known: AuthoritySet, now: datetime) -> bool:
        """Whether a successor could be had by itself, and would live longer than what is there."""
        active = known.active()
        if active is None or active.source == "files":
            return False  # files renew by being replaced
        if self._authorities.maker.has_upstream:
            return True
        root = next((row for row in known.rows if row.id == active.root_id), None)
        if root is None or not (root.sealed_key or root.key_ref):
            return False
        end = known.certificates[root.id].not_valid_after_utc
        return end > known.certificates[active.id].not_valid_after_utc and end > now

    async def _do(self, due: Due, known: AuthoritySet, fleet: Fleet, now: datetime) -> bool:
        try:
            if due.chore is Chore.PREPARE:
                await self._prepare(known, due.authority_id, now)
            else:
                await self._step(Step(due.chore.value), known, fleet, due.authority_id, now)
        except AppError as error:
            if error.code is ErrorCode.CONFLICT:  # another replica does it
                return False
            self._failed(due, error, now)
            return False
        self._not_before, self._pause = None, _FIRST_RETRY
        _log.info("authority_chore_done", chore=due.chore.value, authority=due.authority_id)
        if self._observer is not None:
            self._observer.chore_done(due.chore.value)
        return True

    def _failed(self, due: Due, error: AppError, now: datetime) -> None:
        _log.error(
            "authority_chore_failed",
            chore=due.chore.value,
            authority=due.authority_id,
            reason=error.detail,
            diagnosis=error.diagnosis,
            retry_seconds=self._pause.total_seconds(),
        )
        if self._observer is not None:
            self._observer.chore_failed(due.chore.value)
        if due.chore is Chore.PREPARE:
            self._not_before = now + self._pause
            self._pause = min(2 * self._pause, timedelta(seconds=self._authorities.limits.retry_max_seconds))

    async def _prepare(self, known: AuthoritySet, root_id: str, now: datetime) -> None:
        made = await self._authorities.maker.issuing(known, root_id, now)
        rows = (*made[:-1], replace(made[-1], automatic=True))
        change = AuthorityChange(
            transition="issuing.prepared",
            actor=_ACTOR,
            subject=rows[-1].id,
            now=now,
            base=known.epoch,
            added=rows,
            detail={"automatic": True},
        )
        try:
            await self._authorities.commit(change)
        except AppError:
            await self._authorities.maker.close(rows[-1].id)
            raise

    async def _step(self, step: Step, known: AuthoritySet, fleet: Fleet, authority_id: str, now: datetime) -> None:
        verdict = judge(step, authority_id, fleet, self._authorities.rules, now)
        if not isinstance(verdict, Allowed):
            return
        await self._authorities.commit(
            AuthorityChange(
                transition=step.value,
                actor=_ACTOR,
                subject=authority_id,
                now=now,
                base=known.epoch,
                replaced=with_states(known, verdict.changes, now),
                detail={"automatic": True},
            )
        )

    def _warn_of_end(self, known: AuthoritySet, fleet: Fleet, now: datetime) -> None:
        """Say in time what nobody renews by itself, once for each threshold."""
        active = fleet.active()
        if active is None:
            return
        if not self._has_online_parent(known, now):
            self._warn(active, "gatehouse ca csr, have it signed, then gatehouse ca import FILE", now)
        root = fleet.members.get(active.root_id)
        if root is not None:
            self._warn(root, "gatehouse ca rotate root, or put files under a new root in place", now)

    def _warn(self, member: Member, advice: str, now: datetime) -> None:
        if member.not_after is None:
            return
        passed = member.share_passed(now)
        share = next((share for share in _WARN_SHARES if passed >= share), 0.0)
        if share <= self._warned.get(member.id, 0.0):
            return
        self._warned[member.id] = share
        _log.warning(
            "authority_ends", authority=member.id, role=member.role, ends=member.not_after.isoformat(), do=advice
        )
