"""What Istio's own validation says of a policy, group by group: refused, accepted, or accepted with a warning."""

from __future__ import annotations

from typing import Any

import pytest

from app.policy.finding import Severity
from app.policy.finding_codes import Code
from app.policy.validate import validate
from tests.support.policies import LIMITS, document, policy, source, to, when

_REF = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "foo"}
_CUSTOM = {"action": "CUSTOM", "provider": {"name": "my-custom-authz"}}
# Warnings that have a counterpart in Istio; others are about what this service cannot honour.
_ISTIO_WARNINGS = {Code.EMPTY_SELECTOR, Code.DENY_WIDER_ON_TCP}

_LISTS = {
    "source": {
        "principals": "sa1",
        "requestPrincipals": "a/b",
        "namespaces": "ns1",
        "serviceAccounts": "ns1/sa1",
        "trustDomains": "td1",
        "ipBlocks": "1.2.3.4",
        "remoteIpBlocks": "1.2.3.0/24",
    },
    "operation": {"hosts": "a.com", "ports": "80", "methods": "GET", "paths": "/a"},
}
_KEYS = {
    "request.headers[:authority]": "productpage",
    "source.ip": "5.6.7.0/24",
    "remote.ip": "1.2.3.4",
    "source.namespace": "value",
    "source.serviceAccount": "ns/value",
    "source.trustDomain": "value",
    "source.principal": "value",
    "request.auth.principal": "value",
    "request.auth.audiences": "value",
    "request.auth.presenter": "value",
    "request.auth.claims[id]": "123",
    "request.auth.claims[a][b]": "123",
    "destination.ip": "5.6.7.0/24",
    "destination.port": "90",
    "connection.sni": "value",
    "experimental.envoy.filters.a.b[c]": "value",
}


def _not(name: str) -> str:
    return f"not{name[0].upper()}{name[1:]}"


def _rule(part: str, **fields: Any) -> dict[str, Any]:
    return source(**fields) if part == "source" else to(**fields)


def _outcome(written: dict[str, Any]) -> str:
    findings = validate(document(written), LIMITS)
    if any(finding.severity is Severity.ERROR for finding in findings):
        return "refused"
    return "warned" if any(finding.code in _ISTIO_WARNINGS for finding in findings) else "accepted"


@pytest.mark.parametrize(
    ("expected", "written"),
    [
        (
            "accepted",
            policy(
                {
                    **source(principals=["sa1"]),
                    "to": [{"operation": {"methods": ["GET"]}}, {"operation": {"methods": ["POST"]}}],
                    "when": [
                        {"key": "source.ip", "values": ["1.2.3.4", "5.6.7.0/24"]},
                        {"key": "request.headers[:authority]", "values": ["v1", "v2"]},
                    ],
                },
                selector={"matchLabels": {"app": "httpbin", "version": "v1"}},
            ),
        ),
        # Actions and providers.
        ("accepted", policy({}, **_CUSTOM)),
        ("refused", policy({}, action="CUSTOM", provider={"name": ""})),
        ("refused", policy({}, action="CUSTOM")),
        ("refused", policy(**_CUSTOM)),
        ("refused", policy({}, action="ALLOW", provider={"name": "x"})),
        ("refused", policy({}, action="DENY", provider={"name": "x"})),
        ("refused", policy({}, action="AUDIT", provider={"name": "x"})),
        ("refused", policy(source(namespaces=["ns"]), **_CUSTOM)),
        ("refused", policy(source(notPrincipals=["id"]), **_CUSTOM)),
        ("refused", policy(source(requestPrincipals=["req"]), **_CUSTOM)),
        ("refused", policy(source(notServiceAccounts=["sa"]), **_CUSTOM)),
        ("refused", policy(source(trustDomains=["td"]), **_CUSTOM)),
        ("refused", policy(when("source.namespace", "a"), **_CUSTOM)),
        ("refused", policy(when("source.principal", not_values=("a",)), **_CUSTOM)),
        ("refused", policy(when("request.auth.audiences", "a"), **_CUSTOM)),
        ("refused", policy(when("source.trustDomain", "a"), **_CUSTOM)),
        ("accepted", policy({**source(ipBlocks=["1.2.3.4"]), **to(paths=["/a"], hosts=["b"])}, **_CUSTOM)),
        # Rules that are missing or empty.
        ("accepted", policy()),
        ("refused", policy(action="DENY")),
        ("accepted", policy({}, action="DENY")),
        ("accepted", policy(action="AUDIT")),
        # Dry runs.
        ("accepted", policy({}, annotations={"istio.io/dry-run": "true"})),
        ("accepted", policy({}, action="DENY", annotations={"istio.io/dry-run": "false"})),
        ("refused", policy({}, annotations={"istio.io/dry-run": "foo"})),
        ("refused", policy({}, annotations={"istio.io/dry-run": "true"}, **_CUSTOM)),
        ("refused", policy({}, action="AUDIT", annotations={"istio.io/dry-run": "true"})),
        # Selectors and target references.
        ("warned", policy({}, selector={})),
        ("warned", policy({}, selector={"matchLabels": {}})),
        ("accepted", policy({}, selector={"matchLabels": {"app": ""}})),
        ("refused", policy({}, selector={"matchLabels": {"": "httpbin"}})),
        ("refused", policy({}, selector={"matchLabels": {"app": "httpbin-*"}})),
        ("refused", policy({}, selector={"matchLabels": {"app-*": "httpbin"}})),
        ("accepted", policy({}, targetRef=_REF)),
        ("accepted", policy({}, targetRefs=[_REF, {"group": "", "kind": "Service", "name": "foo"}])),
        ("accepted", policy({}, targetRefs=[{"group": "core", "kind": "Service", "name": "foo"}])),
        ("accepted", policy({}, targetRefs=[{"group": "networking.istio.io", "kind": "ServiceEntry", "name": "f"}])),
        ("accepted", policy({}, targetRefs=[{**_REF, "kind": "GatewayClass"}])),
        ("refused", policy({}, targetRef={**_REF, "name": ""})),
        ("refused", policy({}, targetRef={**_REF, "kind": "Pod"})),
        ("refused", policy({}, targetRef={**_REF, "group": "wrong"})),
        ("refused", policy({}, targetRef={**_REF, "namespace": "default"})),
        ("refused", policy({}, targetRefs=[_REF, {**_REF, "namespace": "default"}])),
        ("refused", policy({}, targetRef=_REF, selector={"matchLabels": {"app": "httpbin"}})),
        ("refused", policy({}, targetRefs=[_REF], selector={"matchLabels": {"app": "httpbin"}})),
        ("refused", policy({}, targetRefs=[_REF], selector={})),
        ("refused", policy({}, targetRefs=[_REF], targetRef=_REF)),
        # Parts without content.
        ("refused", policy({"from": []})),
        ("refused", policy({"from": [{}]})),
        ("refused", policy({"from": [{"source": {}}]})),
        ("refused", policy({"to": []})),
        ("refused", policy({"to": [{}]})),
        ("refused", policy({"to": [{"operation": {}}]})),
        ("refused", policy(rules=[None])),
        # Values.
        ("refused", policy(source(ipBlocks=["1.2.3.4", "300.3.3.3"]))),
        ("refused", policy(source(notIpBlocks=["1.2.3.4/33"]))),
        ("refused", policy(source(remoteIpBlocks=["a.b.c.d"]))),
        ("refused", policy(source(notRemoteIpBlocks=["1.2.3.0/a"]))),
        ("refused", policy(to(ports=["80", "port"]))),
        ("refused", policy(to(notPorts=["65536"]))),
        ("accepted", policy(source(ipBlocks=["1.2.3.4/24", "2001:db8::/32", "::1"]), to(ports=["0", "65535"]))),
        ("refused", policy(source(serviceAccounts=["a/b/c"]))),
        ("refused", policy(source(serviceAccounts=["a/"]))),
        ("refused", policy(source(notServiceAccounts=["/a"]))),
        ("refused", policy(source(serviceAccounts=["ns/sa"], principals=["p"]))),
        ("refused", policy(source(serviceAccounts=["ns/sa"], notNamespaces=["p"]))),
        ("refused", policy(source(notServiceAccounts=["ns/sa"], namespaces=["p"]))),
        ("accepted", policy(source(serviceAccounts=["ns/sa"], trustDomains=["td"], ipBlocks=["1.2.3.4"]))),
        ("accepted", policy(source(serviceAccounts=["a"] * 16))),
        ("refused", policy(source(serviceAccounts=["a"] * 17))),
        ("accepted", policy(source(trustDomains=["*", "a*", "*.b", "cluster.local"]))),
        ("refused", policy(source(trustDomains=["a*b"]))),
        ("refused", policy(source(notTrustDomains=["a/b"]))),
        ("refused", policy(when("source.trustDomain", "a*b"))),
        # Conditions.
        ("refused", policy({"when": [{"values": ["a"]}]})),
        ("refused", policy({"when": [{"key": "", "values": ["a"]}]})),
        ("refused", policy({"when": [{"key": "source.ip"}]})),
        ("refused", policy(when("source.ip", "a.b.c.d"))),
        ("refused", policy(when("source.ip", "1.2.3.4", not_values=("a.b.c.d",)))),
        ("refused", policy(when("remote.ip", "a.b.c.d"))),
        ("refused", policy(when("destination.ip", "a.b.c.d"))),
        ("refused", policy(when("destination.port", "80", "x"))),
        ("refused", policy(when("request.headers[:authority]", "productpage", ""))),
        ("refused", policy(when("request.headers[]", "productpage"))),
        ("refused", policy(when("request.auth.claims[]", "value"))),
        ("refused", policy(when("experimental.envoy.filters.a.b.x", "value"))),
        ("refused", policy(when("source.user", "value"))),
        ("refused", policy(when("destination.labels[app]", "value"))),
        ("refused", policy(when("destination.name", "value"))),
        ("refused", policy(when("destination.namespace", "value"))),
        ("refused", policy(when("destination.user", "value"))),
        ("refused", policy(when("unknown", "value"))),
        # DENY by HTTP fields alone.
        ("warned", policy(source(requestPrincipals=["id"]), action="DENY")),
        ("warned", policy(to(methods=["GET"]), action="DENY")),
        ("warned", policy({**source(namespaces=["a"]), **to(hosts=["b"])}, action="DENY")),
        ("accepted", policy(to(methods=["GET"], ports=["80"]), action="DENY")),
        ("accepted", policy({**source(requestPrincipals=["id"]), **to(ports=["80"])}, action="DENY")),
        ("accepted", policy(source(namespaces=["ns"]), action="DENY")),
        ("accepted", policy(to(methods=["GET"]), action="ALLOW")),
    ],
)
def test_the_groups_of_validation(expected: str, written: dict[str, Any]) -> None:
    """Istio's validation refuses, accepts or warns, and so does ours."""
    assert expected == _outcome(written)


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, fields in _LISTS.items() for name in fields])
def test_no_list_has_an_empty_string(part: str, name: str) -> None:
    """Every field and its negation is accepted with a value, and refused with an empty one beside it."""
    value = _LISTS[part][name]
    for field in (name, _not(name)):
        assert "accepted" == _outcome(policy(_rule(part, **{field: [value]})))
        assert "refused" == _outcome(policy(_rule(part, **{field: [value, ""]})))


@pytest.mark.parametrize("key", _KEYS)
def test_keys_of_conditions(key: str) -> None:
    """Every key is accepted with a value in either list, and refused with an empty one."""
    value = _KEYS[key]

    assert "accepted" == _outcome(policy(when(key, value, not_values=(value,))))
    assert "refused" == _outcome(policy(when(key, value, "")))
    assert "refused" == _outcome(policy(when(key, not_values=(value, ""))))


@pytest.mark.parametrize(
    ("expected", "path"),
    [
        ("accepted", "/{*}/foo"),
        ("accepted", "/{*}/foo/"),
        ("accepted", "/foo/{**}/bar"),
        ("accepted", "/foo/bar/{**}"),
        ("accepted", "/{*}/-._~%20!$&'()+,;:@/a=c"),
        ("accepted", "/foo/*"),
        ("accepted", "/foo/?bar[0]"),
        ("refused", "/foo/{**}buzz/bar"),
        ("refused", "/{*}/foo/{}/bar"),
        ("refused", "/foo/{*}/bar/*"),
        ("refused", "/foo/{*}/bar/**/buzz"),
        ("refused", "/foo/{buzz}/bar"),
        ("refused", "/{buzz}"),
        ("refused", "/foo/{buzz}/bar/{**}"),
        ("refused", "/foo/{buzz=*}/bar/{**}"),
        ("refused", "/{*}/foo/{buzz=**}/bar"),
        ("refused", "/{*}/foo/{**}bar"),
        ("refused", "/{*}/foo/{*}.txt"),
        ("refused", "/{*}/foo/{temp"),
        ("refused", "/{*}/foo/temp}/bar"),
        ("refused", "/{*}/foo/temp}/*"),
        ("refused", "/{**}/foo/temp/{*}/bar"),
        ("refused", "/{**}/{**}"),
        ("refused", "/{**}/foo/temp/{**}/bar"),
        ("refused", "/{*}/foo/?abc"),
        ("refused", "/foo/temp}"),
    ],
)
def test_templates_of_paths(expected: str, path: str) -> None:
    """Operators are whole segments, `{**}` is the last one, and no other brace stands in a path."""
    for field in ("paths", "notPaths"):
        assert expected == _outcome(policy(to(**{field: [path]})))
