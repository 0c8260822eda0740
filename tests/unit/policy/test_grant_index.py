"""What a grant lifts, for whom, where and when; and that unrelated ones cost nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from app.policy.decision import Decision, Reason
from app.policy.evaluate import NO_ALLOW_POLICY, NO_RULE_MATCHED, decide
from app.policy.explain import explain
from app.policy.grant_index import GrantIndex
from app.policy.mesh import MeshConfig
from app.policy.rule_table import RuleTable
from app.policy.shadow import SAME, decide_shadow
from tests.support.grants import BEGIN, DURING, END, SERVICE_REF, grant, index
from tests.support.policies import HARDENED, PEER, SIDECAR, WAYPOINT, policy, request, table, to

_CLOSED = table(policy(to(paths=["/open"])))
_DENIED = table(policy({}), policy({}, action="DENY", name="d"))
_OTHER = "spiffe://cluster.local/ns/shop/sa/other"


def _ask(
    rules: RuleTable, *grants: dict[str, Any], now: datetime = DURING, path: str = "/a", **fields: Any
) -> Decision:
    asked = request(path, **fields)
    return index(*grants).at(now).lift(SIDECAR, asked, decide(rules, SIDECAR, asked))


def test_a_grant_allows_what_no_rule_allows() -> None:
    """And is named, with its end and its reason for the operator."""
    decision = _ask(_CLOSED, grant(ticket="OPS-7"))

    assert (True, Reason.GRANT, "Grant/shop/g", "ns[shop]-grant[g]") == (
        decision.allowed,
        decision.reason,
        decision.policy,
        decision.rule,
    )
    assert "access until 2030-01-31T14:00:00Z: repair of order 7 (OPS-7)" == decision.hint


@pytest.mark.parametrize(("now", "allowed"), [(BEGIN, True), (END, False), (BEGIN.replace(hour=11), False)])
def test_it_ends_by_itself(now: datetime, *, allowed: bool) -> None:
    """The same grants at another moment."""
    assert allowed is _ask(_CLOSED, grant(), now=now).allowed


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        ({}, {"principal": _OTHER}),
        ({}, {"principal": ""}),
        ({"subjects": [{"principals": ["*"]}]}, {"principal": ""}),
        ({"operations": [{"methods": ["GET"], "paths": ["/a"]}]}, {"method": "POST"}),
        ({"operations": [{"methods": ["GET"], "paths": ["/b"]}]}, {}),
        ({"selector": {"matchLabels": {"app": "cart"}}}, {}),
    ],
)
def test_it_lets_in_whom_it_names_and_nobody_else(spec: dict[str, Any], fields: dict[str, Any]) -> None:
    """Subject, operation and target each hold."""
    assert NO_RULE_MATCHED == _ask(_CLOSED, grant(**spec), **fields)


def test_it_attaches_to_services_as_policies_do() -> None:
    """At a waypoint by target reference."""
    asked = request("/a")
    at_service = index(grant(targetRefs=[SERVICE_REF])).at(DURING)

    assert at_service.lift(WAYPOINT, asked, NO_RULE_MATCHED).allowed
    assert not at_service.lift(SIDECAR, asked, NO_RULE_MATCHED).allowed


def test_a_grant_alone_turns_nothing_on() -> None:
    """Without an ALLOW policy everybody passes, not only its subjects."""
    assert NO_ALLOW_POLICY == _ask(RuleTable.empty(HARDENED), grant(), principal=_OTHER)


def test_denials_are_lifted_by_break_glass_that_says_so() -> None:
    """What a DENY rule or a provider denies; never what was denied before any policy."""
    glass, override = grant(breakGlass=True), grant(breakGlass=True, overridesDeny=True)
    asked, lift = request("/a"), index(override).at(DURING).lift

    assert [Reason.DENY_RULE, Reason.DENY_RULE, Reason.GRANT] == [
        _ask(_DENIED, one).reason for one in (grant(), glass, override)
    ]
    assert lift(SIDECAR, asked, Decision(False, Reason.PROVIDER_DENIED)).allowed
    assert "break-glass access" in lift(SIDECAR, asked, NO_RULE_MATCHED).hint
    for reason in Reason:
        if reason not in (Reason.NO_RULE_MATCHED, Reason.DENY_RULE, Reason.PROVIDER_DENIED):
            denial = Decision(False, reason)
            assert denial is lift(SIDECAR, asked, denial)


def test_the_first_that_may_lift_it_is_named() -> None:
    """By name; one that has ended or may not lift a denial is passed over."""
    over = grant("a", expiresAt="2030-01-31T12:30:00Z")
    plain, glass = grant("b"), grant("c", breakGlass=True, overridesDeny=True)

    assert "Grant/shop/b" == _ask(_CLOSED, glass, plain, over).policy
    assert "Grant/shop/c" == _ask(_DENIED, glass, plain, over).policy


def test_hardened_reads_a_grant_as_an_allow_rule() -> None:
    """Every reading of the path must be inside."""
    narrow = grant(operations=[{"paths": ["/public/*"]}])

    assert _ask(_CLOSED, narrow, path="/public/a").allowed
    assert not _ask(_CLOSED, narrow, path="/public/..;/admin").allowed
    assert not _ask(_CLOSED, narrow, path="/public/..%2fadmin").allowed


def test_trust_domain_aliases_hold_for_grants() -> None:
    """The mesh says whom a principal means, and the index follows it."""
    value = grant(subjects=[{"principals": ["old/ns/shop/sa/web"]}])
    aliased = MeshConfig(trust_domain="cluster.local", trust_domain_aliases=("old",))
    first = index(value)
    values = {"Grant/shop/g": next(iter(first._values.values()))}

    assert not first.at(DURING).lift(SIDECAR, request("/a"), NO_RULE_MATCHED).allowed
    assert first.replaced(values, aliased).at(DURING).lift(SIDECAR, request("/a"), NO_RULE_MATCHED).allowed


def test_an_index_follows_its_grants() -> None:
    """Put, replaced and removed; the same values are the same index."""
    first = index(grant(), grant("h"))
    values = {"Grant/shop/h": first._values["Grant/shop/h"]}
    second = first.replaced(values, HARDENED)
    third = second.replaced({}, HARDENED)
    named = [one.at(DURING).lift(SIDECAR, request("/a"), NO_RULE_MATCHED).policy for one in (first, second, third)]

    assert ["Grant/shop/g", "Grant/shop/h", ""] == named
    assert second is second.replaced(values, HARDENED)
    assert (2, 1, 0) == (len(first), len(second), len(third))


def test_what_no_grant_attaches_to_is_not_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A denial elsewhere costs one lookup."""
    grants = index(*(grant(f"g{number}", selector={"matchLabels": {"app": "cart"}}) for number in range(50)))
    monkeypatch.setattr("app.policy.grant_index.prepare", lambda *_: pytest.fail("evaluated"))

    assert NO_RULE_MATCHED is grants.at(DURING).lift(SIDECAR, request("/a"), NO_RULE_MATCHED)


def test_explaining_shows_grants_also_those_that_do_not_hold() -> None:
    """With their time, and what failed first in the words of the grant; the decision is the granted one."""
    grants = index(
        grant("a", expiresAt="2030-01-31T12:30:00Z"),
        grant("b", notBefore="2030-01-31T13:30:00Z"),
        grant("c", operations=[{"paths": ["/b"]}]),
        grant("d"),
    ).at(DURING)

    explanation = explain(_CLOSED, SIDECAR, request("/a"), grants=grants)
    shown = explanation.to_json()["grants"]

    assert (Reason.GRANT, "Grant/shop/d") == (explanation.decision.reason, explanation.decision.policy)
    assert [("expired", True), ("not yet", True), ("holds", False), ("holds", True)] == [
        (one["state"], one["matched"]) for one in shown
    ]
    assert "/spec/operations/0/paths" == shown[2]["failure"]["pointer"]
    assert "2030-01-31T12:30:00Z" == shown[0]["expiresAt"]


def test_shadow_and_grants_go_together() -> None:
    """A DENY that is tried out would not stop who breaks the glass over it; an ALLOW changes nothing for the granted."""
    tried = {"gatehouse.dev/mode": "shadow"}
    rules = table(policy({}, action="DENY", name="d", annotations=tried), policy(to(paths=["/open"])))
    asked = request("/open")
    decision = decide(rules, SIDECAR, asked)
    plain, override = index(grant()), index(grant(breakGlass=True, overridesDeny=True))

    assert SAME == decide_shadow(rules, SIDECAR, asked, decision, grants=override.at(DURING))
    assert "would_deny" == getattr(
        decide_shadow(rules, SIDECAR, asked, decision, grants=plain.at(DURING)), "outlook", None
    )
    opened = table(policy({}, name="more", annotations=tried), policy(to(paths=["/open"])))
    granted = plain.at(DURING).lift(SIDECAR, request("/a"), decide(opened, SIDECAR, request("/a")))
    assert SAME == decide_shadow(opened, SIDECAR, request("/a"), granted, grants=plain.at(DURING))


def test_an_empty_index_lifts_nothing() -> None:
    """And says so at once."""
    assert NO_RULE_MATCHED is GrantIndex.empty(HARDENED).at(DURING).lift(
        SIDECAR, request("/a", principal=PEER), NO_RULE_MATCHED
    )
