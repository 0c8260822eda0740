"""Admission: how many certificate requests are worked on at once, and whose turn is next.

Everything before it is cheap (who calls, may they, how often), everything after it is not. With a thousand node proxies
that ask at once everybody waits for a thousand certificates, unless somebody decides who must not: the order is
`WaitingLine`'s. Whoever would wait for too long is refused at once, because a refusal that comes after the wait costs
the node proxy both. All ports share one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Protocol

from app.authority.certificates.waiting_line import Urgency, Waiter, WaitingLine
from app.authority.ports import MonotonicClock
from app.errors import AppError, ErrorCode
from app.limits import AdmissionLimits

# How much of the longest wait may be foreseen at the arrival. In a long overload everybody who is let in waits that
# long; the rest is for what nobody foresaw, so that few wait in vain. The only request of a node may hope for more: a
# node proxy that warms up goes on to its next identity as soon as it is refused, so refusing it would make load.
_FORESEEN = 0.8
_FORESEEN_OF_THE_ONLY = 2.0


class AdmissionObserver(Protocol):
    """Counts what happens; metrics implement it."""

    def waited(self, urgency: Urgency, seconds: float) -> None:
        """A request that had to wait got its turn."""
        ...

    def shed(self, urgency: Urgency) -> None:
        """A request was refused for load."""
        ...


class NoObserver:
    """Counts nothing."""

    def waited(self, urgency: Urgency, seconds: float) -> None:
        """Nothing."""

    def shed(self, urgency: Urgency) -> None:
        """Nothing."""


class Admission:
    """Hands out turns; belongs to one event loop."""

    def __init__(
        self, limits: AdmissionLimits, clock: MonotonicClock, observer: AdmissionObserver | None = None
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._observer = observer or NoObserver()
        self._line = WaitingLine(limits)
        self._turns: dict[Waiter, asyncio.Future[None]] = {}
        self._at_work = 0
        self._missing: Counter[str] = Counter()  # by node, requests under way for what it has no certificate for

    @property
    def at_work(self) -> int:
        """How many requests have their turn now."""
        return self._at_work

    def waiting(self, urgency: Urgency) -> int:
        """How many requests of that urgency wait."""
        return self._line.waiting(urgency)

    def urgency(self, in_force_until: datetime | None, *, now: datetime) -> Urgency:
        """How urgent a certificate is, by the end of the one that is in force, if one is."""
        if in_force_until is None or in_force_until <= now:
            return Urgency.MISSING
        near_end = timedelta(seconds=self._limits.near_end_seconds)
        return Urgency.ENDING if in_force_until - now <= near_end else Urgency.LASTING

    @asynccontextmanager
    async def turn(self, node: str, urgency: Urgency) -> AsyncIterator[None]:
        """Wait for a turn; it lasts as long as the context is open.

        Raises:
            AppError: `OVERLOADED`, mostly at once.
        """
        if urgency is not Urgency.MISSING:
            await self._begin(node, urgency)
        else:
            # A node proxy warms up with one call at a time, so of two such a connection waits for one: which of the
            # two cannot be known.
            if self._missing[node]:
                self._line.hurry(node, now=self._clock.monotonic())
                urgency = Urgency.AWAITED
            self._missing[node] += 1
            try:
                await self._begin(node, urgency)
            except BaseException:
                self._no_more_missing(node)
                raise
        try:
            yield
        finally:
            self._end()
            if urgency <= Urgency.MISSING:
                self._no_more_missing(node)

    async def _begin(self, node: str, urgency: Urgency) -> None:
        if self._at_work < self._limits.max_at_work:  # then nobody waits
            self._at_work += 1
            return
        now = self._clock.monotonic()
        hope = _FORESEEN if self._line.waits(node) else _FORESEEN_OF_THE_ONLY
        if self._line.seconds_until(node, urgency, now=now) > hope * self._limits.max_wait_seconds:
            raise self._shed(urgency, "its turn would come too late")
        waiter = Waiter(node, urgency, now)
        turn = self._turns[waiter] = asyncio.get_running_loop().create_future()
        displaced = self._line.join(waiter)
        if displaced is not None and not (theirs := self._turns[displaced]).done():
            theirs.set_exception(self._shed(displaced.urgency, "too many wait that are more urgent"))
        try:
            async with asyncio.timeout(self._limits.max_wait_seconds):
                await turn
        except TimeoutError:
            self._give_up(waiter, turn)
            raise self._shed(waiter.urgency, "its turn did not come in time") from None
        except BaseException:
            self._give_up(waiter, turn)
            raise
        self._observer.waited(waiter.urgency, self._clock.monotonic() - now)

    def _give_up(self, waiter: Waiter, turn: asyncio.Future[None]) -> None:
        """Wait no more; a turn that has come in the same moment goes to the next."""
        self._turns.pop(waiter, None)
        self._line.leave(waiter)
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            self._end()

    def _end(self) -> None:
        """A turn is over."""
        self._at_work -= 1
        while self._at_work < self._limits.max_at_work:
            waiter = self._line.take(now=self._clock.monotonic())
            if waiter is None:
                return
            turn = self._turns.pop(waiter)
            if not turn.done():  # else its call is being cancelled
                self._at_work += 1
                turn.set_result(None)

    def _no_more_missing(self, node: str) -> None:
        self._missing[node] -= 1
        if not self._missing[node]:
            del self._missing[node]

    def _shed(self, urgency: Urgency, why: str) -> AppError:
        self._observer.shed(urgency)
        return AppError(
            ErrorCode.OVERLOADED,
            "too many certificates are asked for at once; try again",
            diagnosis=f"overload: {why} ({len(self._line)} wait)",
        )
