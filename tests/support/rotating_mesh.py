"""A mesh of simulated workloads on a clock that a test moves: they renew, take bundles over late, and meet."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509

from app.authority.certificates.issue_certificate import Issued
from tests.support.authorities import Kit, believes

SECOND = timedelta(seconds=1)


@dataclass
class Peer:
    """A workload: what it presents, and which bundle it goes by (the one before, until it took the new one over)."""

    name: str
    renews_at: datetime
    chain: list[str] = field(default_factory=list)
    bundle: str = ""
    ends: datetime | None = None
    coming: list[tuple[datetime, Issued]] = field(default_factory=list)

    def take_over(self, now: datetime) -> None:
        """Take over what had the time to arrive."""
        while self.coming and self.coming[0][0] <= now:
            _, issued = self.coming.pop(0)
            self.chain, self.bundle, self.ends = issued.chain, issued.chain[-1], issued.svid.not_after


@dataclass
class Mesh:
    """Peers of one authority. `late` is the longest time that a peer takes to go by what it got."""

    kit: Kit
    peers: list[Peer]
    chance: random.Random
    late: timedelta = timedelta(0)
    ttl_seconds: tuple[int, ...] = (0,)
    issued: list[Issued] = field(default_factory=list)
    failed_issuances: int = 0
    meetings: int = 0
    failed_meetings: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, kit: Kit, size: int, *, seed: int = 7, **changes: object) -> Mesh:
        """A mesh of `size` peers that all ask at once."""
        peers = [Peer(f"peer-{number}", kit.clock.now()) for number in range(size)]
        return cls(kit, peers, random.Random(seed), **changes)  # type: ignore[arg-type]

    async def live(self, length: timedelta, step: timedelta, *, meetings: int) -> None:
        """Let time pass: everybody renews at half of its life, and some pairs meet after each step."""
        end = self.kit.clock.now() + length
        while self.kit.clock.now() < end:
            await self.turn(meetings)
            self.kit.clock.advance(step)
        await self.turn(meetings)

    async def turn(self, meetings: int) -> None:
        """Renew what is due, and let pairs meet."""
        now = self.kit.clock.now()
        await asyncio.gather(*(self.renew(peer, now) for peer in self.peers if now >= peer.renews_at))
        for peer in self.peers:
            peer.take_over(now)
        self.meet(meetings)

    async def renew(self, peer: Peer, now: datetime) -> None:
        """Ask for a certificate, once: there is no second attempt."""
        try:
            issued = await self.kit.issue(peer.name, peer.name, self.chance.choice(self.ttl_seconds))
        except Exception:
            self.failed_issuances += 1
            raise
        self.issued.append(issued)
        delay = self.late * self.chance.random() if peer.chain else timedelta(0)
        peer.coming.append((now + delay, issued))
        peer.renews_at = now + (issued.svid.not_after - now) / 2

    def meet(self, meetings: int) -> None:
        """Pairs connect in both directions, each by its own certificate and bundle."""
        now = self.kit.clock.now()
        alive = [peer for peer in self.peers if peer.ends is not None and now <= peer.ends]
        for _ in range(meetings if len(alive) > 1 else 0):
            one, other = self.chance.sample(alive, 2)
            self.meetings += 1
            if not (believes(one.chain, other.bundle, now) and believes(other.chain, one.bundle, now)):
                self.failed_meetings.append(f"{one.name} and {other.name} at {now}")


def doomed(issued: Issued) -> list[str]:
    """What is wrong with a certificate at some instant of its life."""
    chain = [x509.load_pem_x509_certificate(pem.encode()) for pem in issued.chain[:-1]]
    roots = x509.load_pem_x509_certificates(issued.chain[-1].encode())
    problems = [
        f"outlives {above.subject.rfc4514_string()}"
        for above in chain[1:]
        if above.not_valid_after_utc < issued.svid.not_after
    ]
    if not any(root.not_valid_after_utc >= issued.svid.not_after for root in roots):
        problems.append("outlives every root")
    problems += [
        f"does not hold at {at}" for at in _instants(issued) if not believes(issued.chain, issued.chain[-1], at)
    ]
    return problems


def _instants(issued: Issued) -> Iterator[datetime]:
    begin, end = issued.svid.not_before, issued.svid.not_after
    yield from (begin, begin + (end - begin) / 2, end - SECOND, end)
