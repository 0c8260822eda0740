"""A node proxy in a loop, and one that was only restarted."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from app.authority.certificates.loop_guard import LoopGuard
from app.demo.node_agent import CertificateRefused
from app.errors import AppError, ErrorCode
from app.limits import CertificateLimits
from tests.support.ca import CART, make_world, serve

HOUR = 3_600.0
LIMITS = CertificateLimits()


def asks(guard: LoopGuard, *, now: float, key: str = "node-a/cart", renewal_in: float = 12 * HOUR) -> bool:
    """One request; whether it passed (then a certificate was issued)."""
    try:
        guard.check(key, now=now)
    except AppError:
        return False
    guard.issued(key, now=now, renewal_in_seconds=renewal_in)
    return True


def test_a_loop_is_cut_down_to_a_trickle() -> None:
    """Once a second for an hour: the burst passes, then two a minute."""
    guard = LoopGuard(LIMITS)
    passed = sum(asks(guard, now=float(second)) for second in range(3_600))

    assert 1 + 20 + 118 <= passed <= 1 + 20 + 121


def test_a_loop_is_named() -> None:
    """The code says to slow down, the diagnosis what it is."""
    guard = LoopGuard(CertificateLimits(early_renewals=1))
    guard.check("node-a/cart", now=0.0, is_early=True)
    with pytest.raises(AppError) as caught:
        guard.check("node-a/cart", now=0.0, is_early=True)
    assert caught.value.code is ErrorCode.RATE_LIMITED
    assert caught.value.diagnosis.startswith("renewal_loop: ")


@pytest.mark.parametrize("pause", [1.0, 10.0, 60.0])
def test_a_handful_of_restarts_passes(pause: float) -> None:
    """A ztunnel that crashes and comes back asks for everything again each time."""
    guard = LoopGuard(LIMITS)

    assert all(asks(guard, now=number * pause) for number in range(12))


def test_a_crash_loop_at_kubernetes_pace_passes_for_ever() -> None:
    """10 s, 20 s, 40 s ... up to five minutes between restarts."""
    guard, now, pause = LoopGuard(LIMITS), 0.0, 10.0
    for _ in range(200):
        assert asks(guard, now=now)
        now += pause
        pause = min(2 * pause, 300.0)


def test_renewals_in_time_are_never_early() -> None:
    """At half-life, for a year, of the shortest certificates."""
    guard = LoopGuard(LIMITS)

    assert all(asks(guard, now=number * 90.0, renewal_in=90.0) for number in range(5_000))


def test_one_loop_is_not_anothers() -> None:
    """Another identity and another node are served."""
    guard = LoopGuard(LIMITS)
    while asks(guard, now=0.0):
        pass

    assert asks(guard, now=0.0, key="node-a/pay")
    assert asks(guard, now=0.0, key="node-b/cart")


def test_memory_is_bounded() -> None:
    """A million callers cost the memory of a few; the oldest are forgotten and start anew."""
    guard = LoopGuard(CertificateLimits(max_tracked_callers=2, early_renewals=1))
    for key in ("a", "b", "c"):
        guard.issued(key, now=0.0, renewal_in_seconds=HOUR)

    assert asks(guard, now=1.0, key="a")


async def test_a_loop_is_refused_named_counted_and_logged_once() -> None:
    """Over the wire: RATE_LIMITED with a clear diagnosis, every refusal counted, one log line."""
    world = make_world(limits=CertificateLimits(early_renewals=3, identity_burst=100))
    async with serve(world) as served, served.agent() as agent:
        with capture_logs() as logs:
            outcomes = []
            for _ in range(10):
                try:
                    await agent.fetch(CART)
                    outcomes.append("issued")
                except CertificateRefused as error:
                    outcomes.append(error.code.name)

    assert outcomes == ["issued"] * 4 + ["RESOURCE_EXHAUSTED"] * 6
    assert world.observer.refusals == [("renewal_loop", "rate_limited")] * 6
    lines = [line for line in logs if line["event"] == "certificate_refused"]
    assert [line["check"] for line in lines] == ["renewal_loop"]
