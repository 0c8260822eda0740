"""What authorities do by themselves: a successor in time, its activation, and forgetting what nobody needs.

Works on every replica: what is done is fenced by the epoch, so that two that see the same chore do it once.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from app.authority.authorities.authorities import Authorities
from app.authority.authorities.authority_ports import AuthorityRole, AuthorityState, StoredAuthority
from app.authority.authorities.authority_set import AuthoritySet
from app.authority.authorities.commit_authorities import AuthorityChange, with_states
from app.ca.lifecycle import Allowed, Fleet, Member, Step, judge
from app.ca.lifecycle_chores import Chore, Due, due_chore
from app.errors import AppError, ErrorCode

_log = structlog.get_logger(__name__)

_ACTOR = "system"
_FIRST_RETRY = timedelta(seconds=10)
_ATTEMPTS = 3  # to store what a parent signed while others change something
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
        self._asking: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Do chores for ever; a failure is logged and tried again later."""
        try:
            while True:
                await asyncio.sleep(self._authorities.limits.chore_seconds)
                try:
                    await self.turn()
                except AppError as error:
                    _log.warning("authority_chore_failed", reason=error.detail, diagnosis=error.diagnosis)
        finally:
            if self._asking is not None:
                self._asking.cancel()

    async def parent_answered(self) -> None:
        """Wait until the parent that is being asked for a successor has answered; at once where none is."""
        if self._asking is not None:
            await self._asking

    async def turn(self) -> list[Due]:
        """Do what is due now; a parent elsewhere is asked beside it, for its answer may take minutes.

        Nothing is due while the clock is wrong: by it everything may look as if it had ended.

        Raises:
            AppError: what the store raises.
        """
        done: list[Due] = []
        for _ in range(_MAX_STEPS):
            if not self._authorities.clock.is_right:
                return done
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
        is_time = self._not_before is None or now >= self._not_before
        may_prepare = self._automatic and is_time and (self._asking is None or self._asking.done())
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
        if due.chore is Chore.PREPARE and self._authorities.maker.has_upstream:
            self._asking = asyncio.create_task(self._ask_parent(due, known, fleet, now))
            return False
        return await self._do_now(due, known, fleet, now)

    async def _ask_parent(self, due: Due, known: AuthoritySet, fleet: Fleet, now: datetime) -> None:
        try:
            await self._do_now(due, known, fleet, now)
        except Exception:  # noqa: BLE001 - whatever it is: nobody awaits this, and the next turn asks again
            _log.exception("authority_chore_crashed", chore=due.chore.value)

    async def _do_now(self, due: Due, known: AuthoritySet, fleet: Fleet, now: datetime) -> bool:
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
        """Have a successor made and store it.

        A parent may take minutes to sign it; what others changed meanwhile does not make its answer worthless, unless
        it was that there is another successor.
        """
        maker = self._authorities.maker
        made = await maker.issuing(known, root_id, now)
        made = (*made[:-1], replace(made[-1], automatic=True))
        try:
            await self._store(made, known, now)
        except AppError:
            await maker.close(made[-1].id)
            raise

    async def _store(self, made: tuple[StoredAuthority, ...], known: AuthoritySet, now: datetime) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await self._authorities.commit(_prepared(made, known.epoch, now))
            except AppError as error:
                later, _ = await self._authorities.read_fleet()
                if error.code is not ErrorCode.CONFLICT or attempt == _ATTEMPTS or _has_successor(known, later):
                    raise
                made, known = self._authorities.maker.moved(made, known, later, now), later
            else:
                return

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


def _prepared(made: tuple[StoredAuthority, ...], base: int, now: datetime) -> AuthorityChange:
    return AuthorityChange(
        transition="issuing.prepared",
        actor=_ACTOR,
        subject=made[-1].id,
        now=now,
        base=base,
        added=made,
        detail={"automatic": True},
    )


def _has_successor(before: AuthoritySet, known: AuthoritySet) -> bool:
    """Whether somebody else was faster: another one is active, or prepared without being asked."""
    return before.active() != known.active() or any(
        row.role == AuthorityRole.ISSUING and row.state == AuthorityState.PREPARED and row.automatic
        for row in known.rows
    )
