"""The simulated ztunnel keeps to the real one's rules: what benches and outage tests conclude rests on that."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import defaultdict
from types import SimpleNamespace
from typing import Self, cast

import grpc
from cryptography import x509

from app.demo.node_agent import CertificateRefused, WorkloadCertificate
from tests.support.certificates import NOW, make_csr, make_pki
from tests.support.ztunnels import Fleet, Pace, Priority, Tally, Ztunnel

PKI = make_pki()
LEAF = x509.load_der_x509_certificate(PKI.issue(make_csr(), ttl_seconds=3_600, now=NOW).der)
CERTIFICATE = cast("WorkloadCertificate", SimpleNamespace(leaf=LEAF))


class StoppedPace(Pace):
    """Time that a test moves; whoever sleeps is woken by `advance`."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0

    def now(self) -> float:
        return self.time


class Programmed:
    """Answers when it is let, and refuses while told to."""

    def __init__(self, pace: StoppedPace | None = None) -> None:
        self._pace = pace
        self.refuses = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[str] = []
        self.moments: dict[str, list[float]] = defaultdict(list)
        self.running = 0

    async def fetch(self, identity: str) -> WorkloadCertificate:
        self.asked.append(identity)
        if self._pace is not None:
            self.moments[identity].append(self._pace.now())
        self.running += 1
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        if self.refuses:
            raise CertificateRefused(grpc.StatusCode.UNAVAILABLE, "away", "r-1")
        return CERTIFICATE

    async def close(self) -> None:
        """Nothing to close."""


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def advance(ztunnel: Ztunnel, pace: StoppedPace, to: float) -> None:
    pace.time = to
    ztunnel._news.set()
    await settle()


class Running:
    """A ztunnel on a clock that stands still."""

    def __init__(self) -> None:
        self.pace, self.tally = StoppedPace(), Tally()
        self.source = Programmed(self.pace)
        self.ztunnel = Ztunnel(self.source, pace=self.pace, tally=self.tally, chance=random.Random(3))

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.ztunnel.run())
        await settle()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_eight_calls_are_in_flight_and_no_more() -> None:
    """A hung authority stops the whole node after eight."""
    async with Running() as run:
        run.source.gate.clear()
        for number in range(20):
            run.ztunnel.want(f"id-{number}", Priority.BACKGROUND)
        await settle()
        assert 8 == run.source.running == run.tally.most_in_flight
        run.source.gate.set()
        await settle()
        assert 20 == len(run.tally.accepted)


async def test_a_waiting_connection_goes_before_warm_up_and_renewals_and_duplicates_are_one_call() -> None:
    """The queue's order is priority, then time."""
    async with Running() as run:
        run.source.gate.clear()
        for number in range(8):
            run.ztunnel.want(f"busy-{number}", Priority.BACKGROUND)
        await settle()
        run.ztunnel.want("renewal", Priority.BACKGROUND)
        run.ztunnel.want("warm", Priority.WARM_UP)
        run.ztunnel.want("late", Priority.BACKGROUND)
        waiting = [asyncio.create_task(run.ztunnel.fetch("late")) for _ in range(5)]
        await settle()
        run.source.gate.set()
        await settle()
        assert [CERTIFICATE] * 5 == await asyncio.gather(*waiting)
        assert ["late", "warm", "renewal"] == run.source.asked[8:]


async def test_the_back_off_doubles_from_one_second_to_150_and_spreads_by_a_fifth() -> None:
    """And it is by identity; a success starts it anew."""
    async with Running() as run:
        run.source.refuses = True
        run.ztunnel.want("id", Priority.BACKGROUND)
        await settle()
        for second in range(1, 1_800):
            await advance(run.ztunnel, run.pace, float(second))
        moments = run.source.moments["id"]
        waits = [later - earlier for earlier, later in itertools.pairwise(moments)]
        for number, wait in enumerate(waits):
            expected = min(150.0, 2.0**number)
            assert expected * 0.8 - 1 <= wait <= expected * 1.2 + 1
        late = [wait for moment, wait in zip(moments, waits, strict=False) if moment > 900]
        assert {150.0, 151.0} >= set(late) != set()
        run.source.refuses = False
        await advance(run.ztunnel, run.pace, 2_200.0)
        assert ["id"] == run.ztunnel.valid()


async def test_renewal_is_due_at_half_of_the_life_without_jitter() -> None:
    """Backdating counts: 3,600 s and 120 s of backdating make 1,860 s."""
    async with Running() as run:
        await run.ztunnel.fetch("id")
        half = (LEAF.not_valid_after_utc - LEAF.not_valid_before_utc).total_seconds() / 2
        await advance(run.ztunnel, run.pace, half - 0.001)
        assert 1 == len(run.source.asked)
        await advance(run.ztunnel, run.pace, half)
        assert 2 == len(run.source.asked)


async def test_a_certificate_is_kept_until_it_expires_while_renewal_fails() -> None:
    """An outage shorter than half a life costs nobody anything."""
    async with Running() as run:
        await run.ztunnel.fetch("id")
        life = (LEAF.not_valid_after_utc - LEAF.not_valid_before_utc).total_seconds()
        run.source.refuses = True
        for moment in range(0, int(life), 60):
            await advance(run.ztunnel, run.pace, float(moment))
            assert ["id"] == run.ztunnel.valid()
        await advance(run.ztunnel, run.pace, life)
        assert [] == run.ztunnel.valid()


async def test_warm_up_is_serial() -> None:
    """One call at a time, whatever the node holds."""
    async with Fleet([Programmed()]) as fleet:
        await fleet.each(lambda ztunnel, _: ztunnel.warm_up(f"id-{number}" for number in range(30)))
        assert (30, 1) == (len(fleet.tally.accepted), fleet.tally.most_in_flight)
