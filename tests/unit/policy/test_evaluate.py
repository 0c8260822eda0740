"""Order of decision, malformed requests, providers, TCP, ztunnel, and that nothing raises."""

from __future__ import annotations

from typing import Any

import pytest

from app.policy.decision import Reason
from app.policy.evaluate import decide, required_providers
from app.policy.mesh import MeshConfig
from app.policy.request import Request
from app.policy.rule_table import RuleTable
from app.policy.target import PointKind, Target
from tests.support.policies import (
    HARDENED,
    ISTIO,
    PEER,
    SIDECAR,
    WAYPOINT,
    ask,
    policy,
    request,
    source,
    table,
    to,
    when,
)

_BOTH = pytest.mark.parametrize("mesh", [ISTIO, HARDENED], ids=["istio", "hardened"])
_ZTUNNEL = Target(PointKind.ZTUNNEL, "shop")


def _custom(*rules: dict[str, Any], provider: str = "ext", name: str = "c") -> dict[str, Any]:
    return policy(*rules, action="CUSTOM", name=name, provider={"name": provider})


@_BOTH
def test_without_policies_everything_passes(mesh: MeshConfig) -> None:
    """No ALLOW policy: allowed, and the reason says so."""
    decision = ask(RuleTable.empty(mesh))

    assert (True, Reason.NO_ALLOW_POLICY, "") == (decision.allowed, decision.reason, decision.policy)


@_BOTH
def test_the_deciding_rule_is_named(mesh: MeshConfig) -> None:
    """The decision carries policy and rule in Istio's form."""
    rules = table(policy(to(paths=["/a"]), to(paths=["/b"])), mesh=mesh)

    decision = ask(rules, "/b")

    assert (Reason.ALLOW_RULE, "shop/p", "ns[shop]-policy[p]-rule[1]") == (
        decision.reason,
        decision.policy,
        decision.rule,
    )


@_BOTH
def test_the_first_of_several_matches_is_named(mesh: MeshConfig) -> None:
    """Order is namespace, name, index, whatever index found the rules."""
    rules = table(
        *(policy(to(paths=["/a*"]), name=f"d{number}", action="DENY") for number in range(3, 9)),
        policy(to(methods=["GET"]), name="d2", action="DENY"),
        policy(source(principals=["cluster.local/ns/shop/sa/web"]), name="d1", action="DENY"),
        policy(source(namespaces=["shop"]), name="d0", action="DENY"),
        mesh=mesh,
    )

    assert "shop/d0" == ask(rules, "/a").policy


@_BOTH
def test_an_index_loses_no_rule(mesh: MeshConfig) -> None:
    """With many rules by exact path, prefix, template, suffix and method, each is found."""
    paths = ["/x/1", "/y/*", "/z*", "*.css", "/t/{*}/u", "/long/prefix/*"]
    rules = table(
        *(policy(to(paths=[path]), name=f"p{number}") for number, path in enumerate(paths)),
        policy(to(methods=["PUT"]), name="put"),
        policy(to(methods=["P*"], paths=["/w"]), name="w"),
        mesh=mesh,
    )
    asked = {
        "/x/1": "p0",
        "/y/a": "p1",
        "/y/": "p1",
        "/zz": "p2",
        "/a/b.css": "p3",
        "/t/a/u": "p4",
        "/long/prefix/x": "p5",
    }

    assert {path: f"shop/{name}" for path, name in asked.items()} == {path: ask(rules, path).policy for path in asked}
    assert "shop/put" == ask(rules, "/q", method="PUT").policy
    assert "shop/w" == ask(rules, "/w", method="POST").policy
    assert Reason.NO_RULE_MATCHED is ask(rules, "/x/2").reason
    assert Reason.NO_RULE_MATCHED is ask(rules, "/y").reason


@_BOTH
def test_a_denial_wins(mesh: MeshConfig) -> None:
    """DENY is asked before ALLOW."""
    rules = table(policy({}), policy(to(methods=["DELETE"]), action="DENY", name="d"), mesh=mesh)

    assert ask(rules, method="GET").allowed
    assert Reason.DENY_RULE is ask(rules, method="DELETE").reason


@_BOTH
def test_a_dry_run_changes_nothing(mesh: MeshConfig) -> None:
    """A dry run neither denies nor counts as an ALLOW policy."""
    tried = {"istio.io/dry-run": "true"}
    rules = table(
        policy({}, action="DENY", name="d", annotations=tried), policy(to(paths=["/x"]), annotations=tried), mesh=mesh
    )

    assert Reason.NO_ALLOW_POLICY is ask(rules, "/a").reason


@_BOTH
def test_providers_are_asked_only_when_it_matters(mesh: MeshConfig) -> None:
    """A matched CUSTOM rule needs its provider, unless a DENY decides."""
    rules = table(_custom(to(paths=["/a*"])), policy(to(paths=["/ab"]), action="DENY", name="d"), mesh=mesh)

    assert ("ext",) == required_providers(rules, SIDECAR, request("/a"))
    assert () == required_providers(rules, SIDECAR, request("/ab"))
    assert () == required_providers(rules, SIDECAR, request("/b"))
    assert () == required_providers(rules, SIDECAR, request("no slash"))
    assert ask(rules, "/a", answers={"ext": True}).allowed
    assert Reason.PROVIDER_DENIED is ask(rules, "/a", answers={"ext": False}).reason
    assert Reason.PROVIDER_DENIED is ask(rules, "/a").reason
    assert Reason.DENY_RULE is ask(rules, "/ab", answers={"ext": True}).reason


@_BOTH
def test_several_providers_must_be_switched_on(mesh: MeshConfig) -> None:
    """Two providers at one target deny what they match, unless the mesh allows several; then all must allow."""
    several = MeshConfig(hardened=mesh.hardened, multiple_custom_providers=True)
    values = [_custom({}, provider="b", name="b"), _custom(to(paths=["/a"]), provider="a", name="a")]
    one, many = table(*values, mesh=mesh), table(*values, mesh=several)
    both = {"a": True, "b": True}

    assert Reason.PROVIDER_DENIED is ask(one, "/x", answers=both).reason
    assert () == required_providers(one, SIDECAR, request("/a"))
    assert ("a", "b") == required_providers(many, SIDECAR, request("/a"))
    assert ask(many, "/a", answers=both).allowed
    assert "shop/a" == ask(many, "/a", answers={"a": False, "b": False}).policy
    assert "shop/b" == ask(many, "/a", answers={"a": True}).policy


@_BOTH
def test_a_policy_that_names_us_is_not_evaluated(mesh: MeshConfig) -> None:
    """The CUSTOM policy by which requests come to us neither asks nor denies."""
    rules = table(_custom({}, provider="gatehouse"), mesh=mesh)

    assert () == required_providers(rules, SIDECAR, request())
    assert Reason.NO_ALLOW_POLICY is ask(rules).reason


@_BOTH
def test_a_provider_without_a_name_denies_what_it_matches(mesh: MeshConfig) -> None:
    """A CUSTOM policy that names no provider denies matched requests only."""
    rules = table(policy(to(paths=["/a"]), action="CUSTOM"), mesh=mesh)

    assert Reason.PROVIDER_DENIED is ask(rules, "/a").reason
    assert ask(rules, "/b").allowed


def test_case_079_an_empty_request_is_malformed() -> None:
    """A request with nothing in it is denied as malformed, whatever the policies say."""
    decision = decide(table(policy({})), SIDECAR, Request())

    assert (False, Reason.MALFORMED) == (decision.allowed, decision.reason)


def test_case_080_a_tcp_request_is_decided_as_tcp() -> None:
    """Without HTTP attributes the rules of TCP hold: HTTP fields drop an ALLOW rule and are left out of a DENY rule."""
    tcp = Request(protocol="tcp", principal=PEER, source_ip="10.1.2.3", port=5432)

    assert Reason.NO_ALLOW_POLICY is decide(table(), SIDECAR, tcp).reason
    assert Reason.NO_RULE_MATCHED is decide(table(policy(to(methods=["GET"], ports=["5432"]))), SIDECAR, tcp).reason
    assert Reason.ALLOW_RULE is decide(table(policy(to(ports=["5432"]))), SIDECAR, tcp).reason
    assert Reason.DENY_RULE is decide(table(policy(to(methods=["GET"]), action="DENY")), SIDECAR, tcp).reason


@_BOTH
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("", "/"),
        ("GET", ""),
        ("GET", "admin"),
        ("GET", "http://h/admin"),
        ("GET", "*"),
        ("CONNECT", ""),
        ("CONNECT", "h:443"),
        ("GE T", "/"),
        ("G\x00T", "/"),
        ("G\u00c9T", "/"),
        ("GET", "/a\x00"),
        ("GET", "/a\nb"),
        ("GET", "/a\x7f"),
        ("GET", "?"),
    ],
)
def test_case_081_malformed_requests_are_denied(mesh: MeshConfig, method: str, path: str) -> None:
    """No method, no path, no leading slash, control characters: denied before any rule is asked."""
    assert Reason.MALFORMED is ask(table(policy({}), mesh=mesh), path, method=method).reason


@_BOTH
def test_unusual_methods_are_requests(mesh: MeshConfig) -> None:
    """OPTIONS *, M-SEARCH and an extended CONNECT with a path are well-formed."""
    rules = table(policy({}), mesh=mesh)

    assert ask(rules, "*", method="OPTIONS").allowed
    assert ask(rules, "/", method="M-SEARCH").allowed
    assert ask(rules, "/chat", method="CONNECT").allowed
    assert ask(rules, "/", method="123").allowed


@pytest.mark.parametrize("method", ["delete", "Delete", "m-SEARCH"])
def test_a_method_in_lower_case_is_refused_under_hardened_matching(method: str) -> None:
    """Envoy answers 400 to it over HTTP/1 and lets it pass over HTTP/2, and many servers take it for DELETE."""
    denied = policy(to(methods=["DELETE", "M-SEARCH"]), action="DENY")
    carved = policy(to(notMethods=["DELETE", "M-SEARCH"]))

    for rule in (denied, carved):
        assert Reason.MALFORMED is ask(table(rule), method=method).reason
        assert ask(table(rule, mesh=ISTIO), method=method).allowed


@pytest.mark.parametrize(
    "principal",
    [
        "",
        "cluster.local/ns/shop/sa/web",
        "CN=web",
        "spiffe://other/ns/shop/sa/web",
        PEER + "x",
        "spiffe://cluster.local/ns/shopx/sa/web",
    ],
)
def test_case_090_no_accidental_identity(principal: str) -> None:
    """A peer that is somebody else, or nobody, is not taken for the one that a rule names."""
    for rule in (
        source(principals=["cluster.local/ns/shop/sa/web"]),
        source(serviceAccounts=["shop/web"], trustDomains=["cluster.local"]),
    ):
        assert not ask(table(policy(rule)), principal=principal).allowed


def test_case_090_a_prefix_means_what_it_says() -> None:
    """`web*` is a prefix, and a dot is a dot (CVE-2026-39350)."""
    rules = table(policy(source(principals=["cluster.local/ns/shop/sa/web*"])))

    assert ask(rules, principal=PEER + "-2").allowed
    assert not ask(table(policy(source(serviceAccounts=["sh.p/web"])))).allowed


@_BOTH
def test_ztunnel_looks_at_layer_4_only(mesh: MeshConfig) -> None:
    """An HTTP request is judged by what ztunnel knows; what is only HTTP does nothing there."""
    denies = table(
        policy(
            {"from": [{"source": {"namespaces": ["shop"]}}], "to": [{"operation": {"methods": ["GET"]}}]}, action="DENY"
        ),
        mesh=mesh,
    )

    assert ask(denies, target=_ZTUNNEL).allowed
    assert not ask(table(policy(source(namespaces=["shop"]), action="DENY"), mesh=mesh), target=_ZTUNNEL).allowed
    assert not ask(table(policy(to(paths=["/"])), mesh=mesh), target=_ZTUNNEL).allowed


@_BOTH
def test_ztunnel_passes_over_an_entry_in_which_nothing_is_left(mesh: MeshConfig) -> None:
    """Beside an entry with layer 4 fields, one with HTTP fields only adds nothing."""
    rule = {"to": [{"operation": {"paths": ["/x"]}}, {"operation": {"ports": ["9"]}}]}

    assert ask(table(policy(rule, action="DENY"), mesh=mesh), target=_ZTUNNEL).allowed


@_BOTH
@pytest.mark.parametrize(
    ("target", "value", "attached"),
    [
        (SIDECAR, policy({}, action="DENY"), True),
        (SIDECAR, policy({}, action="DENY", namespace="other"), False),
        (SIDECAR, policy({}, action="DENY", namespace="istio-system"), True),
        (SIDECAR, policy({}, action="DENY", selector={"matchLabels": {"app": "orders"}}), True),
        (SIDECAR, policy({}, action="DENY", selector={"matchLabels": {"app": "orders", "x": "y"}}), False),
        (SIDECAR, policy({}, action="DENY", selector={"matchLabels": {}}), True),
        (SIDECAR, policy({}, action="DENY", targetRefs=[{"kind": "Service", "name": "orders"}]), False),
        (WAYPOINT, policy({}, action="DENY"), False),
        (WAYPOINT, policy({}, action="DENY", targetRefs=[{"kind": "Service", "name": "orders"}]), True),
        (WAYPOINT, policy({}, action="DENY", targetRef={"group": "core", "kind": "Service", "name": "orders"}), True),
        (WAYPOINT, policy({}, action="DENY", targetRefs=[{"kind": "Service", "name": "order"}]), False),
        (
            WAYPOINT,
            policy(
                {},
                action="DENY",
                targetRefs=[{"group": "networking.istio.io", "kind": "ServiceEntry", "name": "orders"}],
            ),
            False,
        ),
        (
            WAYPOINT,
            policy(
                {},
                action="DENY",
                targetRefs=[{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "waypoint"}],
            ),
            True,
        ),
        (
            WAYPOINT,
            policy(
                {},
                action="DENY",
                namespace="istio-system",
                targetRefs=[{"group": "gateway.networking.k8s.io", "kind": "GatewayClass", "name": "istio-waypoint"}],
            ),
            True,
        ),
        (WAYPOINT, policy({}, action="DENY", targetRefs=[{"group": "x", "kind": "Service", "name": "orders"}]), False),
    ],
)
def test_attachment(mesh: MeshConfig, target: Target, value: dict[str, Any], attached: bool) -> None:
    """A DENY of everything denies exactly where it attaches."""
    assert attached is not ask(table(value, mesh=mesh), target=target).allowed


@pytest.mark.parametrize(
    "broken",
    [
        Request(method="GET", path="/", headers={"x-a": None}),  # type: ignore[dict-item]
        Request(method="GET", path=None),  # type: ignore[arg-type]
        Request(method=7, path="/"),  # type: ignore[arg-type]
        Request(method="GET", path="/", principal=[]),  # type: ignore[arg-type]
        Request(method="GET", path="/", host=b"x"),  # type: ignore[arg-type]
    ],
)
def test_deciding_never_raises(broken: Request) -> None:
    """A request that no codec makes is denied, not an exception."""
    decision = decide(table(policy(when("request.headers[x-a]", "a"))), SIDECAR, broken)

    assert (False, Reason.INTERNAL) == (decision.allowed, decision.reason)


def test_a_surrogate_or_odd_unicode_is_no_exception() -> None:
    """Text that cannot be encoded is decided like any other."""
    for path in ("/\ud800", "/\u202e", "/%ff%fe", "/%", "/%zz", "/%u0061", "/" + "\U0001f600" * 100):
        assert not ask(table(policy(to(paths=["/a"]))), path).allowed


def test_grpc_is_http() -> None:
    """A gRPC request is a POST to its method."""
    rules = table(policy(to(methods=["POST"], paths=["/shop.Orders/*"])))

    assert ask(rules, "/shop.Orders/List", method="POST", protocol="grpc").allowed
    assert not ask(rules, "/shop.Admin/List", method="POST", protocol="grpc").allowed
