"""The wall clock against the time that has passed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import grpc
import grpc.aio
import pytest

from app.authority.certificates.clock_guard import ClockGuard
from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind
from app.limits import CertificateLimits
from app.rpc.certificates import CREATE_CERTIFICATE_PATH
from tests.support.ca import CART, make_world, serve

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DAY = 86_400.0


@dataclass
class TwoClocks:
    """A wall clock and a monotonic one that a test moves apart."""

    wall: datetime = START
    passed: float = 1_000.0

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.passed

    def live(self, seconds: float, *, drift: float = 0.0) -> None:
        self.passed += seconds
        self.wall += timedelta(seconds=seconds + drift)


def is_refused(guard: ClockGuard) -> bool:
    try:
        guard.check()
    except AppError as error:
        return error.code is ErrorCode.FAILED_PRECONDITION and error.diagnosis.startswith("clock: ")
    return False


@pytest.mark.parametrize("jump", [2 * DAY, -3 * DAY, 25 * 365 * DAY, 301.0, -301.0])
def test_bar_r6_a_jump_stops_issuance_and_its_end_lets_it_go_on(jump: float) -> None:
    """Days, years, five minutes and a second, in both directions; right again means issued again."""
    clock = TwoClocks()
    guard = ClockGuard(clock, max_drift_seconds=300)
    clock.live(3_600, drift=jump)
    wrong = is_refused(guard)
    clock.live(60, drift=-jump)

    assert wrong
    assert not is_refused(guard)


@pytest.mark.parametrize("drift", [0.0, 120.0, -120.0, 300.0, -300.0])
def test_what_ntp_mends_is_no_jump(drift: float) -> None:
    """Up to the bound the clock counts as right."""
    clock = TwoClocks()
    guard = ClockGuard(clock, max_drift_seconds=300)
    clock.live(3_600, drift=drift)

    assert not is_refused(guard)
    assert guard.drift_seconds == pytest.approx(drift)


def test_bar_r6_a_clock_that_runs_twice_as_fast_is_found_within_the_bound() -> None:
    """One second a second: refused once five minutes have come together, not before."""
    clock = TwoClocks()
    guard = ClockGuard(clock, max_drift_seconds=300)
    seconds = 0
    while not is_refused(guard):
        clock.live(1, drift=1)
        seconds += 1

    assert seconds == 301


async def test_bar_r6_with_a_moved_clock_both_ports_and_our_own_listeners_get_nothing() -> None:
    """FAILED_PRECONDITION and not "your token has expired"; nothing signed; alone again when the clock is right."""
    world = make_world()
    async with serve(world) as served, served.agent() as agent:
        own = await served.with_certificate()
        entries = len(world.ledger.entries)
        world.clock.jump(days=2)
        codes = []
        for door in (served, own):
            async with door.raw_channel() as channel:
                with pytest.raises(grpc.aio.AioRpcError) as failure:
                    await channel.unary_unary(CREATE_CERTIFICATE_PATH)(b"", metadata=door.metadata())
                codes.append(failure.value.code().name)
        with pytest.raises(AppError) as caught:
            await served.listener.renew()
        refused_entries = len(world.ledger.entries)
        world.clock.jump(days=-2)
        again = await agent.fetch(CART)

    assert codes == ["FAILED_PRECONDITION"] * 2
    assert world.observer.refusals[:2] == [("clock", "failed_precondition")] * 2
    assert caught.value.code is ErrorCode.FAILED_PRECONDITION
    assert refused_entries == entries
    assert again.identity == CART


async def test_bar_r6_no_certificate_has_a_negative_life_or_begins_in_the_future() -> None:
    """Whatever the clock does within the bound, what is issued begins before now and ends after it."""
    world = make_world(limits=CertificateLimits(identity_burst=100))
    async with serve(world) as served, served.agent() as agent:
        for seconds in (0, 290, -580, 290):
            world.clock.jump(seconds=seconds)
            got = await agent.fetch(CART, ttl_seconds=300)
            now = world.clock.now()
            assert got.leaf.not_valid_before_utc <= now - timedelta(seconds=119)
            assert now < got.leaf.not_valid_after_utc <= served.world.pki.authority.not_after
    assert len(world.ledger.of(EntryKind.CERTIFICATE_ISSUED)) == 4
