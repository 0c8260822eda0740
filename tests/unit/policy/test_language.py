"""The policy language, sentence by sentence: what each form on each field matches, as Istio has it."""

from __future__ import annotations

from typing import Any

import pytest

from app.policy.mesh import MeshConfig
from app.policy.target import PointKind, ServiceRef, Target
from tests.support.policies import ISTIO, PEER, SIDECAR, WAYPOINT, ask, policy, source, table, to, when

_TD = "cluster.local"
_BAR = "spiffe://cluster.local/ns/foo/sa/bar"
_JWT = {"iss": "https://issuer.example/a", "sub": "alice", "aud": ["x", "y"], "azp": "app", "n": 7, "yes": True}
_GATEWAY = "gateway.networking.k8s.io"
_ENTRY = "networking.istio.io"


def _allows(rule: dict[str, Any], *, mesh: MeshConfig = ISTIO, **asked: Any) -> bool:
    return ask(table(policy(rule), mesh=mesh), **asked).allowed


@pytest.mark.parametrize(
    ("field", "values", "text", "expected"),
    [
        # Strings: a leading star first, a lone star is presence, a star inside is a character.
        ("methods", ["GET"], "GET", True),
        ("methods", ["G*"], "GET", True),
        ("methods", ["*ET"], "GET", True),
        ("methods", ["*"], "PURGE", True),
        ("methods", ["G*T"], "GET", False),
        ("methods", ["get"], "GET", False),
        ("methods", ["*E*"], "GET", False),
        ("paths", ["*"], "/", True),
        ("paths", ["/"], "/", True),
        ("paths", ["/*"], "/", True),
        ("paths", ["*/"], "/a/", True),
        ("paths", ["*"], "/a?x=*", True),
        ("paths", ["/a*"], "/a#b", True),
        ("paths", ["**"], "/a*", True),
        ("paths", ["**"], "/a", False),
        ("paths", ["/A"], "/a", False),
        ("paths", ["/a%20b"], "/a%20b", True),
        ("paths", ["/a b"], "/a%20b", False),
        ("paths", ["/x", "/a*", "*.css"], "/z.css", True),
        ("paths", ["/é"], "/e\u0301", False),
        ("hosts", ["A.example.COM"], "a.EXAMPLE.com", True),
        ("hosts", ["*.Example.com"], "a.example.COM", True),
        ("hosts", ["A.*"], "a.example.com:8080", True),
        ("hosts", ["a.example.com"], "a.example.com:80", False),
        ("hosts", ["a.example.com"], "a.example.com.", False),
        ("hosts", ["*"], "anything", True),
        # Templates.
        ("paths", ["/{*}"], "/a", True),
        ("paths", ["/{*}"], "/", False),
        ("paths", ["/{**}"], "/", True),
        ("paths", ["/{**}"], "/a/b", True),
        ("paths", ["/a/{*}/b"], "/a/x/b", True),
        ("paths", ["/a/{*}/b"], "/a//b", False),
        ("paths", ["/a/{*}/b"], "/a/x/y/b", False),
        ("paths", ["/a/{*}/{**}"], "/a/x", False),
        ("paths", ["/a/{*}/{**}"], "/a/x/", True),
        ("paths", ["/a/{**}/b"], "/a//b", True),
        ("paths", ["/a/{**}/b"], "/a/b", False),
        ("paths", ["/a/{**}/b"], "/a/b/c/b", True),
        ("paths", ["/a/{**}/b"], "/a/x/bb", False),
        ("paths", ["/x", "/a/{*}"], "/a/%2F*", True),
        ("paths", ["/x", "/a/{*}"], "/x", True),
        ("paths", ["/a/{*}"], "/a/x?y/z", True),
    ],
)
def test_what_an_operation_matches(field: str, values: list[str], text: str, expected: bool) -> None:
    """Each string form on each field of an operation, and its negation, which is its opposite."""
    asked = {"methods": {"method": text}, "paths": {"path": text}, "hosts": {"host": text}}[field]
    negated = f"not{field.capitalize()}"

    assert expected is _allows(to(**{field: values}), **asked)
    assert expected is not _allows(to(**{negated: values}), **asked)


@pytest.mark.parametrize(
    ("field", "values", "principal", "expected"),
    [
        ("principals", ["cluster.local/ns/foo/sa/bar"], _BAR, True),
        ("principals", ["cluster.local/ns/foo/*"], _BAR, True),
        ("principals", ["*/sa/bar"], _BAR, True),
        ("principals", ["*"], _BAR, True),
        ("principals", ["*"], "", False),
        ("principals", ["*/sa/b*"], _BAR, False),
        ("principals", ["spiffe://cluster.local/ns/foo/sa/bar"], _BAR, False),
        ("principals", ["spiffe:*"], _BAR, False),
        ("principals", ["*spiffe://cluster.local/ns/foo/sa/bar"], _BAR, False),
        ("principals", ["Cluster.local/ns/foo/sa/bar"], _BAR, False),
        ("namespaces", ["foo"], _BAR, True),
        ("namespaces", ["f*"], _BAR, True),
        ("namespaces", ["*o"], _BAR, True),
        ("namespaces", ["f*o"], _BAR, True),  # a star anywhere is any text
        ("namespaces", ["*"], _BAR, True),
        ("namespaces", ["fo"], _BAR, False),
        ("namespaces", ["foo/sa"], _BAR, True),
        ("namespaces", ["Foo"], _BAR, False),
        ("namespaces", ["*"], "", False),
        ("namespaces", ["foo"], "spiffe://cluster.local/ns/foo", False),
        ("serviceAccounts", ["foo/bar"], _BAR, True),
        ("serviceAccounts", ["bar"], _BAR, False),  # an account of the policy's namespace
        ("serviceAccounts", ["bar"], "spiffe://other/ns/shop/sa/bar", True),
        ("serviceAccounts", ["foo/bar"], "spiffe://cluster.local/k/v/ns/foo/k/v/sa/bar/k/v", True),
        ("serviceAccounts", ["foo/bar"], "spiffe://cluster.local/ns/foo/sa/bar-x", False),
        ("serviceAccounts", ["foo/bar"], "spiffe://cluster.local/ns/foo/sa/bar/", False),
        ("serviceAccounts", ["foo/*"], _BAR, False),
        ("serviceAccounts", ["foo/bar"], "", False),
        ("trustDomains", ["cluster.local"], _BAR, True),
        ("trustDomains", ["cluster"], _BAR, False),
        ("trustDomains", ["cluster.*"], _BAR, True),
        ("trustDomains", ["*.local"], _BAR, True),
        ("trustDomains", ["*"], _BAR, True),
        ("trustDomains", ["*/ns/foo/sa/bar"], _BAR, False),
        ("trustDomains", ["*"], "", False),
        ("trustDomains", ["cluster.local"], "", False),
    ],
)
def test_what_an_identity_matches(field: str, values: list[str], principal: str, expected: bool) -> None:
    """Each form on each field about the peer, as a field, as a condition, and negated: without one, not* holds."""
    key = f"source.{field.removesuffix('s')}"

    assert expected is _allows(source(**{field: values}), principal=principal)
    assert expected is not _allows(source(**{f"not{field[0].upper()}{field[1:]}": values}), principal=principal)
    assert expected is _allows(when(key, *values), principal=principal)
    assert expected is not _allows(when(key, not_values=tuple(values)), principal=principal)


@pytest.mark.parametrize(
    ("block", "address", "expected"),
    [
        ("10.0.0.0/8", "10.255.0.1", True),
        ("10.9.8.7/8", "10.0.0.1", True),  # host bits are masked
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.10", False),
        ("0.0.0.0/0", "192.0.2.1", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("::/0", "2001:db8::1", True),
        ("2001:db8::/33", "2001:db8:8000::1", False),
        ("2001:DB8:0::1", "2001:db8::1", True),
        ("10.0.0.0/8", "::ffff:10.0.0.1", True),
        ("10.0.0.0/8", "", False),
        ("10.0.0.0/8", "10.0.0.1:80", False),
    ],
)
def test_what_an_address_block_matches(block: str, address: str, expected: bool) -> None:
    """Blocks on the direct peer, the original client and the destination; what is no address is in none."""
    for field, key, member in (
        ("remoteIpBlocks", "remote.ip", "remote_ip"),
        (None, "destination.ip", "destination_ip"),
    ):
        if address or field is None:  # without an original client the direct peer counts
            assert expected is _allows(when(key, block), **{member: address})
            assert expected is not _allows(when(key, not_values=(block,)), **{member: address})
        if field and address:
            assert expected is _allows(source(**{field: [block]}), **{member: address})


@pytest.mark.parametrize(
    ("rule", "asked", "expected"),
    [
        (to(ports=["8080"]), {}, True),
        (to(ports=["80", "8080"]), {}, True),
        (to(notPorts=["8080"]), {}, False),
        (when("destination.port", "8080"), {}, True),
        (when("destination.port", "808"), {}, False),
        (source(ipBlocks=["10.1.0.0/16"]), {}, True),
        (source(ipBlocks=["10.1.0.0/16"]), {"remote_ip": "192.0.2.1"}, True),
        (source(remoteIpBlocks=["10.1.0.0/16"]), {}, True),  # no header: the direct peer
        (source(remoteIpBlocks=["10.1.0.0/16"]), {"remote_ip": "192.0.2.1"}, False),
        (when("connection.sni", "*.a"), {"sni": "x.a"}, True),
        (when("connection.sni", "*"), {"sni": ""}, False),
        (when("connection.sni", not_values=("*",)), {"sni": ""}, True),
        # Headers: names in any case, values as they are.
        (when("request.headers[X-Role]", "admin"), {"headers": {"x-role": ("admin",)}}, True),
        (when("request.headers[x-role]", "Admin"), {"headers": {"x-role": ("admin",)}}, False),
        (when("request.headers[x-role]", "*"), {"headers": {"x-role": ("",)}}, True),
        (when("request.headers[x-role]", "*"), {}, False),
        (when("request.headers[x-role]", "a", "ad*"), {"headers": {"x-role": ("admin",)}}, True),
        (when("request.headers[x-role]", not_values=("admin",)), {"headers": {"x-role": ("user", "admin")}}, False),
        (when("request.headers[x-role]", "admin"), {"headers": {"x-role": ("user", "admin")}}, True),
        (when("request.headers[x-role]", "admin"), {"headers": {"x-role": ("user,admin",)}}, False),
        (when("request.headers[:method]", "GET"), {}, True),
        (when("request.headers[:path]", "/a?b"), {"path": "/a?b"}, True),
        (when("request.headers[host]", "h"), {"host": "h"}, True),
        # Tokens.
        (when("request.auth.principal", "https://issuer.example/a/alice"), {"claims": _JWT}, True),
        (when("request.auth.principal", "https://issuer.example/a/*"), {"claims": _JWT}, True),
        (when("request.auth.principal", "https://issuer.example/a/al*"), {"claims": _JWT}, True),
        (when("request.auth.principal", "*/alice"), {"claims": _JWT}, True),
        (when("request.auth.principal", "*example/a/alice"), {"claims": _JWT}, True),
        (when("request.auth.principal", "*ice"), {"claims": _JWT}, True),
        (when("request.auth.principal", "https:*"), {"claims": _JWT}, True),  # no slash: a prefix of the issuer
        (when("request.auth.principal", "https://issuer*"), {"claims": _JWT}, False),  # split at the last slash
        (when("request.auth.principal", "alice"), {"claims": _JWT}, False),
        (when("request.auth.principal", "*"), {"claims": {"iss": "i"}}, False),
        (when("request.auth.principal", "*"), {"claims": None}, False),
        (when("request.auth.principal", not_values=("*",)), {"claims": None}, True),
        (when("request.auth.audiences", "y"), {"claims": _JWT}, True),
        (when("request.auth.audiences", "x"), {"claims": {"aud": "x"}}, True),
        (when("request.auth.audiences", "x"), {"claims": {"aud": "x y"}}, False),
        (when("request.auth.presenter", "a*"), {"claims": _JWT}, True),
        (when("request.auth.claims[n]", "7"), {"claims": _JWT}, False),
        (when("request.auth.claims[yes]", "true"), {"claims": _JWT}, False),
        (when("request.auth.claims[a][b]", "c"), {"claims": {"a": {"b": "c"}}}, True),
        (when("request.auth.claims[a][b]", "c"), {"claims": {"a": {"b": ["x", "c"]}}}, True),
        (when("request.auth.claims[a][b]", "c"), {"claims": {"a": [{"b": "c"}]}}, False),
        (when("request.auth.claims[a.b]", "c"), {"claims": {"a.b": "c"}}, True),
        (when("request.auth.claims[scope]", "r"), {"claims": {"scope": "r w"}}, True),
        (when("request.auth.claims[scope]", "r w"), {"claims": {"scope": "r w"}}, False),
        (when("request.auth.claims[permission]", "w"), {"claims": {"permission": "r  w"}}, True),
        (when("request.auth.claims[a][scope]", "r"), {"claims": {"a": {"scope": "r w"}}}, False),
        (
            when("request.auth.claims[mine]", "w"),
            {"claims": {"mine": "r w"}, "space_delimited_claims": frozenset({"mine"})},
            True,
        ),
        # Metadata of other filters.
        (
            when("experimental.envoy.filters.a.b[c]", "v*"),
            {"dynamic_metadata": {"envoy.filters.a.b": {"c": "value"}}},
            True,
        ),
        (
            when("experimental.envoy.filters.a.b[c]", "[v]"),
            {"dynamic_metadata": {"envoy.filters.a.b": {"c": ["u", "v"]}}},
            True,
        ),
        (
            when("experimental.envoy.filters.a.b[c]", "v"),
            {"dynamic_metadata": {"envoy.filters.a.b": {"c": ["v"]}}},
            False,
        ),
        (when("experimental.envoy.filters.a.b[c]", not_values=("v",)), {}, True),
    ],
)
def test_what_a_condition_matches(rule: dict[str, Any], asked: dict[str, Any], expected: bool) -> None:
    """Each key, with the attribute there, absent, and of another type."""
    assert expected is _allows(rule, **asked)


@pytest.mark.parametrize(
    ("rule", "action", "allowed"),
    [
        (to(methods=["GET"]), "ALLOW", False),
        (to(ports=["8080"]), "ALLOW", True),
        (to(ports=["8080"], methods=["GET"]), "ALLOW", False),
        (when("request.headers[x]", not_values=("y",)), "ALLOW", False),
        (source(notRequestPrincipals=["*"]), "ALLOW", False),
        (source(remoteIpBlocks=["10.0.0.0/8"]), "ALLOW", True),
        (when("connection.sni", "a"), "ALLOW", True),
        ({}, "ALLOW", True),
        (to(methods=["POST"]), "DENY", False),
        (to(ports=["80"], methods=["GET"]), "DENY", True),
        (to(ports=["8080"], methods=["POST"]), "DENY", False),
        ({**source(namespaces=["other"]), **to(paths=["/x"])}, "DENY", True),
        ({**source(namespaces=["shop"]), **to(paths=["/x"])}, "DENY", False),
        (when("request.auth.claims[a]", "b"), "DENY", False),
        (when("request.headers[x]", "y"), "CUSTOM", False),
    ],
)
def test_tcp_never_widens_an_allow_and_widens_the_others(rule: dict[str, Any], action: str, allowed: bool) -> None:
    """An ALLOW rule that asks about HTTP is gone on TCP, other rules lose what they ask about HTTP."""
    spec = {"provider": {"name": "p"}} if action == "CUSTOM" else {}
    rules = table(policy(rule, action=action, **spec), mesh=ISTIO)

    assert allowed is ask(rules, protocol="tcp", sni="a").allowed


_ZTUNNEL = Target(PointKind.ZTUNNEL, "shop", labels=(("app", "orders"),))


@pytest.mark.parametrize(
    ("rule", "action", "allowed"),
    [
        ({}, "ALLOW", True),
        (source(namespaces=["sh*"]), "ALLOW", True),
        (source(namespaces=["s*p"]), "ALLOW", False),  # a star inside is a character here
        (source(serviceAccounts=["web"]), "ALLOW", True),
        (source(principals=["cluster.local/ns/shop/sa/*"]), "ALLOW", True),
        (source(principals=["*"], remoteIpBlocks=["10.0.0.0/8"]), "ALLOW", False),
        (when("source.serviceAccount", "web"), "ALLOW", False),
        (source(trustDomains=[_TD]), "ALLOW", False),
        (when("destination.port", "8080"), "ALLOW", True),
        (to(ports=["8080"], paths=["/x"]), "ALLOW", False),
        ({}, "DENY", False),
        ({**source(namespaces=["shop"]), **to(methods=["GET"])}, "DENY", True),
        ({**source(namespaces=["shop"]), **to(methods=["POST"], ports=["8080"])}, "DENY", False),
        ({"to": [{"operation": {"methods": ["GET"]}}, {"operation": {"ports": ["8080"]}}]}, "DENY", False),
        ({**source(namespaces=["shop"]), **when("connection.sni", "a")}, "DENY", True),
        ({}, "AUDIT", True),
        ({}, "CUSTOM", True),
    ],
)
def test_what_ztunnel_is_sent(rule: dict[str, Any], action: str, allowed: bool) -> None:
    """Conversion for ztunnel: an ALLOW rule with layer 7 is gone, in a DENY rule an emptied clause matches nothing."""
    spec = {"provider": {"name": "p"}} if action == "CUSTOM" else {}
    rules = table(policy(rule, action=action, **spec), mesh=ISTIO)

    assert allowed is ask(rules, target=_ZTUNNEL).allowed


def _ref(group: str, kind: str, name: str, **more: str) -> dict[str, Any]:
    return {"targetRefs": [{"group": group, "kind": kind, "name": name, **more}]}


_POINTS = {
    "sidecar": SIDECAR,
    "ztunnel": _ZTUNNEL,
    "gateway": Target(PointKind.GATEWAY, "shop", labels=(("app", "orders"),), gateway_name="waypoint"),
    "classic": Target(PointKind.GATEWAY, "shop", labels=(("app", "orders"),)),
    "waypoint": WAYPOINT,
    "external": Target(
        PointKind.WAYPOINT, "shop", services=(ServiceRef("shop", "orders", "External"),), gateway_name="waypoint"
    ),
    "foreign": Target(PointKind.WAYPOINT, "infra", services=(ServiceRef("shop", "orders"),), gateway_name="waypoint"),
}


@pytest.mark.parametrize(
    ("namespace", "spec", "attached"),
    [
        ("shop", {}, {"sidecar", "ztunnel", "gateway", "classic"}),
        ("istio-system", {}, {"sidecar", "ztunnel", "gateway", "classic"}),
        ("other", {}, set()),
        ("shop", {"selector": {"matchLabels": {"app": "orders"}}}, {"sidecar", "ztunnel", "gateway", "classic"}),
        ("shop", {"selector": {"matchLabels": {"app": "orders", "v": "1"}}}, set()),
        (
            "istio-system",
            {"selector": {"matchLabels": {"app": "orders"}}},
            {"sidecar", "ztunnel", "gateway", "classic"},
        ),
        ("shop", {"selector": {}}, {"sidecar", "ztunnel", "gateway", "classic"}),
        ("shop", _ref("", "Service", "orders"), {"waypoint", "foreign"}),
        ("shop", _ref("core", "Service", "orders"), {"waypoint", "foreign"}),
        ("shop", _ref("apps", "Service", "orders"), set()),
        ("shop", _ref("", "Service", "order"), set()),
        ("infra", _ref("", "Service", "orders"), set()),
        ("shop", _ref(_ENTRY, "ServiceEntry", "orders"), {"external"}),
        ("shop", _ref("", "ServiceEntry", "orders"), set()),
        ("shop", _ref(_GATEWAY, "Gateway", "waypoint"), {"gateway", "waypoint", "external"}),
        ("shop", _ref(_GATEWAY, "Gateway", "waypoint", namespace="infra"), set()),
        ("infra", _ref(_GATEWAY, "Gateway", "waypoint"), {"foreign"}),
        ("istio-system", _ref(_GATEWAY, "GatewayClass", "istio-waypoint"), {"waypoint", "external", "foreign"}),
        ("shop", _ref(_GATEWAY, "GatewayClass", "istio-waypoint"), set()),
        ("istio-system", _ref(_GATEWAY, "GatewayClass", "istio"), set()),
        (
            "shop",
            {"selector": {"matchLabels": {"app": "x"}}, **_ref(_GATEWAY, "Gateway", "waypoint")},
            {"gateway", "waypoint", "external"},
        ),
        ("shop", {"targetRef": {"kind": "Service", "name": "orders"}}, {"waypoint", "foreign"}),
        # Refused where documents come in; stored anyway, Istio does not look at it for services.
        ("shop", _ref("", "Service", "orders", namespace="infra"), {"waypoint", "foreign"}),
    ],
)
def test_where_a_policy_attaches(namespace: str, spec: dict[str, Any], attached: set[str]) -> None:
    """Selector, namespace, root namespace and references, at each kind of enforcement point."""
    rules = table(policy({}, action="DENY", namespace=namespace, **spec), mesh=ISTIO)

    assert attached == {name for name, target in _POINTS.items() if not ask(rules, target=target).allowed}


def test_a_gateway_needs_references_where_selectors_are_off_for_it() -> None:
    """The flag concerns gateways of the Gateway API, not classic ones."""
    mesh = MeshConfig(hardened=False, selector_based_gateway_policy=False)
    rules = table(policy({}, action="DENY"), mesh=mesh)

    assert ask(rules, target=_POINTS["gateway"]).allowed
    assert not ask(rules, target=_POINTS["classic"]).allowed


@pytest.mark.parametrize(
    ("word", "action", "allowed"),
    [
        ("true", "DENY", True),
        ("T", "DENY", True),
        ("1", "DENY", True),
        ("false", "DENY", False),
        ("yes", "DENY", False),
        ("true", "CUSTOM", False),
        ("true", "ALLOW", True),
    ],
)
def test_a_dry_run_contributes_nothing(word: str, action: str, allowed: bool) -> None:
    """The annotation is a boolean as Go reads one, and means something for ALLOW and DENY only."""
    spec = {"provider": {"name": "p"}} if action == "CUSTOM" else {}
    rule: dict[str, Any] = to(paths=["/x"]) if action == "ALLOW" else {}
    rules = table(policy(rule, action=action, annotations={"istio.io/dry-run": word}, **spec), mesh=ISTIO)

    assert allowed is ask(rules).allowed


@pytest.mark.parametrize(
    ("several", "answers", "path", "allowed"),
    [
        (True, {"a": True, "b": True}, "/both", True),
        (True, {"a": True, "b": False}, "/both", False),
        (True, {"a": True}, "/both", False),
        (True, {"a": True, "b": False}, "/a", True),
        (True, {}, "/none", True),
        (False, {"a": True, "b": True}, "/a", False),
        (False, {"a": True, "b": True}, "/none", True),
    ],
)
def test_several_providers(several: bool, answers: dict[str, bool], path: str, allowed: bool) -> None:
    """With the flag every matching provider must allow; without it what any of them matches is denied."""
    mesh = MeshConfig(hardened=False, multiple_custom_providers=several)
    rules = table(
        policy(to(paths=["/a", "/both"]), action="CUSTOM", name="a", provider={"name": "a"}),
        policy(to(paths=["/b", "/both"]), action="CUSTOM", name="b", provider={"name": "b"}),
        mesh=mesh,
    )

    assert allowed is ask(rules, path, answers=answers).allowed


@pytest.mark.parametrize(
    ("domain", "aliases", "value", "matched"),
    [
        ("td1", ("td2",), "td1/ns/shop/sa/web", {"td1", "td2"}),
        ("td1", ("td2",), "td2/ns/shop/sa/web", {"td1", "td2"}),
        ("td1", ("td2",), "cluster.local/ns/shop/sa/web", {"td1", "td2"}),
        ("td1", (), "cluster.local/ns/shop/sa/web", {"td1"}),
        ("td1", ("td2",), "other/ns/shop/sa/web", {"other"}),
        ("td1", ("td2",), "*/ns/shop/sa/web", {"td1", "td2", "other", "x-td2", "cluster.local"}),
        ("td1", ("td2",), "*d2/ns/shop/sa/web", {"td1", "td2", "x-td2"}),
        ("td1", ("td2",), "td1/ns/shop/*", {"td1"}),
        ("td1", ("td2",), "td1/ns/shop/sa/w*", {"td1", "td2"}),
    ],
)
def test_trust_domain_aliases(domain: str, aliases: tuple[str, ...], value: str, matched: set[str]) -> None:
    """A value of the full form stands for all trust domains of the mesh; wildcards of other forms do not."""
    mesh = MeshConfig(hardened=False, trust_domain=domain, trust_domain_aliases=aliases)
    domains = ("td1", "td2", "other", "x-td2", "cluster.local")
    for rule in (source(principals=[value]), when("source.principal", value)):
        allowed = {td for td in domains if _allows(rule, mesh=mesh, principal=f"spiffe://{td}/ns/shop/sa/web")}
        assert matched == allowed


def test_empty_parts_ask_nothing_and_no_rules_allow_nothing() -> None:
    """No rules match nothing; a rule without parts, or with empty `when`, matches everything."""
    assert not ask(table(policy(), mesh=ISTIO)).allowed
    assert _allows({}, principal="")
    assert _allows({"when": []}, principal="")
    assert not _allows(to(methods=["POST"]), principal=PEER)
