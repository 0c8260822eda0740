"""Asking again, without a token and a CSR: every step that can be judged is, as a request of now would be."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from structlog.testing import capture_logs

from app.authority.certificates.certificate_request import CertificateRequest
from app.authority.certificates.clock_guard import ClockGuard
from app.authority.certificates.credentials import Credentials
from app.authority.certificates.issue_certificate import IssuingRules
from app.authority.certificates.key_guard import KeyGuard
from app.authority.ports import MonotonicClock
from app.ca.impersonation import NodeCaller
from app.ca.lifetimes import WorkloadLifetimes
from app.ca.profile import Clamp, WorkloadProfile
from app.errors import AppError, ErrorCode
from app.limits import CertificateLimits
from tests.support.ca import CART, ELSEWHERE, NODE, ZTUNNEL_POD, ZTUNNEL_UID, World, make_world
from tests.support.certificates import make_csr, make_pki

ZTUNNEL = NodeCaller(namespace="istio-system", service_account="ztunnel", node_name=NODE)
DAY = 86_400


async def ask(world: World, identity: str = CART, *, ttl_seconds: int = DAY) -> None:
    """A real request for it, with a key of its own."""
    credentials = Credentials(authorization=(f"Bearer {world.node_token()}",), cluster_id="", peer="ipv4:10.0.0.1:1")
    asked = CertificateRequest(csr_pem=make_csr(names=(identity,)), ttl_seconds=ttl_seconds, impersonated=identity)
    with capture_logs():
        await world.create(asked, credentials, "r-1")


async def ends(world: World, identity: str | None = CART, **changes: object) -> tuple[str, str, str]:
    """At which step the question ends, why, and what to do; empty when it would be granted."""
    told = await world.explain.by_caller(replace(ZTUNNEL, **changes), identity)
    refused = [step.name for step in told.steps if step.outcome == "refused"]
    assert ("refused" if refused else "granted") == told.outcome
    return (refused[0] if refused else "", told.reason, told.advice)


async def test_what_needs_a_token_or_a_csr_is_said_not_to_be_judged() -> None:
    """And everything else is good, in the order of a real request."""
    told = await make_world().explain.by_caller(ZTUNNEL, CART)

    judged = [step.name for step in told.steps if step.outcome == "ok"]
    assert ["decode", "authenticate", "cluster", "admission", "csr", "key"] == [
        step.name for step in told.steps if step.outcome == "not judged"
    ]
    assert ["clock", "rate", "authorize"] == judged[:3]
    assert ["placement", "identity_rate", "loop", "quarantine", "lifetime", "issue"] == judged[-6:]


async def test_a_moved_clock_refuses_before_anything_else() -> None:
    """Also who has no right to it."""
    world = make_world()
    world.clock.jump(hours=3)

    step, reason, advice = await ends(world, ELSEWHERE)
    assert "clock" == step
    assert "+10800 s" in reason
    assert "clock" in advice


async def test_placement_that_is_too_old_is_a_step_and_no_error() -> None:
    """The operator who asks why nothing is issued gets the answer, not the same failure."""
    world = make_world()
    world.inventory.failure = AppError(ErrorCode.UNAVAILABLE, "the database is away")

    step, reason, advice = await ends(world)
    assert "authorize" == step
    assert "the database is away" == reason
    assert "gatehouse inventory sources" in advice


async def test_a_caller_beyond_its_rate_is_told_and_asking_costs_nothing() -> None:
    """The burst is used up by requests and by nothing else."""
    world = make_world(limits=CertificateLimits(node_burst=2, node_rate_per_second=0.01))
    await ask(world)
    for _ in range(5):
        assert ("", "", "") == await ends(world)
    await ask(world)

    assert "rate" == (await ends(world))[0]
    assert "rate" == (await ends(world, node_name="", pod_name=ZTUNNEL_POD, pod_uid=ZTUNNEL_UID))[0]
    assert "rate" != (await ends(world, node_name="node-b"))[0]


async def test_an_identity_that_is_asked_for_too_often_is_told() -> None:
    """By identity: another one of the same node is free."""
    world = make_world(limits=CertificateLimits(identity_burst=1, identity_rate_per_second=0.01))
    await ask(world)

    assert "identity_rate" == (await ends(world))[0]
    assert "" == (await ends(world, CART.replace("cart", "pay")))[0]


async def test_a_loop_is_told() -> None:
    """As many early requests as are forgiven, then the next would be refused."""
    world = make_world(limits=CertificateLimits(early_renewals=2, identity_burst=50))
    for _ in range(3):
        assert "" == (await ends(world))[0]
        await ask(world)

    step, reason, advice = await ends(world)
    assert "loop" == step
    assert reason.startswith("renewal_loop")
    assert "clock" in advice
    with pytest.raises(AppError, match="again and again"):
        await ask(world)


async def test_an_authority_about_to_expire_is_told() -> None:
    """With what to do."""
    now = make_world().clock.now()
    pki = make_pki(now=now - timedelta(hours=1), issuing_lifetime=timedelta(hours=1, minutes=30))

    step, reason, advice = await ends(make_world(pki=pki))
    assert "lifetime" == step
    assert "issuing chain ends" in reason
    assert "replace the authority" in advice


async def test_a_drain_is_told() -> None:
    """This replica issues nothing more."""
    world = make_world()
    await world.issuer.drain()

    assert ("issue", "shutting down; try again") == (await ends(world))[:2]


def _rules(*, spread: float = 0.0, converge_in: timedelta | None = None) -> object:
    def build(limits: CertificateLimits, clock: MonotonicClock) -> IssuingRules:
        def deadline() -> datetime | None:
            return None if converge_in is None else clock.now() + converge_in

        return IssuingRules(
            lifetimes=WorkloadLifetimes(WorkloadProfile.from_limits(limits), spread_fraction=spread),
            keys=KeyGuard(),
            clock_guard=ClockGuard(clock, max_drift_seconds=limits.max_clock_drift_seconds),
            converge_by=deadline,
        )

    return build


@pytest.mark.parametrize(
    ("rules", "asked", "clamp"),
    [
        (_rules(), DAY, Clamp.NONE),
        (_rules(), 400 * DAY, Clamp.MAXIMUM),
        (_rules(spread=0.1), DAY, Clamp.NONE),
        (_rules(converge_in=timedelta(hours=2)), DAY, Clamp.CONVERGENCE),
        (_rules(spread=0.1, converge_in=timedelta(hours=2)), DAY, Clamp.CONVERGENCE),
        (_rules(), 0, Clamp.NONE),
    ],
    ids=("as asked", "maximum", "spread", "convergence", "both", "default"),
)
async def test_the_lifetime_is_the_one_that_a_request_gets(rules: object, asked: int, clamp: Clamp) -> None:
    """Clamp, spreading and deadline included: the certificate that comes next has exactly it."""
    world = make_world(issuing=rules)  # type: ignore[arg-type]
    told = (await world.explain.by_caller(ZTUNNEL, CART, ttl_seconds=asked)).lifetime
    await ask(world, ttl_seconds=asked)
    issued = world.ledger.entries[-1].detail

    assert told is not None
    assert clamp is told.grant.clamp
    assert (issued["ttlGranted"], issued["ttlClamp"], issued["ttlSpread"]) == (
        told.grant.seconds,
        told.grant.clamp.value,
        told.grant.spread_seconds,
    )
    assert abs(datetime.fromisoformat(issued["notAfter"]) - told.not_after) < timedelta(seconds=5)


async def test_a_lifetime_that_is_refused_is_told() -> None:
    """Below the minimum, as on the wire."""
    told = await make_world().explain.by_caller(ZTUNNEL, CART, ttl_seconds=1)

    assert ("refused", None) == (told.outcome, told.lifetime)
    assert ["lifetime"] == [step.name for step in told.steps if step.outcome == "refused"]
    assert "minimum" in told.advice
