"""Decision cases as people write them: policies that validation would refuse, members that are null or missing."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import AppError
from app.policy.cases import read_case, run_case
from app.policy.compile import compile_policy
from app.policy.evaluate import decide
from app.policy.explain import explain
from app.policy.mesh import MeshConfig
from tests.support.policies import document, policy, source, to, when

_PEER = "spiffe://cluster.local/ns/shop/sa/web"
_ZTUNNEL = {"kind": "ztunnel", "namespace": "shop"}


def _got(*policies: dict[str, Any], **members: Any) -> str:
    request = {"source_principal": _PEER, "source_ip": "10.0.0.1", "port": 80, **members.pop("request", {})}
    case = {"policies": list(policies), "workload": {"namespace": "shop"}, "expected": "allow", **members}
    return run_case({**case, "request": request}).got


_EVERYTHING = {"namespaces": ["shop"]}


@pytest.mark.parametrize(
    ("rule", "allow", "deny"),
    [
        # A key that nobody knows: the rule is passed over, so an ALLOW rule allows nothing and a DENY rule nothing.
        (when("source.user", "web"), "deny", "allow"),
        (when("destination.labels[app]", not_values=("web",)), "deny", "allow"),
        ({"when": [{"key": "made.up"}]}, "deny", "allow"),
        # Brackets that are missing: ALLOW passes the rule over, DENY leaves the condition out and denies more.
        (when("request.headers", "*"), "deny", "deny"),
        (when("request.headersX[a]", "*"), "deny", "deny"),
        (when("request.auth.claims", "*"), "deny", "deny"),
        (when("experimental.envoy.filters.a", "*"), "deny", "deny"),
        # Values that mean nothing: the same, value by value.
        (source(ipBlocks=["x"]), "deny", "deny"),
        (source(ipBlocks=["x", "10.0.0.0/8"]), "deny", "deny"),
        (source(ipBlocks=["x", "11.0.0.0/8"]), "deny", "allow"),
        (source(notIpBlocks=["10.0.0.0/33"]), "deny", "deny"),
        (source(notIpBlocks=["10.0.0.0/33", "10.0.0.0/8"]), "deny", "allow"),
        (to(ports=["http", "80"]), "deny", "deny"),
        (to(notPorts=["65536"]), "deny", "deny"),
        (when("destination.port", "http", "81"), "deny", "allow"),
        (to(paths=["/{*}.txt", "/"]), "deny", "deny"),
        (to(paths=["/{*}.txt", "/other"]), "deny", "allow"),
        (source(ipBlocks=["x"], **_EVERYTHING), "deny", "deny"),
        # What is empty asks nothing.
        ({"from": []}, "allow", "deny"),
        ({"from": [{"source": None}]}, "allow", "deny"),
        ({"to": [{"operation": {}}]}, "allow", "deny"),
        ({"when": [{"key": "source.ip"}]}, "allow", "deny"),
        # Forms that validation alone refuses.
        (source(serviceAccounts=["web"] * 17), "allow", "deny"),
        (source(serviceAccounts=["shop/web/x"]), "deny", "allow"),
        (source(serviceAccounts=["web"], namespaces=["shop"]), "allow", "deny"),
        (source(principals=["", "x"]), "deny", "allow"),
        (to(paths=["/{id}"]), "deny", "allow"),
    ],
)
def test_a_policy_that_a_cluster_holds_means_what_istiod_makes_of_it(
    rule: dict[str, Any], allow: str, deny: str
) -> None:
    """What Istio's validation refuses decides as its generator has it, and never ends a run of cases."""
    assert (allow, deny) == (_got(policy(rule)), _got(policy(rule, action="DENY")))


@pytest.mark.parametrize(
    ("rule", "allow", "deny"),
    [
        ({"when": [{"key": "source.ip"}]}, "deny", "allow"),
        (when("made.up", "x"), "deny", "allow"),
        ({**source(**_EVERYTHING), **when("made.up", "x")}, "deny", "allow"),
        (source(ipBlocks=["x"]), "deny", "allow"),
        ({"from": [{"source": {}}]}, "deny", "allow"),
        (source(trustDomains=["cluster.local"], **_EVERYTHING), "deny", "deny"),
        (when("source.serviceAccount", "web"), "deny", "allow"),
        ({"to": [{"operation": {"ports": ["80"]}}, {"operation": {"methods": ["GET"]}}]}, "deny", "deny"),
        ({}, "allow", "deny"),
    ],
)
def test_what_ztunnel_makes_of_it(rule: dict[str, Any], allow: str, deny: str) -> None:
    """At ztunnel a part in which nothing is left matches nothing, also in a DENY rule."""
    given = {"workload": _ZTUNNEL, "request": {"protocol": "tcp"}}

    assert (allow, deny) == (_got(policy(rule), **given), _got(policy(rule, action="DENY"), **given))


def test_the_other_rules_of_such_a_policy_hold_under_their_own_numbers() -> None:
    """One rule that is passed over takes no other along, and rules keep their index."""
    case = {
        "policies": [policy(when("source.user", "x"), to(methods=["GET"]))],
        "workload": {"namespace": "shop"},
        "request": {},
        "expected": "allow",
    }

    assert "ns[shop]-policy[p]-rule[1]" == run_case(case).rule


def test_only_cases_take_such_policies() -> None:
    """Where policies are stored, one that could only be misunderstood is refused as ever."""
    with pytest.raises(AppError):
        compile_policy(document(policy(source(ipBlocks=["x"]))), MeshConfig())


def test_explanations_agree_on_such_policies() -> None:
    """`explain` comes to the decision of `decide` where rules were passed over."""
    for action in ("ALLOW", "DENY"):
        written = policy(when("source.user", "x"), source(ipBlocks=["x"]), to(methods=["PUT"]), action=action)
        read = read_case({"policies": [written], "workload": {"namespace": "shop"}, "request": {}, "expected": "allow"})

        expected = decide(read.table, read.target, read.request, read.answers)
        assert expected == explain(read.table, read.target, read.request, read.answers).decision


_CLAIM = {
    "iss": "i",
    "sub": "s",
    "a[0]": "v",
    "https://example.com/roles": ["admin"],
    "a.b": "c",
    "n": {"a": {"b": "c"}},
}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("request.auth.claims[a[0]]", "v", "allow"),
        ("request.auth.claims[https://example.com/roles]", "admin", "allow"),
        ("request.auth.claims[a.b]", "c", "allow"),
        ("request.auth.claims[n][a][b]", "c", "allow"),
        ("request.auth.claims[n.a.b]", "c", "deny"),
        ("request.headers[a][b]", "v", "deny"),
    ],
)
def test_names_with_brackets_dots_and_slashes(key: str, value: str, expected: str) -> None:
    """Only brackets lead deeper, and those that do not pair belong to the name."""
    given = {"jwt_claims": _CLAIM, "headers": {"a": "v", "b": "v"}}

    assert expected == _got(policy(when(key, value)), request=given)


_GET, _POST = policy(to(methods=["GET"], paths=["/"])), policy(to(methods=["POST"], paths=["/"]))


@pytest.mark.parametrize(
    ("policies", "members"),
    [
        ([_GET], {"request": {"method": None, "path": None, "protocol": None, "host": None, "headers": None}}),
        ([_POST], {"request": {"protocol": "grpc"}}),
        ([_POST], {"request": {"protocol": "grpc", "method": None}}),
        (
            [policy(source(principals=["cluster.local/ns/shop/sa/web"]))],
            {"mesh": {"trust_domain": None, "trust_domain_aliases": None, "path_normalization": None}},
        ),
        ([policy({}, namespace="istio-system")], {"mesh": {"root_namespace": None}}),
        ([policy({}, namespace="default")], {"workload": {"kind": None, "namespace": None, "labels": None}}),
        ([policy(to(ports=["80"]))], {"request": {"port": "80"}}),
        ([], {"request": {"provider_decisions": {"opa": None}, "jwt_state": None, "normalized_path": None}}),
        ([], {"policies": None}),
        (
            [],
            {"workload": _ZTUNNEL, "request": {"jwt_state": "expired"}},  # ztunnel looks into no request
        ),
    ],
)
def test_a_member_that_is_null_is_one_that_is_missing(policies: list[dict[str, Any]], members: dict[str, Any]) -> None:
    """Null stands for the default, and a gRPC call is a POST."""
    assert "allow" == _got(*policies, **members)


def test_custom_policies_of_one_name_each_ask_their_own_provider() -> None:
    """A case may call two policies alike; neither takes the other's provider, in any order."""
    first = policy(to(paths=["/"]), action="CUSTOM", provider={"name": "first"})
    second = policy(to(paths=["/other"]), action="CUSTOM", provider={"name": "second"})
    request = {"provider_decisions": {"first": "deny", "second": "allow"}}

    for policies in ((first, second), (second, first)):
        assert "deny" == _got(*policies, request=request, mesh={"enable_multiple_custom_providers": True})
        everyone = {"provider_decisions": {"first": "allow", "second": "allow"}}
        assert "deny" == _got(*policies, request=everyone)  # two at one target without the flag
        assert "allow" == _got(*policies, request=everyone, mesh={"enable_multiple_custom_providers": True})


def test_a_provider_whose_answer_is_given_is_asked() -> None:
    """The answer counts also when the provider has the name by which requests come to us."""
    own = policy({}, action="CUSTOM", provider={"name": "gatehouse"})

    assert "deny" == _got(own, request={"provider_decisions": {"gatehouse": "deny"}})
    assert "allow" == _got(own)


_PREFLIGHT = {"origin": "https://a", "access-control-request-method": "POST"}
_USERS_ONLY = policy(source(requestPrincipals=["*"]))
_TOKEN = {"iss": "i", "sub": "s"}


@pytest.mark.parametrize(
    ("expected", "policies", "request_members"),
    [
        ("deny", [], {"jwt_state": "expired"}),
        ("deny", [], {"jwt_state": "untrusted_issuer", "trusted_issuers": ["i"]}),
        ("deny", [], {"jwt_state": "valid", "jwt_claims": _TOKEN, "trusted_issuers": ["other"]}),
        ("allow", [_USERS_ONLY], {"jwt_state": "valid", "jwt_claims": _TOKEN, "trusted_issuers": ["other", "i"]}),
        ("allow", [], {"jwt_state": "none", "trusted_issuers": ["i"]}),
        ("deny", [_USERS_ONLY], {"jwt_state": "none", "trusted_issuers": ["i"]}),
        # Istio lets a preflight through to the policies whatever token it has; without its headers it is none.
        ("allow", [], {"jwt_state": "expired", "method": "OPTIONS", "headers": _PREFLIGHT}),
        ("deny", [], {"jwt_state": "expired", "method": "POST", "headers": _PREFLIGHT}),
        ("deny", [], {"jwt_state": "expired", "method": "OPTIONS", "headers": {"origin": "https://a"}}),
        ("deny", [_USERS_ONLY], {"jwt_claims": _TOKEN, "method": "OPTIONS", "headers": _PREFLIGHT}),
        # Where no issuer is believed, no RequestAuthentication looks at tokens: none is refused, none is anybody's.
        ("allow", [], {"jwt_state": "expired", "trusted_issuers": []}),
        ("allow", [], {"jwt_state": "valid", "jwt_claims": _TOKEN, "trusted_issuers": []}),
        ("deny", [_USERS_ONLY], {"jwt_state": "valid", "jwt_claims": _TOKEN, "trusted_issuers": []}),
    ],
)
def test_states_of_a_token(expected: str, policies: list[dict[str, Any]], request_members: dict[str, Any]) -> None:
    """A token that does not verify is refused before any policy, where somebody verifies it."""
    assert expected == _got(*policies, request=request_members)


def test_an_alias_that_is_a_star_stands_for_every_trust_domain() -> None:
    """Istio puts the alias in the place of the trust domain, and then reads the star; the index must not hide it."""
    rule = source(principals=["cluster.local/ns/shop/sa/web"])
    given = {"mesh": {"trust_domain": "cluster.local", "trust_domain_aliases": ["*"]}}
    peer = {"source_principal": "spiffe://other.example/ns/shop/sa/web"}

    assert "allow" == _got(policy(rule), request=peer, **given)
    assert "deny" == _got(policy(rule, action="DENY"), request=peer, **given)
    assert "deny" == _got(policy(rule), request={"source_principal": "spiffe://other.example/ns/x/sa/web"}, **given)
