"""Laws of Checks that hang on providers: the same snapshot, attributes and answers make the same answer."""

from __future__ import annotations

import asyncio
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from app.decision.attributes import CheckAnswer
from app.decision.check import PendingCheck
from app.decision.ports import ProviderAnswer
from app.policy.decision import Reason
from app.policy.effects import NO_EFFECTS, Effects
from tests.support.decisions import FRONTEND, LOCAL, LOCAL_WAYPOINT, READERS, REPORTS, SERVICE_REF, Worker, worker, xfcc
from tests.support.providers import FakeProviders, provider
from tests.support.snapshots import mesh, policy
from tests.support.virtual_time import run_in_virtual_time

NAMES = ("audit", "opa", "quota")
PATHS = {"audit": ["/orders*"], "opa": ["/orders/*"], "quota": ["/orders/1*", "/x"]}


def _custom(name: str) -> dict[str, object]:
    rules = [{"to": [{"operation": {"paths": PATHS[name]}}]}]
    return policy(f"ask-{name}", targetRefs=[SERVICE_REF], action="CUSTOM", provider={"name": name}, rules=rules)


@cache
def _serving(number: int) -> tuple[Worker, FakeProviders]:
    """One of two workers that were given the same documents, in another order."""
    documents = [mesh(enableMultipleCustomProviders=True), READERS]
    documents += [document for name in NAMES for document in (provider(name), _custom(name))]
    fake = FakeProviders()
    ordered = documents if number == 0 else documents[::-1]
    return asyncio.run(worker(LOCAL_WAYPOINT, *ordered, providers=fake)), fake


_EFFECTS = st.one_of(
    st.just(NO_EFFECTS),
    st.builds(
        Effects,
        status=st.sampled_from([0, 401, 302]),
        headers=st.sampled_from([(), (("x-user", "alice"),), (("x-user", "bob"),), (("x y", "1"),)]),
        headers_to_remove=st.sampled_from([(), ("x-user",)]),
        query_to_remove=st.sampled_from([(), ("a",)]),
        metadata=st.sampled_from(["", '{"a":1}', '{"a":2}', "["]),
    ),
)
_ANSWERS = st.dictionaries(
    st.sampled_from(NAMES),
    st.one_of(
        st.builds(ProviderAnswer, st.booleans(), _EFFECTS, st.sampled_from(["", "no"])),
        st.just(RuntimeError("broken")),
    ),
    max_size=3,
)
_PATHS = st.sampled_from(["/orders", "/orders/1", "/orders/2?a=1&%61=2", "/x", "/orders/1?b", "/other"])


def _decide(number: int, answers: dict[str, object], path: str, sender: str) -> CheckAnswer:
    serving, fake = _serving(number)
    fake.answers = dict(answers)  # type: ignore[arg-type]
    return run_in_virtual_time(serving.decide(path=path, headers=xfcc(sender)))


@given(_ANSWERS, _PATHS, st.sampled_from([FRONTEND, REPORTS]))
@settings(max_examples=80, deadline=None)
def test_the_same_answers_make_the_same_decision(answers: dict[str, object], path: str, sender: str) -> None:
    """In whatever order they came, on whichever worker, however often."""
    first = _decide(0, answers, path, sender)
    again = _decide(0, dict(reversed(answers.items())), path, sender)
    elsewhere = _decide(1, answers, path, sender)
    assert first == again
    assert (first.decision, first.effects) == (elsewhere.decision, elsewhere.effects)


@given(_ANSWERS, _PATHS, st.sampled_from([FRONTEND, REPORTS]))
@settings(max_examples=80, deadline=None)
def test_nobody_passes_whom_an_asked_provider_did_not_allow(answers: dict[str, object], path: str, sender: str) -> None:
    """All that were asked said so, and no policy is skipped: without providers the answer would have been the same."""
    serving, fake = _serving(0)
    fake.asked.clear()
    answer = _decide(0, answers, path, sender)
    asked = [question.provider.name for question in fake.asked]
    assert sorted(asked) == asked
    if answer.decision.allowed:
        given_answers = [answers.get(name) for name in asked]
        assert all(isinstance(given, ProviderAnswer) and given.allowed for given in given_answers)
        assert Reason.ALLOW_RULE is answer.decision.reason
    begun = serving.service.begin(serving.attributes(path=path, headers=xfcc(sender)), LOCAL)
    assert isinstance(begun, PendingCheck) == bool(asked)
