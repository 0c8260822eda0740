"""Findings about a whole set: every check finds what it is for, and nothing in a set that is in order."""

from __future__ import annotations

import time
from typing import Any

import pytest

from app.policy.finding import Severity
from app.policy.finding_codes import Code
from app.policy.lint import lint
from tests.support.policies import policy, source, to, when
from tests.support.views import mesh_document, point_document, view

_REF = {"targetRefs": [{"group": "", "kind": "Service", "name": "orders"}]}
_GATEWAY = {"targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "waypoint"}]}
_WEB = "cluster.local/ns/shop/sa/web"
_WAYPOINT = point_document("waypoint", kind="waypoint", gateway="waypoint", requireService=True, reachedBy="filter")
_CLOSED = policy(
    source(principals=["cluster.local/ns/shop/sa/waypoint"]),
    name="only-waypoint",
    annotations={"gatehouse.dev/effect": "observed"},
)


def _found(*values: dict[str, Any], **around: Any) -> list[tuple[str, str]]:
    return [(item.pointer, item.code) for item in lint(view(*values, **around))]


def _codes(*values: dict[str, Any], **around: Any) -> set[str]:
    return {code for _, code in _found(*values, **around)}


def test_a_set_that_is_in_order_has_no_findings() -> None:
    """Ordinary policies at a waypoint, with the side door closed."""
    good = policy(
        {
            **source(principals=[_WEB]),
            **to(methods=["GET"], paths=["/orders", "/orders/*"], hosts=["orders.shop", "orders.shop:*"]),
        },
        **_REF,
    )
    denial = policy(to(paths=["/admin", "/admin/*"]), action="DENY", name="d", **_REF)

    assert [] == _found(good, denial, _CLOSED, _WAYPOINT, services=(("Kubernetes", "shop", "orders"),))


@pytest.mark.parametrize(
    ("rule", "action"),
    [
        (to(methods=["get"]), "ALLOW"),
        (to(paths=["admin", "b*"]), "DENY"),
        (to(paths=["/a?b"]), "ALLOW"),
        (to(hosts=["https://a.com", "a b"]), "ALLOW"),
        (to(methods=["GET"], notMethods=["GET", "POST"]), "ALLOW"),
        (to(paths=["/a/b", "/a/*"], notPaths=["/a*"]), "DENY"),
        (to(paths=["/a/{*}"], notPaths=["/a/{*}"]), "ALLOW"),
        (to(paths=["/a/b"], notPaths=["/a/{*}"]), "ALLOW"),
        (to(hosts=["A.com"], notHosts=["a.COM"]), "ALLOW"),
        (to(ports=["80"], notPorts=["80", "81"]), "DENY"),
        ({"to": [{"operation": {"methods": ["get"]}}, {"operation": {"paths": ["x"]}}]}, "ALLOW"),
        (source(ipBlocks=["10.1.0.0/16"], notIpBlocks=["10.0.0.0/8"]), "DENY"),
        (source(principals=["spiffe://cluster.local/ns/a/sa/b"]), "DENY"),
        (source(principals=[_WEB], notPrincipals=["*"]), "ALLOW"),
        (source(principals=[_WEB], namespaces=["bank"]), "ALLOW"),
        (source(principals=[_WEB], trustDomains=["other.org"]), "ALLOW"),
        (source(principals=[_WEB], notNamespaces=["shop"]), "DENY"),
        ({**source(principals=[_WEB]), **when("source.namespace", "bank")}, "ALLOW"),
        ({"when": [*when("source.principal", _WEB)["when"], *when("source.trustDomain", "x")["when"]]}, "ALLOW"),
        (source(serviceAccounts=["shop/*"]), "ALLOW"),
        (when("request.headers[x]", "a", not_values=("a*",)), "DENY"),
        (when("destination.port", "80", not_values=("80",)), "ALLOW"),
        ({**to(ports=["80"]), **when("destination.port", "81")}, "DENY"),
        ({**source(ipBlocks=["10.0.0.0/8"]), **when("source.ip", "192.0.2.0/24")}, "ALLOW"),
        ({"when": [*when("destination.ip", "10.0.0.1")["when"], *when("destination.ip", "10.0.0.2")["when"]]}, "ALLOW"),
    ],
)
def test_a_rule_that_can_never_match(rule: dict[str, Any], action: str) -> None:
    """Contradictions within a rule are found where it stands."""
    assert ("/spec/rules/0", Code.NEVER_MATCHES) in _found(policy(rule, action=action, **_REF))


@pytest.mark.parametrize(
    "rule",
    [
        to(methods=["get", "GET"]),
        to(paths=["/a?b", "/a"]),
        to(methods=["GET"], notMethods=["G"]),
        to(paths=["/a/*"], notPaths=["/a/b*"]),
        to(ports=["80", "82"], notPorts=["80"]),
        {**to(ports=["80", "81"]), **when("destination.port", "81")},
        {**source(ipBlocks=["10.0.0.0/8"]), **when("source.ip", "10.1.2.3")},
        {**source(ipBlocks=["10.0.0.0/8"]), **when("remote.ip", "192.0.2.0/24")},
        source(ipBlocks=["10.0.0.0/8"], notIpBlocks=["10.1.0.0/16"]),
        source(principals=[_WEB, "cluster.local/ns/bank/sa/x"], namespaces=["bank"]),
        source(principals=["*"], namespaces=["bank"]),
        {"from": [{"source": {"principals": [_WEB], "namespaces": ["bank"]}}, {"source": {"namespaces": ["shop"]}}]},
    ],
)
def test_a_rule_that_may_match_is_not_said_never_to(rule: dict[str, Any]) -> None:
    """One value, or one entry, that can match is enough."""
    assert Code.NEVER_MATCHES not in _codes(policy(rule, **_REF))


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        ({}, to(methods=["GET"]), True),
        (to(paths=["/a/*"]), to(paths=["/a/b", "/a/c*", "/a/{*}/d"]), True),
        (to(paths=["/a/*"]), to(paths=["/a"]), False),
        (to(paths=["/a/{*}"]), to(paths=["/a/b"]), True),
        (to(paths=["/a/{*}"]), to(paths=["/a/b*"]), False),
        (to(paths=["*.css"]), to(paths=["/x/y.css"]), True),
        (to(paths=["**x"]), to(paths=["*x"]), False),
        (to(methods=["GET", "POST"]), to(methods=["GET"], paths=["/a"]), True),
        (to(methods=["GET"]), to(methods=["GET", "POST"]), False),
        (to(notPaths=["/a"]), to(notPaths=["/a", "/b"]), True),
        (to(notPaths=["/a", "/b"]), to(notPaths=["/a"]), False),
        (to(hosts=["A.com"]), to(hosts=["a.COM"]), True),
        (source(namespaces=["shop"]), {**source(namespaces=["shop"]), **to(ports=["80"])}, True),
        (source(namespaces=["s*"]), source(namespaces=["shop"], ipBlocks=["10.0.0.0/8"]), True),
        (source(namespaces=["s*p"]), source(namespaces=["shop"]), False),
        (source(ipBlocks=["10.0.0.0/8"]), source(ipBlocks=["10.1.0.0/16", "10.2.3.4"]), True),
        (source(ipBlocks=["10.1.0.0/16"]), source(ipBlocks=["10.0.0.0/8"]), False),
        (source(serviceAccounts=["shop/web"]), source(serviceAccounts=["web"]), True),
        (source(principals=["*"]), source(principals=[_WEB]), True),
        (when("request.headers[X-A]", "*"), when("request.headers[x-a]", "b"), True),
        (when("request.headers[x-a]", "b"), when("request.headers[x-c]", "b"), False),
        (when("request.auth.claims[a]", "b*"), when("request.auth.claims[a]", "bc"), True),
    ],
)
@pytest.mark.parametrize("action", ["ALLOW", "DENY"])
def test_a_rule_that_another_one_includes(
    wide: dict[str, Any], narrow: dict[str, Any], expected: bool, action: str
) -> None:
    """A rule is shadowed when every value of it is in one of the other rule, wherever that stands."""
    values = (policy(wide, name="a", action=action, **_REF), policy(narrow, name="z", action=action, **_REF))
    found = {item.document for item in lint(view(*values)) if item.code == Code.SHADOWED}

    assert expected is ("AuthorizationPolicy/shop/z" in found)


def test_of_two_equal_rules_the_later_is_the_one_without_effect() -> None:
    """Also within one policy; a rule is never shadowed by itself."""
    twice = policy(to(methods=["GET"]), to(methods=["GET"]), **_REF)

    assert [("/spec/rules/1", Code.SHADOWED)] == [item for item in _found(twice) if item[1] == Code.SHADOWED]


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        ({"namespace": "istio-system"}, {}, True),
        ({"namespace": "other"}, {}, False),
        ({}, {"selector": {"matchLabels": {"app": "x"}}}, True),
        ({"selector": {"matchLabels": {"app": "x"}}}, {}, False),
        ({}, _REF, False),
        (_REF, _GATEWAY, False),
        ({"action": "AUDIT"}, {}, False),
        ({"annotations": {"istio.io/dry-run": "true"}}, {}, False),
    ],
)
def test_a_rule_is_shadowed_only_where_the_other_policy_attaches_too(
    wide: dict[str, Any], narrow: dict[str, Any], expected: bool
) -> None:
    """The other policy must be enforced, of the same action, and attach wherever this one does."""
    rule = source(namespaces=["shop"])
    values = (policy(rule, name="a", **wide), policy(rule, name="z", **narrow))
    found = {item.document for item in lint(view(*values)) if item.code == Code.SHADOWED}

    assert expected is ("AuthorizationPolicy/shop/z" in found)


def test_layer_7_at_ztunnel_shadows_nothing() -> None:
    """A DENY rule that ztunnel makes nothing of does not stand in for one that it honours."""
    wide, narrow = to(methods=["GET"]), to(methods=["GET"], ports=["80"])

    assert Code.SHADOWED not in _codes(policy(wide, name="z", action="DENY"), policy(narrow, action="DENY"))
    assert Code.SHADOWED in _codes(policy(wide, name="z", action="DENY", **_REF), policy(narrow, action="DENY", **_REF))


@pytest.mark.parametrize(
    ("rule", "action", "code", "pointer"),
    [
        (to(hosts=["a.com"]), "ALLOW", Code.HOST_WITHOUT_PORT, "/hosts/0"),
        (to(notHosts=["a.com"]), "DENY", Code.HOST_WITHOUT_PORT, "/notHosts/0"),
        (to(hosts=["*a.com"]), "ALLOW", Code.SUFFIX_WITHOUT_BOUNDARY, "/hosts/0"),
        (to(paths=["*admin"]), "ALLOW", Code.SUFFIX_WITHOUT_BOUNDARY, "/paths/0"),
        (to(paths=["/a", "/public*"]), "ALLOW", Code.PREFIX_WITHOUT_BOUNDARY, "/paths/1"),
        (to(paths=["/a/../b"]), "ALLOW", Code.PATH_NOT_NORMALIZED, "/paths/0"),
        (to(paths=["/%61"]), "DENY", Code.PATH_NOT_NORMALIZED, "/paths/0"),
        (to(paths=["/a|b"]), "DENY", Code.PATH_NOT_NORMALIZED, "/paths/0"),
        (to(notPaths=["/admin", "/admin/*"]), "ALLOW", Code.ALLOW_ALL_BUT, "/notPaths"),
        (to(notMethods=["DELETE"]), "ALLOW", Code.ALLOW_ALL_BUT, "/notMethods"),
    ],
)
def test_values_that_mean_something_else_than_they_seem(
    rule: dict[str, Any], action: str, code: Code, pointer: str
) -> None:
    """Values of an operation, each at its place."""
    assert (f"/spec/rules/0/to/0/operation{pointer}", code) in _found(policy(rule, action=action, **_REF))


@pytest.mark.parametrize(
    "rule",
    [
        to(hosts=["a.com", "a.com:*"]),
        to(hosts=["a.com:80", "*.a.com", "a.*"]),
        to(paths=["*.css", "*/admin", "/a/*", "/b", "/c/{**}", "*"]),
        to(paths=["/a"], notPaths=["/b"]),
        to(methods=["GET"]),
    ],
)
def test_values_that_mean_what_they_seem(rule: dict[str, Any]) -> None:
    """No remark about ordinary values."""
    assert set() == _codes(policy(rule, **_REF), _CLOSED)


def test_a_denied_path_is_open_with_a_slash_where_matching_is_exact() -> None:
    """Exact matching, and a sidecar that enforces the policy itself, take `/admin/` for another path."""
    exact = mesh_document(hardened=False)
    fragile = policy(to(paths=["/admin"]), action="DENY", **_REF)
    robust = policy(to(paths=["/admin", "/admin/*"]), action="DENY", **_REF)

    assert Code.EXACT_DENY_PATH in _codes(fragile, exact)
    assert Code.EXACT_DENY_PATH not in _codes(robust, exact)
    assert Code.EXACT_DENY_PATH not in _codes(fragile)
    assert Code.EXACT_DENY_PATH in _codes(policy(to(paths=["/admin"]), action="DENY"))


def test_identity_rules_where_nobody_need_have_one() -> None:
    """Negations allow who has no identity, and a DENY by identity never meets those."""
    lax = point_document("lax", kind="waypoint", gateway="waypoint", requireIdentity=False, requireService=True)
    negated = policy(source(notNamespaces=["bank"]), **_REF)
    denied = policy(source(namespaces=["bank"]), action="DENY", **_REF)

    assert Code.ANONYMOUS_ALLOWED in _codes(negated, lax)
    assert Code.ANONYMOUS_ALLOWED not in _codes(negated, _WAYPOINT)
    assert Code.ANONYMOUS_ALLOWED in _codes(policy(source(notNamespaces=["bank"])))
    assert Code.ANONYMOUS_ALLOWED not in _codes(policy(source(notNamespaces=["bank"], principals=["*"])))
    assert Code.ANONYMOUS_NOT_DENIED in _codes(denied, lax)
    assert Code.ANONYMOUS_NOT_DENIED not in _codes(denied, _WAYPOINT)


def test_a_principal_of_a_trust_domain_that_nobody_named() -> None:
    """An alias is not foreign, and `cluster.local` means the mesh's own."""
    mesh = mesh_document(trustDomain="td1", trustDomainAliases=["td2"])
    rules = [source(principals=[f"{td}/ns/a/sa/b"]) for td in ("td1", "td2", "cluster.local", "td3")]

    found = [item for item in _found(policy(*rules, **_REF), mesh) if item[1] == Code.FOREIGN_TRUST_DOMAIN]

    assert [("/spec/rules/3/from/0/source/principals/0", Code.FOREIGN_TRUST_DOMAIN)] == found


@pytest.mark.parametrize(
    ("rule", "action", "words"),
    [
        (to(methods=["GET"]), "ALLOW", "drops this ALLOW rule"),
        (to(methods=["GET"]), "DENY", "no effect"),
        (to(methods=["GET"], ports=["80"]), "DENY", "denies more"),
    ],
)
def test_layer_7_without_a_waypoint(rule: dict[str, Any], action: str, words: str) -> None:
    """What ztunnel makes of the rule is said; in a mesh of sidecars nothing is."""
    sidecar = point_document("sidecar", kind="sidecar")
    messages = [item.message for item in lint(view(policy(rule, action=action))) if item.code == Code.L7_AT_ZTUNNEL]

    assert 1 == len(messages)
    assert words in messages[0]
    assert Code.L7_AT_ZTUNNEL not in _codes(policy(rule, action=action), sidecar)


def test_the_side_door_of_a_waypoint() -> None:
    """A Service with policies is open to whoever goes around the waypoint, until ztunnel admits named peers only."""
    at_waypoint = policy({}, **_REF)

    assert ("/spec/targetRefs/0", Code.WAYPOINT_BYPASS) in _found(at_waypoint)
    assert Code.WAYPOINT_BYPASS not in _codes(at_waypoint, _CLOSED)
    assert Code.WAYPOINT_BYPASS in _codes(at_waypoint, policy({}, name="open"))
    assert Code.WAYPOINT_BYPASS not in _codes(
        at_waypoint, policy(source(serviceAccounts=["shop/waypoint"]), namespace="istio-system")
    )


def test_targets_that_nobody_knows() -> None:
    """References are looked up where something is known about their kind."""
    known = (("Kubernetes", "shop", "orders"),)
    elsewhere = policy({}, targetRefs=[{"kind": "Service", "name": "order"}])
    entry = policy({}, targetRefs=[{"group": "networking.istio.io", "kind": "ServiceEntry", "name": "orders"}])
    of_class = {"group": "gateway.networking.k8s.io", "kind": "GatewayClass", "name": "istio-waypoint"}

    for unknown in (elsewhere, entry):
        assert Code.TARGET_UNKNOWN in _codes(unknown, services=known)
        assert Code.TARGET_UNKNOWN not in _codes(unknown)
    assert Code.TARGET_UNKNOWN not in _codes(policy({}, **_REF), services=known)
    assert Code.TARGET_UNKNOWN not in _codes(policy({}, **_GATEWAY), _WAYPOINT)
    assert Code.TARGET_UNKNOWN in _codes(policy({}, **_GATEWAY), point_document("w", kind="waypoint", gateway="other"))
    assert Code.TARGET_UNKNOWN in _codes(policy({}, targetRefs=[of_class]))
    assert Code.TARGET_UNKNOWN not in _codes(policy({}, namespace="istio-system", targetRefs=[of_class]))


def test_selectors_that_no_workload_has() -> None:
    """Only where workloads are known; the root namespace selects in all of them."""
    selecting = view(policy(source(namespaces=["a"]), selector={"matchLabels": {"app": "orders"}}))
    root = view(policy(source(namespaces=["a"]), namespace="istio-system", selector={"matchLabels": {"app": "orders"}}))

    def codes(of: Any, workloads: Any) -> set[Code]:
        return {item.code for item in lint(of, workloads)}

    assert Code.SELECTOR_UNKNOWN not in codes(selecting, None)
    assert Code.SELECTOR_UNKNOWN in codes(selecting, {"shop": [{"app": "web"}], "bank": [{"app": "orders"}]})
    assert Code.SELECTOR_UNKNOWN not in codes(selecting, {"shop": [{"app": "orders", "v": "1"}]})
    assert Code.SELECTOR_UNKNOWN not in codes(root, {"bank": [{"app": "orders"}]})


def test_several_providers_at_one_target() -> None:
    """Without the mesh's flag everything that either policy matches is denied."""
    first = policy({}, action="CUSTOM", name="a", provider={"name": "x"}, **_REF)
    second = policy({}, action="CUSTOM", name="b", provider={"name": "y"}, **_REF)
    own = policy({}, action="CUSTOM", name="c", provider={"name": "gatehouse"}, **_REF)

    assert Code.SEVERAL_PROVIDERS in _codes(first, second)
    assert Code.SEVERAL_PROVIDERS not in _codes(first, own)
    assert Code.SEVERAL_PROVIDERS not in _codes(first, second, mesh_document(enableMultipleCustomProviders=True))


def test_a_provider_that_is_not_in_the_set() -> None:
    """A CUSTOM policy whose provider nobody described denies what it matches; the one that is us needs none."""
    asking = policy({}, action="CUSTOM", provider={"name": "rego"}, **_REF)
    provider = {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "Provider",
        "metadata": {"name": "rego"},
        "spec": {"rego": {"engine": "opa", "opa": {"url": "http://127.0.0.1:8181"}}},
    }

    assert Code.PROVIDER_UNKNOWN in _codes(asking)
    assert Code.PROVIDER_UNKNOWN not in _codes(asking, provider)
    assert Code.PROVIDER_UNKNOWN not in _codes(policy({}, action="CUSTOM", provider={"name": "gatehouse"}, **_REF))


def test_a_provider_with_a_name_that_is_ours() -> None:
    """Nobody asks it, which its author cannot have meant: an error, whichever names the mesh calls its own."""
    provider = {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "Provider",
        "metadata": {"name": "gatehouse"},
        "spec": {"rego": {"engine": "opa", "opa": {"url": "http://127.0.0.1:8181"}}},
    }
    asking = policy({}, action="CUSTOM", provider={"name": "gatehouse"}, **_REF)
    found = [item for item in lint(view(provider, asking)) if item.code is Code.PROVIDER_NEVER_ASKED]

    assert [("Provider//gatehouse", Severity.ERROR)] == [(item.document, item.severity) for item in found]
    assert Code.PROVIDER_NEVER_ASKED not in _codes(provider, mesh_document(ownProviders=["another"]))


def test_claims_where_no_token_is_verified() -> None:
    """Tokens count where a RequestAuthentication attaches: at a waypoint only one with references."""
    authentication = {
        "apiVersion": "security.istio.io/v1",
        "kind": "RequestAuthentication",
        "metadata": {"name": "tokens", "namespace": "shop"},
        "spec": {"jwtRules": [{"issuer": "https://issuer.example"}]},
    }
    by_reference = {**authentication, "spec": {**authentication["spec"], **_REF}}
    for rule in (source(requestPrincipals=["*"]), when("request.auth.claims[a]", not_values=("b",))):
        assert Code.NO_AUTHENTICATION in _codes(policy(rule, **_REF))
        assert Code.NO_AUTHENTICATION in _codes(policy(rule, **_REF), authentication)
        assert Code.NO_AUTHENTICATION not in _codes(policy(rule, **_REF), by_reference)
        assert Code.NO_AUTHENTICATION in _codes(policy(rule), by_reference)
        assert Code.NO_AUTHENTICATION not in _codes(policy(rule), authentication)


def test_a_large_set_is_looked_at_in_little_time() -> None:
    """A rule is compared with those only that may include it, where all are in one namespace and ask for one peer."""
    values = [
        policy(
            {**source(principals=[_WEB]), **to(methods=["GET"], paths=[f"/p{number}", f"/p{number}/*"])},
            name=f"p{number}",
            targetRefs=[{"kind": "Service", "name": f"s{number % 50}"}],
        )
        for number in range(1_000)
    ]
    large = view(*values, policy({}, name="everything", targetRefs=[{"kind": "Service", "name": "s7"}]))
    started = time.process_time()

    found = lint(large)

    assert time.process_time() - started < 5
    assert 20 == sum(item.code == Code.SHADOWED for item in found)


def test_too_much_is_cut_off_and_said() -> None:
    """More findings, or comparisons, than the limits end with a finding that says so."""
    values = [policy(to(hosts=[f"h{number}"]), name=f"p{number}", **_REF) for number in range(1_100)]

    found = lint(view(*values))

    assert 1_001 == len(found)
    assert Code.INCOMPLETE == found[-1].code
