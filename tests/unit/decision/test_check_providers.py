"""Deciding a Check whose policies come to providers: who is asked, how long, and what comes of the answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.decision.attributes import CheckAnswer
from app.decision.check import PendingCheck
from app.decision.counters import ProviderOutcome
from app.decision.ports import ProviderAnswer, ProviderQuestion
from app.limits import CheckLimits
from app.policy.decision import Reason
from app.policy.effects import NO_EFFECTS, Effects
from tests.support.decisions import (
    FRONTEND,
    LOCAL,
    LOCAL_WAYPOINT,
    READERS,
    REPORTS,
    UNREGISTERED,
    Worker,
    at_waypoint,
    worker,
    xfcc,
)
from tests.support.decisions import SERVICE_REF as ORDERS
from tests.support.providers import ALLOWS, DENIES, FakeProviders, provider
from tests.support.snapshots import mesh, policy
from tests.support.virtual_time import run_in_virtual_time

SEVERAL = mesh(enableMultipleCustomProviders=True)
EVERYBODY = policy("everybody", targetRefs=[ORDERS], action="ALLOW", rules=[{}])


def custom(name: str, provider_name: str, **rule: Any) -> dict[str, Any]:
    """A CUSTOM policy for the service `orders`."""
    return policy(name, targetRefs=[ORDERS], action="CUSTOM", provider={"name": provider_name}, rules=[rule])


ASK_OPA = custom("ask-opa", "opa")
ASK_AUDIT = custom("ask-audit", "audit")
OPA, AUDIT = provider("opa"), provider("audit")


async def _serving(providers: FakeProviders, *documents: dict[str, Any], limits: CheckLimits | None = None) -> Worker:
    return await worker(LOCAL_WAYPOINT, *documents, limits=limits, providers=providers)


def _outcome(answer: CheckAnswer) -> tuple[bool, Reason, str]:
    return answer.decision.allowed, answer.decision.reason, answer.decision.policy


async def test_a_check_that_needs_no_provider_is_answered_at_once() -> None:
    """Without a CUSTOM policy, where its rules do not match, and where a DENY rule decides already."""
    providers = FakeProviders()
    denying = policy("no", targetRefs=[ORDERS], action="DENY", rules=[{"to": [{"operation": {"methods": ["PUT"]}}]}])
    elsewhere = custom("admin", "opa", to=[{"operation": {"paths": ["/admin"]}}])
    puts = custom("puts", "opa", to=[{"operation": {"methods": ["PUT"]}}])
    serving = await _serving(providers, OPA, READERS, elsewhere, puts, denying)
    for attributes in ({}, {"method": "PUT"}):
        begun = serving.service.begin(serving.attributes(headers=xfcc(), **attributes), LOCAL)
        assert isinstance(begun, CheckAnswer)
    assert [] == providers.asked


async def test_a_provider_is_asked_with_everything_that_is_known() -> None:
    """The document of its name, the attributes, the caller as the worker knows it, the snapshot that asks."""
    providers = FakeProviders({"opa": ALLOWS})
    serving = await _serving(providers, provider("opa", timeout="50ms"), ASK_OPA, READERS)
    answer = await serving.decide(headers=xfcc())
    assert (True, Reason.ALLOW_RULE, "shop/readers") == _outcome(answer)
    (question,) = providers.asked
    assert ("opa", 0.05, FRONTEND, answer.number) == (
        question.provider.name,
        question.provider.timeout,
        question.principal,
        question.snapshot,
    )
    assert "/orders" == question.attributes.path


async def test_what_a_provider_allows_must_still_be_allowed_by_the_policies() -> None:
    """CUSTOM is no ALLOW: the reports service is not among the readers, and gets none of the provider's effects."""
    providers = FakeProviders({"opa": ProviderAnswer(True, Effects(headers=(("x-user", "alice"),)))})
    serving = await _serving(providers, OPA, ASK_OPA, READERS)
    answer = await serving.decide(headers=xfcc(REPORTS))
    assert (False, Reason.NO_RULE_MATCHED, "") == _outcome(answer)
    assert answer.effects is NO_EFFECTS


async def test_a_denial_has_the_providers_effects_and_its_hint() -> None:
    """The rule that sent the request there is named; the hint is for the log."""
    effects = Effects(status=302, headers=(("location", "https://login.example/"),))
    providers = FakeProviders({"opa": ProviderAnswer(False, effects, hint="no session")})
    serving = await _serving(providers, OPA, ASK_OPA, READERS)
    answer = await serving.decide(headers=xfcc())
    assert (False, Reason.PROVIDER_DENIED, "shop/ask-opa") == _outcome(answer)
    assert ("provider opa denied: no session", effects) == (answer.decision.hint, answer.effects)


async def test_effects_of_an_allowing_provider_are_carried_out() -> None:
    """Parameters to remove are spelled as the request has them."""
    effects = Effects(headers=(("x-user", "alice"),), query_to_set=(("tenant", "shop"),), query_to_remove=("debug",))
    serving = await _serving(FakeProviders({"opa": ProviderAnswer(True, effects)}), OPA, ASK_OPA, READERS)
    answer = await serving.decide(headers=xfcc(), path="/orders?%74enant=bank&d%65bug=1&x=2")
    assert answer.decision.allowed
    assert (effects.headers, effects.query_to_set, ("%74enant", "d%65bug")) == (
        answer.effects.headers,
        answer.effects.query_to_set,
        answer.effects.query_to_remove,
    )


async def test_the_clients_own_spelling_of_a_header_does_not_survive() -> None:
    """What a provider sets or removes is gone as the client wrote it, also with underscores (CGI reads them as one)."""
    effects = Effects(headers=(("x-user", "ann"),), headers_to_remove=("x-secret",))
    serving = await _serving(FakeProviders({"opa": ProviderAnswer(True, effects)}), ASK_OPA, OPA, EVERYBODY)
    answer = await serving.decide(headers=xfcc() | {"x_user": ["root"], "x-user": ["root"], "x_secret": ["1"]})
    assert (True, effects.headers) == (answer.decision.allowed, answer.effects.headers)
    assert {"x-secret", "x_secret", "x_user"} == set(answer.effects.headers_to_remove)


async def test_effects_that_cannot_be_carried_out_deny() -> None:
    """A service may go by the header: it must not see the client's own because ours was lost."""
    effects = Effects(headers=(("x-user", "alice\r\nx-admin: 1"),))
    serving = await _serving(FakeProviders({"opa": ProviderAnswer(True, effects)}), OPA, ASK_OPA, READERS)
    answer = await serving.decide(headers=xfcc())
    assert (False, Reason.MALFORMED) == _outcome(answer)[:2]
    assert "header" in answer.decision.hint
    assert (1, NO_EFFECTS) == (serving.service.counters.refused_effects, answer.effects)


async def test_a_denial_goes_out_without_what_cannot_be_sent() -> None:
    """It stays a denial."""
    effects = Effects(status=401, headers=(("x y", "1"), ("x-fine", "1")))
    serving = await _serving(FakeProviders({"opa": ProviderAnswer(False, effects)}), OPA, ASK_OPA, READERS)
    answer = await serving.decide(headers=xfcc())
    assert (Effects(status=401, headers=(("x-fine", "1"),)), 1) == (
        answer.effects,
        serving.service.counters.refused_effects,
    )


async def test_a_provider_without_a_document_denies() -> None:
    """Istio's rule for a bad provider: what the policy matches is denied, everything else is not."""
    providers = FakeProviders()
    elsewhere = custom("ask", "opa", to=[{"operation": {"paths": ["/orders/*"]}}])
    serving = await _serving(providers, elsewhere, READERS)
    answer = await serving.decide(headers=xfcc(), path="/orders/1")
    assert (False, Reason.PROVIDER_DENIED) == _outcome(answer)[:2]
    assert "Provider document" in answer.decision.hint
    assert (await serving.decide(headers=xfcc())).decision.allowed
    assert [] == providers.asked
    assert {(ProviderOutcome.UNKNOWN, "opa"): 1} == serving.service.counters.providers


@pytest.mark.parametrize("failure", [RuntimeError("secret"), TimeoutError(), ValueError("x")])
async def test_whoever_fails_has_denied(failure: Exception) -> None:
    """An exception is a denial, and its text goes nowhere but to the log."""
    serving = await _serving(FakeProviders({"opa": failure}), OPA, ASK_OPA, READERS)
    answer = await serving.decide(headers=xfcc())
    assert (False, Reason.PROVIDER_DENIED) == _outcome(answer)[:2]
    assert "secret" not in answer.decision.hint


async def test_only_true_allows() -> None:
    """Something else that is true is no answer of the port."""
    serving = await _serving(FakeProviders({"opa": ProviderAnswer("yes")}), OPA, ASK_OPA, READERS)  # type: ignore[arg-type]
    assert not (await serving.decide(headers=xfcc())).decision.allowed


def test_whoever_is_silent_has_denied_after_its_own_timeout() -> None:
    """The question is cancelled, and the other's answer counts for nothing."""

    async def main() -> tuple[CheckAnswer, float, list[str]]:
        providers = FakeProviders({"audit": ALLOWS})
        serving = await _serving(
            providers, SEVERAL, provider("opa", timeout="60ms"), AUDIT, ASK_OPA, ASK_AUDIT, READERS
        )
        started = asyncio.get_running_loop().time()
        answer = await serving.decide(headers=xfcc())
        return answer, asyncio.get_running_loop().time() - started, providers.cancelled

    answer, seconds, cancelled = run_in_virtual_time(main())
    assert (False, Reason.PROVIDER_DENIED, "shop/ask-opa") == _outcome(answer)
    assert "in time" in answer.decision.hint
    assert (0.06, ["opa"]) == (pytest.approx(seconds, abs=0.001), cancelled)


@pytest.mark.parametrize(("seconds", "expected"), [(None, 0.1), (0.02, 0.02), (0.0, 0.0), (5.0, 0.1)])
def test_nobody_is_waited_for_longer_than_the_caller_waits(seconds: float | None, expected: float) -> None:
    """The client's own deadline counts where it is sooner than ours."""

    async def main() -> tuple[bool, float]:
        serving = await _serving(
            FakeProviders(), OPA, ASK_OPA, READERS, limits=CheckLimits(provider_budget_seconds=0.1)
        )
        started = asyncio.get_running_loop().time()
        answer = await serving.decide(headers=xfcc(), seconds=seconds)
        return answer.decision.allowed, asyncio.get_running_loop().time() - started

    assert (False, pytest.approx(expected, abs=0.001)) == run_in_virtual_time(main())


def test_whoever_does_not_heed_the_deadline_is_left_alone() -> None:
    """An adapter that swallows its cancellation does not hold up the answer."""

    async def main() -> tuple[CheckAnswer, float]:
        async def stubborn(_question: ProviderQuestion) -> ProviderAnswer:
            while asyncio.get_running_loop().time() < 10:
                try:
                    await asyncio.sleep(10)
                except asyncio.CancelledError:
                    continue
            return ALLOWS

        serving = await _serving(FakeProviders({"opa": stubborn}), OPA, ASK_OPA, READERS)
        started = asyncio.get_running_loop().time()
        answer = await serving.decide(headers=xfcc())
        seconds = asyncio.get_running_loop().time() - started
        await asyncio.sleep(20)
        return answer, seconds

    answer, seconds = run_in_virtual_time(main())
    assert not answer.decision.allowed
    assert seconds < 0.15


async def test_several_providers_must_all_allow() -> None:
    """They are asked at once; the first by name that denies is named and answers."""
    effects = Effects(status=401)
    providers = FakeProviders({"opa": ProviderAnswer(False, effects), "audit": ALLOWS})
    serving = await _serving(providers, SEVERAL, OPA, AUDIT, ASK_OPA, ASK_AUDIT, READERS)
    denied = await serving.decide(headers=xfcc())
    assert ["audit", "opa"] == [question.provider.name for question in providers.asked]
    assert ((False, Reason.PROVIDER_DENIED, "shop/ask-opa"), effects) == (_outcome(denied), denied.effects)
    providers.answers["audit"] = ProviderAnswer(False, Effects(status=402))
    assert 402 == (await serving.decide(headers=xfcc())).effects.status
    providers.answers |= {"audit": ALLOWS, "opa": ALLOWS}
    assert (await serving.decide(headers=xfcc())).decision.allowed


async def test_several_providers_need_the_meshs_permission() -> None:
    """Istio's default: all that they match is denied, and nobody is asked."""
    providers = FakeProviders({"opa": ALLOWS, "audit": ALLOWS})
    serving = await _serving(providers, OPA, AUDIT, ASK_OPA, ASK_AUDIT, READERS)
    answer = await serving.decide(headers=xfcc())
    assert ((False, Reason.PROVIDER_DENIED), []) == (_outcome(answer)[:2], providers.asked)


async def test_effects_of_several_providers_are_combined_or_deny() -> None:
    """Different things join; two values for one header are no answer that anybody asked for."""
    user = ProviderAnswer(True, Effects(headers=(("x-user", "alice"),)))
    providers = FakeProviders({"opa": user, "audit": ProviderAnswer(True, Effects(headers=(("x-audit", "1"),)))})
    serving = await _serving(providers, SEVERAL, OPA, AUDIT, ASK_OPA, ASK_AUDIT, READERS)
    assert (("x-audit", "1"), ("x-user", "alice")) == (await serving.decide(headers=xfcc())).effects.headers
    providers.answers["audit"] = ProviderAnswer(True, Effects(headers=(("x-user", "bob"),)))
    answer = await serving.decide(headers=xfcc())
    assert ((False, Reason.PROVIDER_DENIED), NO_EFFECTS) == (_outcome(answer)[:2], answer.effects)


@pytest.mark.parametrize("value", ["true", "TRUE", "true,false"])
async def test_case_089_a_partial_body_is_denied_before_anybody_is_asked(value: str) -> None:
    """The rest of the body may say what its beginning does not; a provider may say that it looks at that itself."""
    providers = FakeProviders({"opa": ALLOWS})
    headers = {**xfcc(), "x-envoy-auth-partial-body": (value,)}
    serving = await _serving(providers, OPA, ASK_OPA, READERS)
    answer = await serving.decide(headers=headers)
    assert ((False, Reason.PROVIDER_DENIED), []) == (_outcome(answer)[:2], providers.asked)
    assert "allowPartialBody" in answer.decision.hint
    await serving.put(provider("opa", allowPartialBody=True))
    assert (await serving.decide(headers=headers)).decision.allowed


async def test_a_whole_body_is_no_partial_one() -> None:
    """Envoy says false where it sent all of it."""
    serving = await _serving(FakeProviders({"opa": ALLOWS}), OPA, ASK_OPA, READERS)
    headers = {**xfcc(), "x-envoy-auth-partial-body": ("false",)}
    assert (await serving.decide(headers=headers)).decision.allowed


async def test_case_092_context_from_an_unexpected_caller_is_not_shown_to_providers() -> None:
    """What a proxy says of route and filters counts only where the proxy is a registered enforcement point."""
    providers = FakeProviders({"opa": ALLOWS})
    serving = await _serving(providers, OPA, ASK_OPA, EVERYBODY)
    sent = {"contextExtensions": {"a": "b"}, "metadataContext": {}, "routeMetadataContext": {}, "request": {}}
    given = {"document": lambda: dict(sent), "context_extensions": {"a": "b"}}
    await serving.decide(headers=xfcc(), **given)
    await serving.decide(UNREGISTERED, source_principal=FRONTEND, **given)
    known, unknown = (question.attributes for question in providers.asked)
    assert known.document is not None
    assert unknown.document is not None
    assert (sent, {"request": {}}) == (known.document(), unknown.document())
    assert ({"a": "b"}, None) == (known.context_extensions, unknown.context_extensions)


async def test_too_many_questions_deny_at_once() -> None:
    """The bound is on questions, not on Checks; when one ends, the next is asked."""
    providers = FakeProviders({"audit": ALLOWS})
    limits = CheckLimits(max_provider_questions=2)
    serving = await _serving(providers, SEVERAL, OPA, AUDIT, ASK_OPA, ASK_AUDIT, READERS, limits=limits)
    first = asyncio.create_task(serving.decide(headers=xfcc()))
    await providers.waiting.wait()
    second = await serving.decide(headers=xfcc())
    assert (False, Reason.OVERLOADED) == _outcome(second)[:2]
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await asyncio.sleep(0)
    providers.answers["opa"] = ALLOWS
    assert (await serving.decide(headers=xfcc())).decision.allowed


async def test_a_cancelled_check_cancels_its_questions() -> None:
    """A client that goes away leaves nothing behind."""
    providers = FakeProviders()
    serving = await _serving(providers, OPA, ASK_OPA, READERS)
    asking = asyncio.create_task(serving.decide(headers=xfcc()))
    await providers.waiting.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.sleep(0)
    assert ["opa"] == providers.cancelled


async def test_a_check_ends_on_the_state_that_it_began_with() -> None:
    """A policy set that is swapped in while a provider thinks is for the next request."""
    providers = FakeProviders()
    serving = await _serving(providers, OPA, ASK_OPA, READERS)

    async def slowly(_question: ProviderQuestion) -> ProviderAnswer:
        await serving.put(policy("no", targetRefs=[ORDERS], action="DENY", rules=[{}]))
        return ALLOWS

    providers.answers["opa"] = slowly
    answer = await serving.decide(headers=xfcc())
    assert answer.decision.allowed
    assert serving.holder.state is not None
    assert answer.number < serving.holder.state.number
    providers.answers["opa"] = ALLOWS
    assert not (await serving.decide(headers=xfcc())).decision.allowed


async def test_without_asking_a_needed_provider_has_denied() -> None:
    """The synchronous way, and a worker that has nobody to ask."""
    providers = FakeProviders({"opa": ALLOWS})
    serving = await _serving(providers, OPA, ASK_OPA, READERS)
    assert (False, Reason.PROVIDER_DENIED) == _outcome(serving.check(headers=xfcc()))[:2]
    assert [] == providers.asked
    alone = await worker(LOCAL_WAYPOINT, OPA, ASK_OPA, READERS)
    assert (False, Reason.PROVIDER_DENIED) == _outcome(await alone.decide(headers=xfcc()))[:2]


async def test_every_check_is_counted_once() -> None:
    """Also those that waited."""
    serving = await _serving(FakeProviders({"opa": DENIES}), OPA, ASK_OPA, READERS)
    begun = serving.service.begin(serving.attributes(headers=xfcc()), LOCAL)
    assert isinstance(begun, PendingCheck)
    assert 0 == serving.service.counters.total
    await begun.finish()
    counters = serving.service.counters
    assert (1, 1, {(ProviderOutcome.DENIED, "opa"): 1}) == (
        counters.total,
        counters.denied[Reason.PROVIDER_DENIED],
        counters.providers,
    )
    assert {"denied": {"opa": 1}} == counters.to_json()["providers"]


async def test_the_own_provider_asks_nobody() -> None:
    """The CUSTOM policy by which the request came here is listed and not evaluated."""
    providers = FakeProviders()
    serving = await _serving(providers, provider("gatehouse"), custom("here", "gatehouse"), READERS)
    assert (await serving.decide(headers=xfcc())).decision.allowed
    assert [] == providers.asked


async def test_a_tried_out_policy_sees_the_answers() -> None:
    """One shadow verdict, given what the providers said."""
    tried = at_waypoint("tried", action="DENY", rules=[{}])
    tried["metadata"]["annotations"] = {"istio.io/dry-run": "true"}
    serving = await _serving(FakeProviders({"opa": ALLOWS}), OPA, ASK_OPA, READERS, tried)
    answer = await serving.decide(headers=xfcc())
    assert answer.shadow is not None
    assert (True, "would_deny", "shop/tried") == (
        answer.decision.allowed,
        answer.shadow.outlook.value,
        answer.shadow.policy,
    )
