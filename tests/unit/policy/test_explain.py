"""Explanations: every rule considered, the first field that failed, the nearest miss."""

from __future__ import annotations

from typing import Any

from app.policy.decision import Reason
from app.policy.explain import Explanation, explain
from app.policy.request import Request
from app.policy.target import PointKind, Target
from tests.support.policies import PEER, SIDECAR, policy, request, source, table, to, when


def _explain(*values: dict[str, Any], path: str = "/", **fields: Any) -> Explanation:
    return explain(table(*values), SIDECAR, request(path, **fields))


def test_the_first_failed_field_is_shown() -> None:
    """Pointer, what is wanted and what the request had."""
    rule = {
        "from": [{"source": {"namespaces": ["shop"]}}],
        "to": [{"operation": {"methods": ["GET"], "paths": ["/orders"]}}],
    }

    considered = _explain(policy(rule), path="/other").rules[0]

    assert not considered.matched
    assert considered.failure is not None
    assert ("/spec/rules/0/to/0/operation/paths", "paths", ("/orders",), "/other") == (
        considered.failure.pointer,
        considered.failure.field,
        considered.failure.wanted,
        considered.failure.got,
    )


def test_the_nearest_miss_failed_in_the_fewest_places() -> None:
    """Of the ALLOW rules, the one with the least that did not hold."""
    explanation = _explain(
        policy({**source(namespaces=["x"]), **to(paths=["/x"])}, name="a"),
        policy({**source(namespaces=["shop"]), **to(paths=["/x"])}, name="b"),
        policy(to(paths=["/x"]), action="DENY", name="c"),
        path="/y",
    )

    assert Reason.NO_RULE_MATCHED is explanation.decision.reason
    assert explanation.nearest_miss is not None
    assert "shop/b" == explanation.nearest_miss.policy


def test_there_is_no_miss_when_a_rule_decided() -> None:
    """A denial by a rule, and an allowance, have no nearest miss."""
    assert _explain(policy({}, action="DENY")).nearest_miss is None
    assert _explain(policy({})).nearest_miss is None
    assert _explain().nearest_miss is None


def test_a_reading_is_named_when_istio_would_have_matched() -> None:
    """Where only hardened matching fails the rule, the reading that did it is shown."""
    failure = _explain(policy(to(paths=["/public/*"])), path="/public/..;/admin").rules[0].failure

    assert failure is not None
    assert "/admin" in failure.reading
    assert failure.got != "/public/..;/admin"


def test_what_does_not_take_part_is_listed_as_not_enforced() -> None:
    """Dry runs, AUDIT and our own CUSTOM policy are considered and do not count."""
    explanation = _explain(
        policy({}, action="DENY", name="tried", annotations={"istio.io/dry-run": "true"}),
        policy({}, action="AUDIT", name="audit"),
        policy({}, action="CUSTOM", name="us", provider={"name": "gatehouse"}),
    )

    assert Reason.NO_ALLOW_POLICY is explanation.decision.reason
    assert [(False, True)] * 3 == [(rule.enforced, rule.matched) for rule in explanation.rules]


def test_a_rule_that_cannot_match_there_says_so() -> None:
    """At ztunnel an ALLOW rule with HTTP fields is dropped; it stays visible."""
    explanation = explain(
        table(policy(to(paths=["/"]))),
        Target(PointKind.ZTUNNEL, "shop"),
        Request(protocol="tcp", principal=PEER, port=80),
    )

    assert Reason.NO_RULE_MATCHED is explanation.decision.reason
    assert explanation.rules[0].failure is not None
    assert "ztunnel" in explanation.rules[0].failure.got


def test_secrets_are_not_shown() -> None:
    """The value of a header that carries credentials does not get into an explanation."""
    explanation = _explain(
        policy(when("request.headers[authorization]", "Basic x")), headers={"authorization": ("Bearer secret-token",)}
    )

    assert "secret-token" not in str(explanation.to_json())


def test_long_values_are_cut() -> None:
    """What a client sent is shown in part only."""
    explanation = _explain(policy(to(paths=["/x"])), path="/" + "a" * 10_000)

    assert explanation.rules[0].failure is not None
    assert len(explanation.rules[0].failure.got) <= 256


def test_a_malformed_request_is_explained_by_its_decision() -> None:
    """No rule is considered for what is denied before any rule."""
    explanation = _explain(policy({}), path="admin")

    assert Reason.MALFORMED is explanation.decision.reason
    assert () == explanation.rules


def test_the_json_has_everything() -> None:
    """Decision, rules, nearest miss, readings."""
    value = _explain(policy(to(paths=["/x"])), path="/a;b/").to_json()

    assert ["decision", "rules", "nearestMiss", "readings"] == list(value)
    assert {"allowed": False, "reason": "NO_RULE_MATCHED", "policy": "", "rule": ""}.items() <= value[
        "decision"
    ].items()
    assert value["nearestMiss"] == value["rules"][0]
    assert ["policy", "rule", "action", "enforced", "matched", "failure"] == list(value["rules"][0])
    assert {"/a;b/", "/a;b", "/a/", "/a"} == set(value["readings"]["path"])
