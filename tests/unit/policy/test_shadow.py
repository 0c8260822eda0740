"""One verdict for each request: what the whole set would decide with the policies that are tried out."""

from __future__ import annotations

from typing import Any

import pytest

from app.policy.cases import run_cases
from app.policy.evaluate import decide
from app.policy.explain import explain
from app.policy.rule_table import RuleTable
from app.policy.shadow import SAME, UNKNOWN, Outlook, ShadowVerdict, decide_shadow
from app.policy.target import PointKind, Target
from tests.support.policies import HARDENED, PEER, SIDECAR, compiled, policy, request, source, table, to

_DRY_RUN = {"istio.io/dry-run": "true"}


def _mode(word: str) -> dict[str, str]:
    return {"gatehouse.dev/mode": word}


_SHADOW, _REMOVED = _mode("shadow"), _mode("shadow-removed")


def _shadow(rules: RuleTable, path: str = "/a", **fields: Any) -> ShadowVerdict | None:
    asked = request(path, **fields)
    return decide_shadow(rules, SIDECAR, asked, decide(rules, SIDECAR, asked))


@pytest.mark.parametrize("annotations", [None, _mode("enforce"), _mode("off"), {"istio.io/dry-run": "false"}])
def test_where_nothing_is_tried_out_there_is_no_verdict(annotations: dict[str, str] | None) -> None:
    """Not even `same`: the metadata of other targets stays as it was."""
    assert _shadow(table(policy({}, annotations=annotations))) is None


def test_a_policy_that_is_off_decides_nothing() -> None:
    """It neither denies nor turns on the default of denying."""
    rules = table(policy({}, action="DENY", name="d", annotations=_mode("off")), policy(annotations=_mode("off")))

    assert decide(rules, SIDECAR, request("/a")).allowed


@pytest.mark.parametrize("annotations", [_DRY_RUN, _SHADOW])
def test_a_denial_that_is_tried_out_is_named(annotations: dict[str, str]) -> None:
    """The request passes, and the verdict says which rule would have stopped it; other requests stay the same."""
    rules = table(policy(to(paths=["/b"]), to(paths=["/a"]), action="DENY", name="d", annotations=annotations))

    assert decide(rules, SIDECAR, request("/a")).allowed
    assert ShadowVerdict(Outlook.WOULD_DENY, "shop/d", "ns[shop]-policy[d]-rule[1]") == _shadow(rules)
    assert SAME == _shadow(rules, "/c")


def test_the_first_allow_policy_would_turn_on_the_default_of_denying() -> None:
    """What no rule would match is denied on account of the ALLOW policy that is tried out."""
    rules = table(policy(to(paths=["/b"]), name="first", annotations=_SHADOW))

    assert ShadowVerdict(Outlook.WOULD_DENY, "shop/first") == _shadow(rules)
    assert SAME == _shadow(rules, "/b")


def test_an_allow_that_is_tried_out_would_allow() -> None:
    """What is denied today would pass."""
    rules = table(policy(to(paths=["/b"])), policy(to(paths=["/a"]), name="more", annotations=_SHADOW))

    assert ShadowVerdict(Outlook.WOULD_ALLOW, "shop/more", "ns[shop]-policy[more]-rule[0]") == _shadow(rules)


def test_a_removal_can_be_tried_out() -> None:
    """A policy that is to go is enforced, and the verdict is what would be without it."""
    deny = policy(to(paths=["/a"]), action="DENY", name="d", annotations=_REMOVED)
    allow = policy(to(paths=["/b"]), name="only", annotations=_REMOVED)

    assert not decide(table(deny), SIDECAR, request("/a")).allowed
    assert ShadowVerdict(Outlook.WOULD_ALLOW, "shop/d", "ns[shop]-policy[d]-rule[0]") == _shadow(table(deny))
    assert ShadowVerdict(Outlook.WOULD_ALLOW, "shop/only") == _shadow(table(allow))
    assert SAME == _shadow(table(allow), "/b")
    both = table(allow, policy(to(paths=["/c"]), name="stays"))
    assert ShadowVerdict(Outlook.WOULD_DENY, "shop/only", "ns[shop]-policy[only]-rule[0]") == _shadow(both, "/b")


def test_the_verdict_is_of_the_whole_set() -> None:
    """An ALLOW and a DENY that are tried out together: the DENY would win, and nothing changes for who is denied."""
    rules = table(
        policy(to(paths=["/b"])),
        policy({}, name="more", annotations=_SHADOW),
        policy(to(paths=["/a"]), action="DENY", name="d", annotations=_SHADOW),
    )

    assert SAME == _shadow(rules, "/a")
    assert ShadowVerdict(Outlook.WOULD_ALLOW, "shop/more", "ns[shop]-policy[more]-rule[0]") == _shadow(rules, "/c")
    assert SAME == _shadow(rules, "/b")


def test_a_provider_that_was_not_asked_leaves_it_open() -> None:
    """Unless the request would be denied whatever the provider says; with an answer there is a verdict."""
    custom = policy(
        source(namespaces=["shop"]), action="CUSTOM", name="c", provider={"name": "ext"}, annotations=_SHADOW
    )
    rules = table(custom)
    denied = table(custom, policy({}, action="DENY", name="d", annotations=_SHADOW))
    asked = request("/a")
    decision = decide(rules, SIDECAR, asked)

    assert UNKNOWN == _shadow(rules)
    assert SAME == _shadow(rules, principal="")
    assert Outlook.WOULD_DENY is getattr(_shadow(denied), "outlook", None)
    refused = decide_shadow(rules, SIDECAR, asked, decision, {"ext": False})
    assert ShadowVerdict(Outlook.WOULD_DENY, "shop/c", "ns[shop]-policy[c]-rule[0]") == refused
    assert SAME == decide_shadow(rules, SIDECAR, asked, decision, {"ext": True})


@pytest.mark.parametrize("action", ["AUDIT", "CUSTOM"])
def test_what_never_decides_is_not_tried_out(action: str) -> None:
    """AUDIT, and the policy by which the request came to us."""
    provider = {"provider": {"name": "gatehouse"}} if action == "CUSTOM" else {}

    assert _shadow(table(policy({}, action=action, annotations=_SHADOW, **provider))) is None


def test_tcp_requests_have_verdicts_too() -> None:
    """The proposed set is compiled for each protocol."""
    rules = table(policy(to(ports=["8080"]), action="DENY", name="d", annotations=_SHADOW))

    assert Outlook.WOULD_DENY is getattr(_shadow(rules, protocol="tcp"), "outlook", None)


def test_the_table_counts_what_is_tried_out() -> None:
    """Replacing and removing policies keeps the count, by which targets are spared the question."""
    tried = compiled([policy({}, annotations=_SHADOW), policy({}, name="q", annotations=_REMOVED)])
    plain = compiled([policy({})])
    first = RuleTable.empty(HARDENED).replaced(tried, ())
    second = first.replaced(plain, ())
    third = second.replaced({}, ["AuthorizationPolicy/shop/q"])

    assert (2, 1, 0) == (first.tried, second.tried, third.tried)


def test_explaining_shows_the_verdict_and_the_mode() -> None:
    """A rule that is tried out is shown as such, matched or not."""
    rules = table(policy(to(paths=["/a"]), action="DENY", name="d", annotations=_SHADOW), policy({}))

    shown = explain(rules, SIDECAR, request("/a")).to_json()

    assert {"verdict": "would_deny", "policy": "shop/d", "rule": "ns[shop]-policy[d]-rule[0]"} == shown["shadow"]
    assert [("shadow", False, True), (None, True, True)] == [
        (rule.get("mode"), rule["enforced"], rule["matched"]) for rule in shown["rules"]
    ]
    assert "shadow" not in explain(table(policy({})), Target(PointKind.SIDECAR, "x"), request("/a")).to_json()


def test_cases_expect_what_is_enforced_and_report_what_would_change() -> None:
    """A case passes by the enforced decision; the report says beside it which cases would come out otherwise."""
    tried = policy(to(paths=["/a"]), action="DENY", name="d", annotations=_SHADOW)

    def case(name: str, path: str) -> dict[str, Any]:
        return {
            "name": name,
            "workload": {"namespace": "shop"},
            "policies": [tried],
            "request": {"path": path, "source_principal": PEER},
            "expected": "allow",
        }

    report = run_cases([case("a", "/a"), case("b", "/b")]).to_json()

    assert 0 == report["failed"]
    assert {
        "cases": 2,
        "changes": [{"name": "a", "verdict": "would_deny", "policy": "shop/d", "rule": "ns[shop]-policy[d]-rule[0]"}],
    } == report["shadow"]
