"""Findings: the groups of Istio's own validation, and what cannot be honoured here."""

from __future__ import annotations

from typing import Any

import pytest

from app.limits import PolicyLimits
from app.policy.finding import Severity
from app.policy.validate import errors_of, validate
from tests.support.policies import LIMITS, document, policy, source, to, when

_REF = {"targetRefs": [{"group": "", "kind": "Service", "name": "orders"}]}


def _errors(value: dict[str, Any], limits: PolicyLimits = LIMITS) -> list[str]:
    return [error.pointer for error in errors_of(validate(document(value), limits))]


def _warnings(value: dict[str, Any]) -> list[str]:
    found = validate(document(value), LIMITS)
    return [finding.pointer for finding in found if finding.severity is Severity.WARNING]


def _gatehouse(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name} if kind == "Mesh" else {"name": name, "namespace": "shop"}
    return {"apiVersion": "gatehouse.dev/v1", "kind": kind, "metadata": metadata, "spec": spec}


@pytest.mark.parametrize(
    "value",
    [
        policy(to(methods=["GET"], paths=["/a", "/b*", "*.css", "*", "/c/{*}/{**}"], hosts=["a.com"]), **_REF),
        policy(
            source(principals=["*"], notPrincipals=["a/ns/b/sa/c"], namespaces=["x"], ipBlocks=["10.0.0.0/8"]), **_REF
        ),
        policy(source(serviceAccounts=["a/b", "c"], trustDomains=["td", "*.td", "td*", "*"]), **_REF),
        policy(when("request.headers[x]", "a"), when("source.ip", "10.0.0.1"), when("destination.port", "80"), **_REF),
        policy({}, action="DENY", **_REF),
        policy(to(methods=["GET"], ports=["80"]), action="DENY", **_REF),
        policy({}, action="CUSTOM", provider={"name": "gatehouse"}, **_REF),
        policy({}, annotations={"istio.io/dry-run": "false"}, **_REF),
        _gatehouse("Mesh", "mesh", {"trustDomain": "example.org"}),
        _gatehouse(
            "EnforcementPoint",
            "w",
            {"kind": "waypoint", "gateway": "w", "requireService": True, "caller": {"listener": "local"}},
        ),
    ],
)
def test_good_documents_have_no_findings(value: dict[str, Any]) -> None:
    """Ordinary documents pass without a remark."""
    assert [] == validate(document(value), LIMITS)


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        (policy({}, action="CUSTOM"), "/spec/provider/name"),
        (policy({}, action="CUSTOM", provider={"name": ""}), "/spec/provider/name"),
        (policy({}, action="CUSTOM", provider={"name": "x", "url": "y"}), "/spec/provider/url"),
        (policy({}, provider={"name": "x"}), "/spec/provider"),
        (policy({}, action="REJECT"), "/spec/action"),
        (policy(action="DENY"), "/spec/rules"),
        (policy(action="CUSTOM", provider={"name": "x"}), "/spec/rules"),
        (policy({}, annotations={"istio.io/dry-run": "yes"}), "/metadata/annotations/istio.io~1dry-run"),
        (
            policy({}, action="AUDIT", annotations={"istio.io/dry-run": "true"}),
            "/metadata/annotations/istio.io~1dry-run",
        ),
        (policy({"from": []}), "/spec/rules/0/from"),
        (policy({"from": None}), "/spec/rules/0/from"),
        (policy({"to": []}), "/spec/rules/0/to"),
        (policy({"from": [{}]}), "/spec/rules/0/from/0/source"),
        (policy({"from": [{"source": {}}]}), "/spec/rules/0/from/0/source"),
        (policy({"to": [{"operation": {}}]}), "/spec/rules/0/to/0/operation"),
        (policy({"from": [None]}), "/spec/rules/0/from/0"),
        (policy(source(ipBlocks=["10.0.0.0/33"])), "/spec/rules/0/from/0/source/ipBlocks/0"),
        (policy(source(notRemoteIpBlocks=["x"])), "/spec/rules/0/from/0/source/notRemoteIpBlocks/0"),
        (policy(to(ports=["80", "99999"])), "/spec/rules/0/to/0/operation/ports/1"),
        (policy(to(ports=[80])), "/spec/rules/0/to/0/operation/ports/0"),
        (policy(to(paths=[""])), "/spec/rules/0/to/0/operation/paths/0"),
        (policy(to(notMethods=["GET", ""])), "/spec/rules/0/to/0/operation/notMethods/1"),
        (policy(to(paths=["/{*}.txt"])), "/spec/rules/0/to/0/operation/paths/0"),
        (policy(to(path=["/a"])), "/spec/rules/0/to/0/operation/path"),
        (policy(to(paths="/a")), "/spec/rules/0/to/0/operation/paths"),
        (policy({"when": [{"values": ["a"]}]}), "/spec/rules/0/when/0/key"),
        (policy(when("source.user", "a")), "/spec/rules/0/when/0/key"),
        (policy(when("request.headers", "a")), "/spec/rules/0/when/0/key"),
        (policy(when("request.headers[]", "a")), "/spec/rules/0/when/0/key"),
        (policy(when("request.auth.claims", "a")), "/spec/rules/0/when/0/key"),
        (policy(when("experimental.envoy.filters.x", "a")), "/spec/rules/0/when/0/key"),
        (policy(when("source.ip", "x")), "/spec/rules/0/when/0/values/0"),
        (policy(when("destination.port", not_values=("-1",))), "/spec/rules/0/when/0/notValues/0"),
        (policy(when("source.ip")), "/spec/rules/0/when/0"),
        (policy(when("source.namespace", "")), "/spec/rules/0/when/0/values/0"),
        (policy({"when": [{"key": "source.ip", "values": ["1.2.3.4"], "value": "x"}]}), "/spec/rules/0/when/0/value"),
        (policy(source(serviceAccounts=["a/b/c"])), "/spec/rules/0/from/0/source/serviceAccounts/0"),
        (policy(source(serviceAccounts=["/b"])), "/spec/rules/0/from/0/source/serviceAccounts/0"),
        (policy(source(serviceAccounts=["a" * 321])), "/spec/rules/0/from/0/source/serviceAccounts/0"),
        (policy(source(serviceAccounts=["a"] * 17)), "/spec/rules/0/from/0/source/serviceAccounts"),
        (policy(source(serviceAccounts=["a"], namespaces=["b"])), "/spec/rules/0/from/0/source/serviceAccounts"),
        (policy(source(serviceAccounts=["a"], notPrincipals=["b"])), "/spec/rules/0/from/0/source/serviceAccounts"),
        (policy(source(trustDomains=["a/b"])), "/spec/rules/0/from/0/source/trustDomains/0"),
        (policy(source(trustDomains=["a*b"])), "/spec/rules/0/from/0/source/trustDomains/0"),
        (policy(source(trustDomains=["*a*"])), "/spec/rules/0/from/0/source/trustDomains/0"),
        (policy({}, selector={"matchLabels": {"app": "*"}}), "/spec/selector/matchLabels"),
        (policy({}, selector={"matchLabels": {"": "x"}}), "/spec/selector/matchLabels"),
        (policy({}, selector={"labels": {}}), "/spec/selector/labels"),
        (policy({}, targetRefs=[{"kind": "Service", "name": ""}]), "/spec/targetRefs/0/name"),
        (policy({}, targetRefs=[{"kind": "Pod", "name": "x"}]), "/spec/targetRefs/0/kind"),
        (policy({}, targetRefs=[{"group": "apps", "kind": "Service", "name": "x"}]), "/spec/targetRefs/0/kind"),
        (policy({}, targetRefs=[{"kind": "Service", "name": "x", "namespace": "y"}]), "/spec/targetRefs/0/namespace"),
        (policy({}, selector={"matchLabels": {"a": "b"}}, **_REF), "/spec/selector"),
        (policy({}, targetRef={"kind": "Service", "name": "x"}, **_REF), "/spec/targetRef"),
        (
            policy(source(principals=["a"]), action="CUSTOM", provider={"name": "x"}),
            "/spec/rules/0/from/0/source/principals",
        ),
        (
            policy(source(notNamespaces=["a"]), action="CUSTOM", provider={"name": "x"}),
            "/spec/rules/0/from/0/source/notNamespaces",
        ),
        (
            policy(when("request.auth.claims[a]", "a"), action="CUSTOM", provider={"name": "x"}),
            "/spec/rules/0/when/0/key",
        ),
        (policy(when("source.principal", "a"), action="CUSTOM", provider={"name": "x"}), "/spec/rules/0/when/0/key"),
        (policy(name="Upper_Case"), "/metadata/name"),
        (policy(namespace="a.b"), "/metadata/namespace"),
        (_gatehouse("Mesh", "mesh", {"trustDomain": "A B"}), "/spec/trustDomain"),
        (_gatehouse("EnforcementPoint", "w", {"kind": "waypoint"}), "/spec/caller"),
    ],
)
def test_errors(value: dict[str, Any], pointer: str) -> None:
    """Every group of errors, each with a pointer to the place."""
    assert pointer in _errors(value)


def test_case_098_an_unknown_field_is_named_at_every_level() -> None:
    """Spec, rule, clause, condition: what is not known is refused by name."""
    value = policy(
        {"form": [], "from": [{"sources": {}}], "when": [{"key": "source.ip", "values": ["1.1.1.1"], "x": 1}]}, rulez=[]
    )

    assert {
        "/spec/rulez",
        "/spec/rules/0/form",
        "/spec/rules/0/from/0/sources",
        "/spec/rules/0/when/0/x",
    } <= set(_errors(value))


def test_case_103_an_empty_list_is_an_error() -> None:
    """An empty list of principals could mean all or none, so it is refused."""
    assert ["/spec/rules/0/from/0/source/principals"] == _errors(policy(source(principals=[], namespaces=["a"])))


def test_bounds_are_errors() -> None:
    """More rules, entries, references or characters than the limits are refused."""
    limits = PolicyLimits(max_rules=1, max_items=2, max_value_chars=8, max_target_refs=1)
    ref = {"kind": "Service", "name": "x"}

    assert "/spec/rules" in _errors(policy({}, {}), limits)
    assert "/spec/rules/0/to/0/operation/paths" in _errors(policy(to(paths=["/a", "/b", "/c"])), limits)
    assert "/spec/rules/0/to/0/operation/paths/0" in _errors(policy(to(paths=["/12345678"])), limits)
    assert "/spec/targetRefs" in _errors(policy({}, targetRefs=[ref, ref]), limits)
    assert "/spec/rules/0/from" in _errors(policy({"from": [source(namespaces=["a"])["from"][0]] * 3}), limits)


def test_control_characters_are_errors() -> None:
    """A value with a control character can never match and is not shown anywhere."""
    assert ["/spec/rules/0/to/0/operation/paths/0"] == _errors(policy(to(paths=["/a\nb"])))


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        (policy({}, selector={}), "/spec/selector"),
        (policy({}), "/spec"),
        (policy(**_REF), "/spec/rules"),
        (policy(to(methods=["GET"]), action="DENY", **_REF), "/spec/rules/0"),
        (policy({}, annotations={"istio.io/dry-run": "1"}, **_REF), "/metadata/annotations/istio.io~1dry-run"),
        (policy({}, action="AUDIT", **_REF), "/spec/action"),
        (policy(when("connection.sni", "b"), **_REF), "/spec/rules/0/when/0/values"),
        (policy(when("remote.ip", "1.1.1.1"), **_REF), "/spec/rules/0/when/0/values"),
        (policy(when("experimental.envoy.filters.a[b]", "c"), **_REF), "/spec/rules/0/when/0/values"),
        (policy(source(principals=["spiffe://a/ns/b/sa/c"]), **_REF), "/spec/rules/0/from/0/source/principals/0"),
        (policy(source(serviceAccounts=["a/*"]), **_REF), "/spec/rules/0/from/0/source/serviceAccounts/0"),
        (policy(to(paths=["/a?b"]), **_REF), "/spec/rules/0/to/0/operation/paths/0"),
        (policy(to(paths=["a"]), **_REF), "/spec/rules/0/to/0/operation/paths/0"),
        (policy(to(paths=["/a*b"]), **_REF), "/spec/rules/0/to/0/operation/paths/0"),
        (policy(to(methods=["get"]), **_REF), "/spec/rules/0/to/0/operation/methods/0"),
        (policy({}, annotations={"gatehouse.dev/mode": "shadow"}, **_REF), "/metadata/annotations/gatehouse.dev~1mode"),
        (policy({}, annotations={"gatehouse.dev/mode": "off"}, **_REF), "/metadata/annotations/gatehouse.dev~1mode"),
        (
            policy({}, action="AUDIT", annotations={"gatehouse.dev/mode": "shadow"}, **_REF),
            "/metadata/annotations/gatehouse.dev~1mode",
        ),
        (_gatehouse("Mesh", "mesh", {"hardened": False}), "/spec/hardened"),
        (_gatehouse("Mesh", "mesh", {"pathNormalization": "NONE"}), "/spec/pathNormalization"),
        (
            _gatehouse(
                "EnforcementPoint",
                "w",
                {"kind": "waypoint", "gateway": "w", "requireIdentity": False, "caller": {"listener": "l"}},
            ),
            "/spec/requireIdentity",
        ),
        (
            _gatehouse("EnforcementPoint", "w", {"kind": "waypoint", "gateway": "w", "caller": {"listener": "l"}}),
            "/spec/requireService",
        ),
    ],
)
def test_warnings(value: dict[str, Any], pointer: str) -> None:
    """Doubts and what cannot be honoured are said, and keep nothing out."""
    assert pointer in _warnings(value)
    assert [] == _errors(value)


def test_errors_come_first() -> None:
    """A reader sees what must be mended before what may be."""
    findings = validate(
        document(policy(source(ipBlocks=["10.0.0.1"]), when("connection.sni", "b"), to(ports=["x"]))), LIMITS
    )

    assert [Severity.ERROR, Severity.WARNING, Severity.WARNING] == [finding.severity for finding in findings]
    assert {"severity", "pointer", "code", "message"} == set(findings[0].to_json())


def test_a_misspelt_action_is_the_only_thing_that_is_found() -> None:
    """What the action may have meant is not guessed."""
    assert ["/spec/action"] == _errors(policy(action="ALOW", **_REF))
