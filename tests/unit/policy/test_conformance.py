"""What Istio decides, scenario by scenario: one set of policies, many requests.

The scenarios are those of Istio's and ztunnel's own tests, with values of ours; the shared decision cases have one
request each. Every scenario gathers what came out otherwise, so that a failure shows its whole extent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from app.policy.cases import run_case
from tests.support.policies import policy, source, to, when

_WEB, _MOBILE = "spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/apps/sa/mobile"
_PEERS = (_WEB, _MOBILE, None)
_HTTP, _HTTP2, _GRPC, _TCP = 18080, 18085, 17070, 19090
_CALL = "/orders.Orders/Place"
_SIDECAR = {"namespace": "shop", "labels": {"app": "orders"}, "service": "orders"}
_WAYPOINT = {"kind": "waypoint", "namespace": "shop", "service": "orders", "gateway_name": "waypoint"}
_ZTUNNEL = {**_SIDECAR, "kind": "ztunnel"}
_INGRESS = {"kind": "gateway", "namespace": "istio-system", "labels": {"istio": "ingressgateway"}}
_SELECTOR = {"selector": {"matchLabels": {"app": "orders"}}}
_AT_INGRESS = {"selector": {"matchLabels": _INGRESS["labels"]}, "namespace": "istio-system"}
_FIRST, _SECOND = {"iss": "first@example.org", "sub": "alice"}, {"iss": "second@example.org", "sub": "bob"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Policies at one workload, and requests with whether each is allowed."""

    name: str
    policies: list[dict[str, Any]]
    rows: list[tuple[bool, dict[str, Any]]]
    workload: dict[str, Any]


def _tcp(**members: Any) -> dict[str, Any]:
    return {"protocol": "tcp", "port": _TCP, **members}


def _by_port(fields: dict[str, Any], paths: dict[str, Any]) -> list[dict[str, Any]]:
    """Rules for the same sources on HTTP, gRPC and TCP ports."""
    return [
        {**source(**fields), **to(ports=[str(_HTTP), str(_HTTP2)], methods=["GET"], **paths)},
        {**source(**fields), **to(ports=[str(_GRPC)], methods=["POST"], paths=[_CALL])},
        {**source(**fields), **to(ports=[str(_TCP)])},
    ]


def _allowed_by_identity() -> Iterator[Scenario]:
    for field, value in (
        ("principals", "cluster.local/ns/shop/sa/web"),
        ("namespaces", "shop"),
        ("serviceAccounts", "shop/web"),
        ("serviceAccounts", "web"),
    ):
        rows = []
        for peer in _PEERS:
            known = peer == _WEB
            rows += [(known, _tcp(source_principal=peer))]
            rows += [(known, {"protocol": "grpc", "port": _GRPC, "path": _CALL, "source_principal": peer})]
            for path, allowed in (("/open", known), ("/open?x=y", known), ("/shut", False)):
                rows += [(allowed, {"port": port, "path": path, "source_principal": peer}) for port in (_HTTP, _HTTP2)]
        yield Scenario(
            name=f"allow by {field} {value}",
            policies=[policy(*_by_port({field: [value]}, {"paths": ["/open"]}), **_SELECTOR)],
            rows=rows,
            workload=_SIDECAR,
        )


def _denied_with_exceptions() -> Iterator[Scenario]:
    everywhere = policy(
        to(ports=[str(_HTTP)], paths=["/never*"], notPaths=["/never/mind"]),
        action="DENY",
        name="everywhere",
        namespace="istio-system",
    )
    for field, value in (("principals", "cluster.local/ns/apps/sa/mobile"), ("namespaces", "apps")):
        rows = []
        for peer in _PEERS:
            passes = peer != _MOBILE
            rows += [(passes, _tcp(source_principal=peer))]
            for path, allowed in (
                ("/shut", passes),
                ("/shut?x=y", passes),
                ("/shut/but", True),
                ("/open", True),
                ("/never", False),
                ("/never?x=y", False),
                ("/never/mind", True),
            ):
                rows += [(allowed, {"port": _HTTP, "path": path, "source_principal": peer})]
        here = policy(
            *_by_port({field: [value]}, {"paths": ["/shut*"], "notPaths": ["/shut/but"]}), action="DENY", **_SELECTOR
        )
        yield Scenario(name=f"deny by {field}", policies=[everywhere, here], rows=rows, workload=_SIDECAR)


def _gateways() -> Iterator[Scenario]:
    hosts = policy(
        to(hosts=["deny.example.org", "*.suffix.example.org", "prefix.example.*"]),
        {"to": [{"operation": {"hosts": ["internal.example.org"]}}, {"operation": {"paths": ["/private"]}}]},
        {**source(remoteIpBlocks=["172.17.72.46", "192.168.4.0/23"]), **to(hosts=["blocked.example.org"])},
        {**source(notRemoteIpBlocks=["172.23.240.0/22"]), **to(hosts=["chosen.example.org"])},
        {**to(hosts=["asked.example.org"]), **when("remote.ip", "10.242.5.7", "10.124.99.0/24")},
        action="DENY",
        **_AT_INGRESS,
    )
    yield Scenario(
        name="hosts and remote addresses at an ingress gateway",
        policies=[hosts],
        workload=_INGRESS,
        rows=[
            (allowed, {"host": host, "path": path, "remote_ip": address, "source_principal": None})
            for allowed, host, path, address in (
                (False, "deny.example.org", "/", None),
                (False, "Deny.Example.ORG", "/", None),
                (False, "a.SUFFIX.example.org", "/", None),
                (False, "PREFIX.example.net", "/", None),
                (True, "www.example.org", "/", "172.16.0.1"),
                (False, "www.example.org", "/private", "172.16.0.1"),
                (False, "internal.example.org", "/", "172.16.0.1"),
                (False, "blocked.example.org", "/", "172.17.72.46"),
                (False, "blocked.example.org", "/", "192.168.5.233"),
                (True, "blocked.example.org", "/", "10.4.5.6"),
                (False, "chosen.example.org", "/", "10.2.3.4"),
                (True, "chosen.example.org", "/", "172.23.242.188"),
                (False, "asked.example.org", "/", "10.242.5.7"),
                (False, "asked.example.org", "/", "10.124.99.10"),
                (True, "asked.example.org", "/", "10.4.5.6"),
            )
        ],
    )
    users = policy(
        {**to(hosts=["alice.example.org"]), **source(requestPrincipals=["first@example.org/alice"])},
        {**to(hosts=["anyone.example.org"]), **source(requestPrincipals=["*"])},
        to(paths=["/healthz"]),
        **_AT_INGRESS,
    )
    trusted = {"trusted_issuers": [_FIRST["iss"], _SECOND["iss"]]}
    yield Scenario(
        name="end users at an ingress gateway",
        policies=[users],
        workload=_INGRESS,
        rows=[
            (allowed, {"host": host, "path": path, "jwt_claims": claims, "jwt_state": state, **trusted})
            for allowed, host, path, claims, state in (
                (False, "alice.example.org", "/", None, "none"),
                (True, "alice.example.org", "/", _FIRST, "valid"),
                (False, "alice.example.org", "/", _SECOND, "valid"),
                (False, "alice.example.org", "/", None, "expired"),
                (True, "anyone.example.org", "/", _FIRST, "valid"),
                (True, "anyone.example.org", "/", _SECOND, "valid"),
                (False, "anyone.example.org", "/", None, "none"),
                (False, "other.example.org", "/", _FIRST, "valid"),
                (True, "alice.example.org", "/healthz", None, "none"),
                (False, "alice.example.org", "/healthz", None, "untrusted_issuer"),
            )
        ],
    )


def _conditions() -> Iterator[Scenario]:
    address, other = "10.244.1.10", "10.244.2.20"
    own = {"destination_ip": "10.244.1.20", "port": _HTTP, "sni": "outbound_.18080_._.orders.shop.svc.cluster.local"}
    asked = {
        "request.headers[x-foo]": ("foo", "bar"),
        "source.ip": (address, other),
        "source.namespace": ("shop", "apps"),
        "source.principal": ("cluster.local/ns/shop/sa/web", "cluster.local/ns/apps/sa/mobile"),
        "source.serviceAccount": ("web", "apps/mobile"),
        "source.trustDomain": ("cluster.local", "*.example"),
        "destination.ip": ("10.244.1.20", "1.2.3.4"),
        "destination.port": (str(_HTTP), "1"),
        "connection.sni": ("*.orders.shop.svc.cluster.local", "never"),
    }
    mine = {"source_principal": _WEB, "source_ip": address, "headers": {"X-Foo": "foo"}, **own}
    theirs = {
        "source_principal": "spiffe://b.example/ns/apps/sa/mobile",
        "source_ip": other,
        "headers": {"X-Foo": "bar"},
        "destination_ip": "1.2.3.4",
        "port": 1,
        "sni": "never",
    }
    for key, (good, bad) in asked.items():
        if key == "source.principal":
            bad = "b.example/ns/apps/sa/mobile"  # noqa: PLW2901 - the other peer is of another trust domain
        yield Scenario(
            name=f"when {key}",
            workload=_SIDECAR,
            policies=[
                policy(
                    {**to(paths=["/values"]), **when(key, good)},
                    {**to(paths=["/not"]), **when(key, not_values=(bad,))},
                    {**to(paths=["/both"]), **when(key, good, bad, not_values=(bad,))},
                    **_SELECTOR,
                )
            ],
            rows=[
                *((True, {**mine, "path": path}) for path in ("/values", "/not", "/both")),
                *((False, {**theirs, "path": path}) for path in ("/values", "/not", "/both", "/other")),
            ],
        )


def _ambient() -> Iterator[Scenario]:
    rules = [
        to(paths=["/allowed"], methods=["GET"]),
        {**source(principals=["cluster.local/ns/shop/sa/web"]), **to(paths=["/known"], methods=["GET"])},
        to(paths=["/wild*"], methods=["GET"]),
        {**to(paths=["/headers"]), **when("request.headers[x-test]", "match", not_values=("other",))},
        to(methods=["POST"]),
    ]
    shut = to(paths=["/explicit"])
    rows = [
        (False, {"path": "/deny"}),
        (True, {"path": "/allowed"}),
        (True, {"path": "/known", "source_principal": _WEB}),
        (False, {"path": "/known", "source_principal": _MOBILE}),
        (False, {"path": "/known", "source_principal": None}),
        (True, {"path": "/wildcard"}),
        (True, {"path": "/headers", "headers": {"X-Test": "match"}}),
        (False, {"path": "/headers", "headers": {"x-test": ["match", "other"]}}),
        (True, {"path": "/x", "method": "POST"}),
        (False, {"path": "/explicit", "method": "POST"}),
    ]
    gateway = {"targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "waypoint"}]}
    for workload, attached in ((_WAYPOINT, gateway), (_SIDECAR, _SELECTOR)):
        yield Scenario(
            name=f"L7 at {workload.get('kind', 'sidecar')}",
            policies=[policy(*rules, **attached), policy(shut, action="DENY", name="shut", **attached)],
            rows=rows,
            workload=workload,
        )
    nothing = policy(name="nothing", namespace="istio-system")
    from_waypoint = policy(source(principals=["cluster.local/ns/shop/sa/waypoint"]), name="only")
    waypoints = {"group": "gateway.networking.k8s.io", "kind": "GatewayClass", "name": "istio-waypoint"}
    no_waypoint = policy(name="closed", namespace="istio-system", targetRefs=[waypoints])
    via = _tcp(source_principal="spiffe://cluster.local/ns/shop/sa/waypoint")
    for name, workload, policies, row in (
        ("ztunnel denies by default", _ZTUNNEL, [nothing], (False, via)),
        ("ztunnel lets the waypoint in", _ZTUNNEL, [nothing, from_waypoint], (True, via)),
        ("ztunnel lets nobody else in", _ZTUNNEL, [nothing, from_waypoint], (False, _tcp(source_principal=_WEB))),
        ("a waypoint minds no policy of workloads", _WAYPOINT, [nothing, from_waypoint], (True, {})),
        ("a policy of all waypoints", _WAYPOINT, [nothing, from_waypoint, no_waypoint], (False, {})),
        ("is none of ztunnel", _ZTUNNEL, [no_waypoint], (True, via)),
    ):
        yield Scenario(name=name, policies=policies, rows=[row], workload=workload)


# A rule, whether it has HTTP fields, and whether a peer of `shop` and port 80 must both, or one of them, be there.
_TCP_RULES: list[tuple[dict[str, Any], bool, bool, bool]] = [
    ({**source(requestPrincipals=["u"]), **to(methods=["GET"])}, True, False, False),
    (to(methods=["GET"]), True, False, False),
    (source(requestPrincipals=["u"]), True, False, False),
    ({**source(namespaces=["shop"]), **to(methods=["GET"])}, True, True, False),
    ({**source(requestPrincipals=["u"]), **to(ports=["80"])}, True, False, True),
    ({**source(requestPrincipals=["u"]), **to(methods=["GET"], ports=["80"])}, True, False, True),
    ({**source(requestPrincipals=["u"], namespaces=["shop"]), **to(methods=["GET"], ports=["80"])}, True, True, True),
    ({**source(namespaces=["shop"]), **to(ports=["80"])}, False, True, True),
    (when("request.headers[:method]", "GET"), True, False, False),
    (when("destination.port", "80"), False, False, True),
    ({**source(namespaces=["shop"]), **when("request.auth.claims[a]", not_values=("b",))}, True, True, False),
    ({"from": [*source(requestPrincipals=["u"])["from"], *source(namespaces=["shop"])["from"]]}, True, False, False),
    ({"to": [*to(hosts=["a"])["to"], *to(ports=["80"])["to"]]}, True, False, False),
]


def _on_tcp() -> Iterator[Scenario]:
    for index, (rule, has_http, needs_peer, needs_port) in enumerate(_TCP_RULES):
        requests = [(peer, port) for peer in (_WEB, _MOBILE) for port in (80, 81)]
        matched = [(peer == _WEB or not needs_peer) and (port == 80 or not needs_port) for peer, port in requests]
        for action, allowed in (
            ("ALLOW", [match and not has_http for match in matched]),  # never wider than written
            ("DENY", [not match for match in matched]),
            ("CUSTOM", [not match for match in matched]),
            ("AUDIT", [True for _ in matched]),
        ):
            more = {"provider": {"name": "opa"}} if action == "CUSTOM" else {}
            members = {"provider_decisions": {"opa": "deny"}}
            yield Scenario(
                name=f"TCP rule {index} of {action}",
                policies=[policy(rule, action=action, **more)],
                rows=[
                    (expected, _tcp(source_principal=peer, port=port, **members))
                    for expected, (peer, port) in zip(allowed, requests, strict=True)
                ],
                workload=_SIDECAR,
            )


_FORMS = (
    *(("abc", text, text == "abc") for text in ("abc", "abcd", "xabc", "ABC")),
    *(("ab*", text, text.startswith("ab")) for text in ("abc", "ab", "a", "AB")),
    *(("*bc", text, text.endswith("bc")) for text in ("abc", "bc", "bcd")),
    *(("a*c", text, text == "a*c") for text in ("abc", "a*c")),
    *(("*b*", text, text.endswith("b*")) for text in ("xb*", "abc")),
    *((value, text, value == text) for value, text in (("a.c", "abc"), ("a[b]", "b"), ("a+", "aa"), ("(a)", "(a)"))),
    ("*", "x", True),
)


def _string_forms() -> Iterator[Scenario]:
    def claims(value: Any) -> dict[str, Any]:
        return {"jwt_claims": {"iss": "i", "sub": "s", **value}}

    places = {
        "principals": lambda text: {"source_principal": f"spiffe://{text}"},
        "request.headers[X-A]": lambda text: {"headers": {"x-a": text}},
        "request.auth.claims[a]": lambda text: claims({"a": text}),
        "request.auth.claims[a][b]": lambda text: claims({"a": {"b": [text]}}),
        "request.auth.audiences": lambda text: claims({"aud": [text]}),
        "request.auth.presenter": lambda text: claims({"azp": text}),
        "connection.sni": lambda text: {"sni": text},
        "experimental.envoy.filters.a[b]": lambda text: {"dynamic_metadata": {"envoy.filters.a": {"b": text}}},
    }
    for place, members in places.items():
        for value in dict.fromkeys(value for value, _, _ in _FORMS):
            yes = source(principals=[value]) if place == "principals" else when(place, value)
            no = source(notPrincipals=[value]) if place == "principals" else when(place, not_values=(value,))
            texts = [(text, fits) for form, text, fits in _FORMS if form == value]
            for rule, negated in ((yes, False), (no, True)):
                yield Scenario(
                    name=f"{'not ' * negated}{place} {value}",
                    policies=[policy(rule)],
                    rows=[(fits is not negated, members(text)) for text, fits in texts],
                    workload=_SIDECAR,
                )


_SCENARIOS = [
    *_allowed_by_identity(),
    *_denied_with_exceptions(),
    *_gateways(),
    *_conditions(),
    *_ambient(),
    *_on_tcp(),
    *_string_forms(),
]


@pytest.mark.parametrize("scenario", _SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_engine_decides_as_istio_and_ztunnel(scenario: Scenario) -> None:
    """Every request of the scenario is allowed or denied as upstream has it."""
    wrong = []
    for allowed, members in scenario.rows:
        request = {"source_principal": _WEB, "source_ip": "10.244.1.10", **members}
        expected = "allow" if allowed else "deny"
        case = {
            "mesh": {},
            "workload": scenario.workload,
            "policies": scenario.policies,
            "request": request,
            "expected": expected,
        }
        if not run_case(case).passed:
            wrong.append((expected, members))

    assert [] == wrong
