"""A Check that passes by a grant: for its time, logged and counted, never out of quarantine."""

from datetime import timedelta
from typing import Any

import structlog
from google.protobuf.json_format import MessageToDict

from app.decision.check import CheckService
from app.decision.lift_by_grants import LOG_EVERY_SECONDS
from app.decision.ports import ProviderAnswer
from app.policy.decision import Reason
from app.policy.effects import Effects
from app.rpc.check_answers import check_response
from tests.support.decisions import FRONTEND, LOCAL, LOCAL_WAYPOINT, READERS, REPORTS, SERVICE_REF, Worker, worker, xfcc
from tests.support.grants import BEGIN, DURING, END, grant
from tests.support.providers import FakeProviders, provider
from tests.support.quarantines import quarantine
from tests.support.snapshots import policy

LET_IN = grant(targetRefs=[SERVICE_REF], subjects=[{"serviceAccounts": ["shop/reports"]}])


class _Clock:
    """The worker's time of day, moved by the test."""

    def __init__(self) -> None:
        self.time = DURING

    def seconds(self) -> float:
        return self.time.timestamp()


async def _worker(*documents: Any) -> tuple[Worker, _Clock]:
    serving, clock = await worker(LOCAL_WAYPOINT, READERS, *documents), _Clock()
    serving.service = CheckService(serving.holder, limits=serving.limits, lag=serving.lag, wall_clock=clock.seconds)
    return serving, clock


async def test_a_grant_lets_in_for_its_time_without_a_new_snapshot() -> None:
    """By the worker's own clock; who is not named is denied as before, and who is allowed anyway needs no grant."""
    serving, clock = await _worker(LET_IN)
    reasons = []
    for moment in (BEGIN - timedelta(seconds=1), BEGIN, END - timedelta(seconds=1), END):
        clock.time = moment
        reasons.append(serving.check(headers=xfcc(REPORTS)).decision.reason)

    assert [Reason.NO_RULE_MATCHED, Reason.GRANT, Reason.GRANT, Reason.NO_RULE_MATCHED] == reasons
    clock.time = DURING
    assert Reason.ALLOW_RULE is serving.check(headers=xfcc(FRONTEND)).decision.reason
    assert Reason.NO_RULE_MATCHED is serving.check(headers=xfcc(f"{REPORTS}-2")).decision.reason


async def test_the_proxys_log_gets_the_name_of_the_grant() -> None:
    """In the dynamic metadata, with its end and reason."""
    serving, _ = await _worker(LET_IN)

    metadata = MessageToDict(check_response(serving.check(headers=xfcc(REPORTS)), "id").dynamic_metadata)

    assert ("Grant/shop/g", "ns[shop]-grant[g]", "GRANT") == (metadata["policy"], metadata["rule"], metadata["reason"])
    assert "access until 2030-01-31T14:00:00Z: repair of order 7" == metadata["hint"]


async def test_every_use_is_counted_and_the_log_says_how_many() -> None:
    """The first at once for each peer, then one line for the time between."""
    both = grant(targetRefs=[SERVICE_REF], subjects=[{"namespaces": ["shop"]}])
    serving, clock = await _worker(both)
    with structlog.testing.capture_logs() as lines:
        for _ in range(5):
            serving.check(headers=xfcc(REPORTS))
        serving.check(headers=xfcc(FRONTEND), method="DELETE", path="/orders/7?token=x")
        clock.time += timedelta(seconds=LOG_EVERY_SECONDS)
        serving.check(headers=xfcc(REPORTS))

    used = [line for line in lines if line["event"] == "grant_used"]
    assert [(REPORTS, 1), (FRONTEND, 1), (REPORTS, 5)] == [(line["principal"], line["uses"]) for line in used]
    assert ("Grant/shop/g", "DELETE", "/orders/7", "NO_RULE_MATCHED") == (
        used[1]["grant"],
        used[1]["method"],
        used[1]["path"],
        used[1]["lifted"],
    )
    assert {"NO_RULE_MATCHED": {"Grant/shop/g": 7}} == serving.service.counters.to_json()["grants"]
    assert 7 == serving.service.counters.allowed[Reason.GRANT]


async def test_no_grant_lets_anybody_out_of_quarantine() -> None:
    """Not even one that breaks the glass over every denial."""
    serving, _ = await _worker(
        grant(
            targetRefs=[SERVICE_REF],
            subjects=[{"serviceAccounts": ["shop/reports"]}],
            breakGlass=True,
            overridesDeny=True,
        ),
        quarantine(identity=REPORTS),
    )

    assert Reason.QUARANTINED is serving.check(headers=xfcc(REPORTS)).decision.reason


async def test_broken_glass_lifts_what_a_provider_denied_and_nothing_that_it_wanted_done() -> None:
    """With `overridesDeny` only; the status and headers of the denial are not sent, and no provider is passed over."""
    denied = ProviderAnswer(False, effects=Effects(status=451, headers=(("x-why", "no"),)))
    ask = policy("ask", targetRefs=[SERVICE_REF], action="CUSTOM", provider={"name": "opa"}, rules=[{}])
    for overrides, expected in ((False, (Reason.PROVIDER_DENIED, 451)), (True, (Reason.GRANT, 0))):
        providers = FakeProviders({"opa": denied})
        glass = grant(
            targetRefs=[SERVICE_REF],
            subjects=[{"serviceAccounts": ["shop/reports"]}],
            breakGlass=True,
            overridesDeny=overrides,
        )
        serving = await worker(LOCAL_WAYPOINT, ask, provider("opa"), glass, providers=providers)
        clock = _Clock()
        serving.service = CheckService(
            serving.holder, limits=serving.limits, lag=serving.lag, providers=providers, wall_clock=clock.seconds
        )
        answer = await serving.service.decide(serving.attributes(headers=xfcc(REPORTS)), LOCAL)
        assert expected == (answer.decision.reason, answer.effects.status)
        assert 1 == len(providers.asked)


async def test_a_deleted_grant_ends_at_once() -> None:
    """With the next snapshot; without grants the state has none."""
    serving, _ = await _worker(LET_IN)
    before = serving.check(headers=xfcc(REPORTS)).decision.reason
    serving.source.delete("Grant/shop/g")
    await serving.reload()

    assert (Reason.GRANT, Reason.NO_RULE_MATCHED) == (before, serving.check(headers=xfcc(REPORTS)).decision.reason)
    assert serving.holder.state is not None
    assert serving.holder.state.grants is None


async def test_who_passes_by_a_grant_passes_as_whom_the_provider_says() -> None:
    """The provider allowed and no ALLOW rule matched: the client's own header must not reach the service instead."""
    effects = Effects(headers=(("x-user", "reports"),), headers_to_remove=("x-admin",))
    ask = policy("ask", targetRefs=[SERVICE_REF], action="CUSTOM", provider={"name": "opa"}, rules=[{}])
    providers = FakeProviders({"opa": ProviderAnswer(True, effects)})
    serving = await worker(LOCAL_WAYPOINT, READERS, ask, provider("opa"), LET_IN, providers=providers)
    clock = _Clock()
    serving.service = CheckService(
        serving.holder, limits=serving.limits, lag=serving.lag, providers=providers, wall_clock=clock.seconds
    )

    granted = await serving.decide(headers=xfcc(REPORTS))
    clock.time = END
    denied = await serving.decide(headers=xfcc(REPORTS))

    assert (Reason.GRANT, effects) == (granted.decision.reason, granted.effects)
    assert (Reason.NO_RULE_MATCHED, Effects()) == (denied.decision.reason, denied.effects)
