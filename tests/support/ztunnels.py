"""Simulated ztunnels: how a stock ztunnel asks for certificates, without what it does with them.

What is kept of it: at most eight calls in flight on one connection, no deadline, duplicates coalesced by identity,
connections that wait before warm-up before renewals, a serial warm-up, renewal at half of the certificate's life
without jitter, and after a failure a back-off by identity of 1 s, doubled up to 150 s, each time +-20 %; after 15
minutes of failing 150 s flat. Every failure is alike. A certificate is kept until it expires.

Time is a `Pace`: simulated seconds pass `factor` times as fast as real ones, so that an outage of ten minutes fits
into a test. What the authority needs in real time (a flush, a signature) does not shrink with it.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol, Self

import grpc

from app.demo.node_agent import CertificateRefused, NodeAgent, WorkloadCertificate


class Pace:
    """Simulated seconds, `factor` of them in a real one."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self._started = time.monotonic()

    def now(self) -> float:
        """Simulated seconds since the start."""
        return (time.monotonic() - self._started) * self.factor

    async def sleep(self, seconds: float) -> None:
        """Wait for simulated seconds."""
        await asyncio.sleep(seconds / self.factor)


class Priority(IntEnum):
    """What is served first."""

    REAL_TIME = 0  # a connection waits
    WARM_UP = 1
    BACKGROUND = 2  # a renewal


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A stock ztunnel's numbers, in seconds."""

    max_in_flight: int = 8
    first_back_off: float = 1.0
    back_off_factor: float = 2.0
    max_back_off: float = 150.0
    jitter: float = 0.2
    max_elapsed: float = 900.0  # of failing; then `max_back_off` flat


class Source(Protocol):
    """Where certificates come from."""

    async def fetch(self, identity: str) -> WorkloadCertificate:
        """A certificate.

        Raises:
            CertificateRefused: when there is none.
        """
        ...

    async def close(self) -> None:
        """Give the connection up."""
        ...


@dataclass(slots=True)
class _Connection:
    """An agent, how many calls are under way on it, and whether it takes no more."""

    agent: NodeAgent
    calls: int = 0
    is_broken: bool = False


class AgentSource:
    """A real node agent; a connection that broke is not waited for, the next call makes a new one, as hyper does.

    (gRPC would wait between two attempts to connect, by a back-off of its own that a ztunnel does not have.)
    """

    def __init__(self, connect: Callable[[], NodeAgent], *, ttl_seconds: int = 86_400) -> None:
        self._connect = connect
        self._ttl_seconds = ttl_seconds
        self._connection: _Connection | None = None

    async def fetch(self, identity: str) -> WorkloadCertificate:
        if self._connection is None or self._connection.is_broken:
            self._connection = _Connection(self._connect())
        connection = self._connection
        connection.calls += 1
        try:
            return await connection.agent.fetch(identity, self._ttl_seconds)
        except CertificateRefused as refused:
            if refused.code is grpc.StatusCode.UNAVAILABLE and not refused.request_id:  # nobody answered
                connection.is_broken = True
            raise
        finally:
            connection.calls -= 1
            if connection.is_broken and not connection.calls:  # closing it would cancel the others' calls
                await connection.agent.close()

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.agent.close()


@dataclass
class Tally:
    """What all ztunnels of a run saw; latencies are real seconds."""

    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)  # answered with a refusal, by request id
    codes: Counter[str] = field(default_factory=Counter)
    unanswered: Counter[str] = field(default_factory=Counter)  # what the transport said by itself
    serials: list[int] = field(default_factory=list)
    most_in_flight: int = 0  # of one ztunnel

    def percentile(self, values: Sequence[float], share: float) -> float:
        """The value below which `share` of them are."""
        ordered = sorted(values)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


@dataclass(slots=True)
class _Held:
    """An identity as a ztunnel holds it. Times are simulated seconds."""

    priority: Priority
    due: float
    certificate: WorkloadCertificate | None = None
    valid_until: float = 0.0
    fetched_at: float | None = None
    failures: int = 0
    failing_since: float | None = None
    in_flight: bool = False
    answered: asyncio.Event = field(default_factory=asyncio.Event)


class Ztunnel:
    """One node's ztunnel. `run` it beside what asks it for identities."""

    def __init__(
        self,
        source: Source,
        *,
        pace: Pace,
        tally: Tally,
        rules: Rules | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self._source = source
        self._pace = pace
        self._tally = tally
        self._rules = rules or Rules()
        self._chance = chance or random.Random()
        self._held: dict[str, _Held] = {}
        self._queue: list[tuple[float, str]] = []  # by due time; outdated items are skipped
        self._ready: list[tuple[Priority, float, str]] = []
        self._news = asyncio.Event()
        self._in_flight = 0
        self._calls: set[asyncio.Task[None]] = set()

    def want(self, identity: str, priority: Priority, *, due: float | None = None) -> None:
        """Have a certificate for an identity fetched; asking again only raises the priority."""
        due = self._pace.now() if due is None else due
        held = self._held.get(identity)
        if held is None:
            held = self._held[identity] = _Held(priority, due)
        elif held.in_flight or (held.priority <= priority and held.due <= due):
            return
        else:
            held.priority, held.due = min(held.priority, priority), min(held.due, due)
        self._schedule(identity, held)

    def hold(self, identity: str, certificate: WorkloadCertificate, *, valid_for: float, due_in: float) -> None:
        """Start with a certificate that was fetched before."""
        now = self._pace.now()
        held = _Held(Priority.BACKGROUND, now + due_in, certificate, valid_until=now + valid_for)
        self._held[identity] = held
        self._schedule(identity, held)

    async def fetch(self, identity: str, priority: Priority = Priority.REAL_TIME) -> WorkloadCertificate | None:
        """The certificate after the next answer, as a connection that waits sees it: None is an error for it."""
        held = self._held.get(identity)
        if held is not None and held.certificate is not None:
            return held.certificate
        self.want(identity, priority)
        await self._held[identity].answered.wait()
        return self._held[identity].certificate

    async def warm_up(self, identities: Iterable[str]) -> None:
        """One identity after the other, each until its first answer, as the prefetch loop does."""
        for identity in identities:
            await self.fetch(identity, Priority.WARM_UP)

    def valid(self, *, now: float | None = None) -> list[str]:
        """Identities with a certificate that has not expired."""
        now = self._pace.now() if now is None else now
        return [name for name, held in self._held.items() if held.certificate and held.valid_until > now]

    def fetched_since(self, moment: float) -> list[str]:
        """Identities whose certificate came at or after a simulated moment."""
        return [name for name, held in self._held.items() if held.fetched_at is not None and held.fetched_at >= moment]

    async def run(self) -> None:
        """Fetch what is due, for ever."""
        try:
            while True:
                self._news.clear()
                self._start_calls()
                pause = (self._queue[0][0] - self._pace.now()) / self._pace.factor if self._queue else None
                try:
                    async with asyncio.timeout(None if pause is None else max(0.0, pause)):
                        await self._news.wait()
                except TimeoutError:
                    continue
        finally:
            for call in self._calls:
                call.cancel()
            await asyncio.gather(*self._calls, return_exceptions=True)
            await self._source.close()

    def _schedule(self, identity: str, held: _Held) -> None:
        heapq.heappush(self._queue, (held.due, identity))
        self._news.set()

    def _start_calls(self) -> None:
        now = self._pace.now()
        while self._queue and self._queue[0][0] <= now:
            due, identity = heapq.heappop(self._queue)
            held = self._held[identity]
            if due == held.due and not held.in_flight:
                heapq.heappush(self._ready, (held.priority, due, identity))
        while self._ready and self._in_flight < self._rules.max_in_flight:
            _, due, identity = heapq.heappop(self._ready)
            held = self._held[identity]
            if held.in_flight or due != held.due:
                continue
            held.in_flight = True
            self._in_flight += 1
            self._tally.most_in_flight = max(self._tally.most_in_flight, self._in_flight)
            call = asyncio.create_task(self._call(identity, held))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self, identity: str, held: _Held) -> None:
        started = time.monotonic()
        try:
            certificate = await self._source.fetch(identity)
        except CertificateRefused as refused:
            if refused.request_id:
                self._tally.refused.append(time.monotonic() - started)
            else:
                self._tally.unanswered[f"{refused.code.name}: {refused.message}"[:80]] += 1
            self._tally.codes[refused.code.name] += 1
            self._failed(held)
        else:
            self._tally.accepted.append(time.monotonic() - started)
            self._tally.codes["OK"] += 1
            self._tally.serials.append(certificate.leaf.serial_number)
            self._succeeded(held, certificate)
        finally:
            held.in_flight = False
            self._in_flight -= 1
        held.priority = Priority.BACKGROUND
        held.answered.set()
        self._schedule(identity, held)

    def _succeeded(self, held: _Held, certificate: WorkloadCertificate) -> None:
        leaf, now = certificate.leaf, self._pace.now()
        life = (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds()
        held.certificate, held.valid_until, held.fetched_at = certificate, now + life, now
        held.failures, held.failing_since = 0, None
        # From now on instead of from notBefore: simulated time and the certificate's are not the same.
        held.due = now + life / 2

    def _failed(self, held: _Held) -> None:
        rules, now = self._rules, self._pace.now()
        if held.failing_since is None:
            held.failing_since = now
        if now - held.failing_since > rules.max_elapsed:
            wait = rules.max_back_off
        else:
            wait = min(rules.max_back_off, rules.first_back_off * rules.back_off_factor**held.failures)
            wait *= 1 + rules.jitter * (2 * self._chance.random() - 1)
        held.failures += 1
        if held.certificate is not None and held.valid_until > now:
            wait = min(wait, held.valid_until - now)
        held.due = now + wait


class Fleet:
    """Many ztunnels and what they saw together; `async with` runs them."""

    def __init__(
        self,
        sources: Iterable[Source],
        *,
        pace: Pace | None = None,
        rules: Rules | None = None,
        seed: int = 1,
    ) -> None:
        self.pace = pace or Pace()
        self.tally = Tally()
        self.ztunnels = [
            Ztunnel(
                source, pace=self.pace, tally=self.tally, rules=rules, chance=random.Random(seed * 100_003 + number)
            )
            for number, source in enumerate(sources)
        ]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(ztunnel.run()) for ztunnel in self.ztunnels]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def each(self, work: Callable[[Ztunnel, int], Awaitable[None]]) -> None:
        """Do something with every ztunnel at once."""
        await asyncio.gather(*(work(ztunnel, number) for number, ztunnel in enumerate(self.ztunnels)))

    async def until(self, condition: Callable[[], bool], *, within: float) -> float:
        """Until a condition holds, within simulated seconds; how many it took.

        Raises:
            TimeoutError: when it does not.
        """
        started = self.pace.now()
        while not condition():
            if self.pace.now() - started > within:
                raise TimeoutError(f"not within {within} simulated seconds: {dict(self.tally.codes)}")
            await asyncio.sleep(0.02)
        return self.pace.now() - started
