"""What is written natively, what is not and why, and what is found about who enforces what."""

from __future__ import annotations

from typing import Any

import pytest

from app.policy.finding import SetFinding, Severity
from app.policy.ownership import CONFIRMED, CONTENT_HASH, EFFECT, PROJECTED_FROM, REVISION, projected_hash
from app.policy.ownership_findings import (
    ENFORCED_BY_NOBODY,
    ENFORCED_TWICE,
    NOT_CONFIRMED,
    NOT_PROJECTABLE,
    PARTLY_ENFORCED,
    ownership_findings,
)
from app.policy.policy_view import PolicyView
from app.policy.project import BYPASS_OPEN, WAYPOINT_ASSUMED, ProjectionOptions, project
from tests.support.policies import LIMITS, document, policy, source, to, when

_GATEWAY = "gateway.networking.k8s.io"
_ORDERS = {"targetRefs": [{"kind": "Service", "group": "", "name": "orders"}]}
_WAYPOINT = {"targetRefs": [{"kind": "Gateway", "group": _GATEWAY, "name": "waypoint"}]}
_FROM_WEB = source(principals=["cluster.local/ns/shop/sa/web"])
_ASK = policy({}, action="CUSTOM", name="ask", provider={"name": "gatehouse"}, **_WAYPOINT)


def _point(name: str = "waypoint", kind: str = "waypoint", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "EnforcementPoint",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"kind": kind, "gateway": name, "caller": {"listener": "local"}, **spec},
    }


def _mesh(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "gatehouse.dev/v1", "kind": "Mesh", "metadata": {"name": "mesh"}, "spec": spec}


def _view(*values: dict[str, Any]) -> PolicyView:
    return PolicyView.empty(LIMITS).changed({document(value).key: value for value in values}, {}, LIMITS)


def _marked(value: dict[str, Any], effect: str = "projected", **annotations: str) -> dict[str, Any]:
    words = {EFFECT: effect, **{f"gatehouse.dev/{key.replace('_', '-')}": text for key, text in annotations.items()}}
    return {**value, "metadata": {**value["metadata"], "annotations": words}}


def _why(*values: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and pointer of what is not projected."""
    reasons = project(_view(*values)).not_projected
    return [(reason.document.rpartition("/")[2], reason.pointer) for reason in reasons]


def _codes(*values: dict[str, Any], sources: dict[str, str] | None = None) -> list[tuple[str, str, str]]:
    """Severity, document name and code of what is found about a set."""
    return [_short(found) for found in ownership_findings(_view(*values), sources or {})]


def _short(found: SetFinding) -> tuple[str, str, str]:
    return found.severity.value, found.document.rpartition("/")[2], found.code


def test_a_native_copy_is_what_was_written_and_is_marked() -> None:
    """Spec, foreign labels and annotations are kept; our annotations give way to where it comes from."""
    value = _marked(policy(_FROM_WEB, name="readers", **_ORDERS))
    value["metadata"] |= {"labels": {"team": "a"}}
    value["metadata"]["annotations"]["note"] = "kept"

    (native,) = project(_view(value), ProjectionOptions(revision=7)).documents

    assert {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {
            "name": "readers",
            "namespace": "shop",
            "labels": {"team": "a", "app.kubernetes.io/managed-by": "gatehouse"},
            "annotations": {
                "note": "kept",
                PROJECTED_FROM: "AuthorizationPolicy/shop/readers",
                CONTENT_HASH: projected_hash(document(value)),
                REVISION: "7",
            },
        },
        "spec": value["spec"],
    } == native


@pytest.mark.parametrize(
    ("rule", "pointer"),
    [
        (to(paths=["/public/*"]), "/spec/rules/0/to/0/operation/paths"),
        (to(notPaths=["/admin"]), "/spec/rules/0/to/0/operation/notPaths"),
        (to(hosts=["a.com"]), "/spec/rules/0/to/0/operation/hosts"),
        (when("request.headers[x-role]", "admin"), "/spec/rules/0/when/0/values"),
        (source(requestPrincipals=["*"]), "/spec/rules/0/from/0/source/requestPrincipals"),
        (when("request.auth.claims[group]", "a"), "/spec/rules/0/when/0/values"),
        (source(trustDomains=["cluster.local"]), "/spec/rules/0/from/0/source/trustDomains"),
        (source(remoteIpBlocks=["10.0.0.0/8"]), "/spec/rules/0/from/0/source/remoteIpBlocks"),
    ],
)
@pytest.mark.parametrize("action", ["ALLOW", "DENY"])
def test_what_a_waypoint_would_enforce_otherwise_stays(rule: dict[str, Any], pointer: str, action: str) -> None:
    """Each field that is matched otherwise there is a reason, where it stands."""
    assert [("p", pointer)] == _why(policy(rule, action=action, **_ORDERS))


def test_without_hardened_matching_a_waypoint_compares_the_same() -> None:
    """Paths, hosts and headers are lost by hardened matching only."""
    rules = (to(paths=["/a"], hosts=["a.com"]), when("request.headers[x-role]", "admin"))

    assert [] == _why(policy(*rules, **_ORDERS), _mesh(hardened=False))


@pytest.mark.parametrize(
    ("rule", "pointer"),
    [
        (to(methods=["GET"]), "/spec/rules/0/to/0/operation/methods"),
        (to(paths=["/a"]), "/spec/rules/0/to/0/operation/paths"),
        (source(namespaces=["a"], trustDomains=["td"]), "/spec/rules/0/from/0/source/trustDomains"),
        (when("connection.sni", "a.com"), "/spec/rules/0/when/0/values"),
        (when("source.serviceAccount", "shop/web"), "/spec/rules/0/when/0/values"),
    ],
)
@pytest.mark.parametrize("action", ["ALLOW", "DENY"])
def test_what_ztunnel_does_not_know_stays(rule: dict[str, Any], pointer: str, action: str) -> None:
    """Without target references it is ztunnel that enforces, which knows layer 4 only."""
    assert [("p", pointer)] == _why(policy(rule, action=action), _mesh(hardened=False))


def test_layer_4_is_projected_to_ztunnel() -> None:
    """Identity, address and port are compared there as here."""
    value = policy({**_FROM_WEB, **to(ports=["8080"])}, selector={"matchLabels": {"app": "orders"}})

    assert [] == _why(value)
    assert value["spec"] == project(_view(value)).documents[0]["spec"]


def test_what_has_no_native_form_says_so() -> None:
    """AUDIT, providers, what is tried out, and kinds that Istio has no word for."""
    quarantine = {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "Quarantine",
        "metadata": {"name": "q"},
        "spec": {"identity": "spiffe://cluster.local/ns/a/sa/b", "reason": "stolen"},
    }

    assert [
        ("audit", "/spec/action"),
        ("custom", "/spec/action"),
        ("nothing", "/spec/targetRefs/0"),
        ("own", "/spec/action"),
        ("tried", "/metadata/annotations"),
        ("q", "/kind"),
    ] == _why(
        policy({}, action="AUDIT", name="audit", **_ORDERS),
        policy({}, action="CUSTOM", name="custom", provider={"name": "opa"}, **_ORDERS),
        policy({}, action="CUSTOM", name="own", provider={"name": "gatehouse"}, **_ORDERS),
        policy(_FROM_WEB, name="tried", annotations={"istio.io/dry-run": "true"}, **_ORDERS),
        policy(_FROM_WEB, action="DENY", name="nothing", targetRefs=[{"kind": "Pod", "group": "", "name": "x"}]),
        quarantine,
    )


def test_allow_policies_of_one_target_are_projected_together() -> None:
    """One that stays keeps those of its target here, and theirs; DENY policies and other targets go."""
    values = [
        policy(to(paths=["/a"]), name="a-path", **_ORDERS),
        policy(_FROM_WEB, name="b-orders", **_ORDERS),
        policy(_FROM_WEB, name="c-waypoint", **_WAYPOINT),
        policy(_FROM_WEB, name="d-cart", targetRefs=[{"kind": "Service", "group": "", "name": "cart"}]),
        policy(_FROM_WEB, name="e-deny", action="DENY", **_ORDERS),
        policy(_FROM_WEB, name="f-ztunnel"),
    ]

    assert ["a-path", "b-orders", "c-waypoint", "d-cart"] == [name for name, _ in _why(*values, _point())]


def test_selectors_that_differ_do_not_meet() -> None:
    """ALLOW policies for other workloads of a namespace are no alternatives; one for all workloads is."""
    lost = policy(to(methods=["GET"]), name="a-lost", selector={"matchLabels": {"app": "a"}})
    other = policy(_FROM_WEB, name="b", selector={"matchLabels": {"app": "b"}})
    every = policy(_FROM_WEB, name="c")

    assert ["a-lost"] == [name for name, _ in _why(lost, other)]
    assert ["a-lost", "b", "c"] == [name for name, _ in _why(lost, other, every)]


def test_no_allow_is_projected_beside_an_observed_one() -> None:
    """Natively they would be alternatives, where both had to match before."""
    observed = _marked(policy(_FROM_WEB, name="theirs", **_ORDERS), "observed")

    assert ["ours", "theirs"] == [name for name, _ in _why(observed, policy(_FROM_WEB, name="ours", **_ORDERS))]


def test_only_what_is_marked() -> None:
    """On request an ALLOW that is not marked stays, and with it what shares its target."""
    marked = _marked(policy(_FROM_WEB, name="a", **_ORDERS))
    deny = _marked(policy(_FROM_WEB, name="c", action="DENY", **_ORDERS))
    view = _view(marked, policy(_FROM_WEB, name="b", **_ORDERS), deny)

    names = [value["metadata"]["name"] for value in project(view, ProjectionOptions(only_marked=True)).documents]

    assert ["c"] == names


def test_only_the_waypoint_is_let_in() -> None:
    """For each waypoint an L4 ALLOW of its identity closes the ways round it: for its workloads, or its namespace."""
    by_id = _point("one", caller={"spiffeId": "spiffe://td/ns/shop/sa/wp"}, workloads=[{"app": "a"}, {"k/l": "b"}])

    documents = project(_view(by_id, _point("two"))).documents

    assert [
        ("gatehouse-only-from-waypoint", None, "cluster.local/ns/shop/sa/two"),
        ("gatehouse-only-from-waypoint-app-a", {"matchLabels": {"app": "a"}}, "td/ns/shop/sa/wp"),
    ] == [
        (
            value["metadata"]["name"],
            value["spec"].get("selector"),
            value["spec"]["rules"][0]["from"][0]["source"]["principals"][0],
        )
        for value in documents[:2]
    ]
    assert {"matchLabels": {"k/l": "b"}} == documents[2]["spec"]["selector"]
    assert all(value["spec"]["action"] == "ALLOW" and "targetRefs" not in value["spec"] for value in documents)


def test_the_waypoint_that_is_assumed_is_said() -> None:
    """Without a SPIFFE ID in the set, the account that Istio makes is written, and a warning says so."""
    assert [("warning", "waypoint", WAYPOINT_ASSUMED)] == [_short(found) for found in project(_view(_point())).findings]
    by_id = _point(caller={"spiffeId": "spiffe://td/ns/shop/sa/wp"})
    assert () == project(_view(by_id)).findings


def test_a_side_door_is_found() -> None:
    """An ALLOW that ztunnel enforces for others than the waypoint opens what the waypoint closes."""
    others = policy(_FROM_WEB, name="others")
    waypoint = policy(source(principals=["cluster.local/ns/shop/sa/waypoint"]), name="waypoint-only")
    elsewhere = policy(_FROM_WEB, name="elsewhere", selector={"matchLabels": {"app": "b"}})

    findings = project(_view(_point(workloads=[{"app": "a"}]), others, waypoint, elsewhere)).findings

    assert ["others"] == [found.document.rpartition("/")[2] for found in findings if found.code == BYPASS_OPEN]


def test_with_custom_the_waypoint_asks_us() -> None:
    """One CUSTOM policy without conditions, with the provider that the Mesh calls ours."""
    documents = project(_view(_point(), _mesh(ownProviders=["gate"])), ProjectionOptions(with_custom=True)).documents

    asked = [value for value in documents if value["spec"]["action"] == "CUSTOM"]
    assert [{**_WAYPOINT, "action": "CUSTOM", "provider": {"name": "gate"}, "rules": [{}]}] == [
        value["spec"] for value in asked
    ]
    assert "gatehouse-ask-waypoint" == asked[0]["metadata"]["name"]


def test_what_reaches_us_is_in_order() -> None:
    """Through a CUSTOM policy at the Gateway, the class or the Service, or a filter that is said to be there."""
    orders = policy(_FROM_WEB, name="orders", **_ORDERS)
    on_service = {**_ASK, "spec": {**_ASK["spec"], **_ORDERS}}
    of_class = policy(
        {},
        action="CUSTOM",
        namespace="istio-system",
        provider={"name": "gatehouse"},
        targetRefs=[{"kind": "GatewayClass", "group": _GATEWAY, "name": "istio-waypoint"}],
    )

    for asking in (_ASK, on_service, of_class):
        assert [] == _codes(_point(), orders, asking)
    assert [] == _codes(_point(reachedBy="filter"), orders)


def test_what_nobody_sends_here_is_enforced_by_nobody() -> None:
    """A waypoint without CUSTOM policy, a policy for another Service, a Gateway that is not registered: errors."""
    orders = policy(_FROM_WEB, name="orders", **_ORDERS)
    cart_only = {**_ASK, "spec": {**_ASK["spec"], "targetRefs": [{"kind": "Service", "group": "", "name": "cart"}]}}
    stranger = policy(
        _FROM_WEB, name="stranger", targetRefs=[{"kind": "Gateway", "group": _GATEWAY, "name": "ingress"}]
    )

    error = Severity.ERROR.value
    assert [(error, "orders", ENFORCED_BY_NOBODY)] == _codes(_point(), orders)
    assert [(error, "orders", ENFORCED_BY_NOBODY)] == _codes(_point(), orders, cart_only)
    assert [(error, "stranger", ENFORCED_BY_NOBODY)] == _codes(_point(), _ASK, stranger)


def test_a_policy_without_target_references_is_not_a_waypoint_s() -> None:
    """It is ztunnel's: here only sidecars and gateways enforce it, where one is registered and selected."""
    plain = policy(_FROM_WEB, name="plain", selector={"matchLabels": {"app": "a"}})
    sidecar = _point("side", "sidecar", labels={"app": "a"}, reachedBy="filter")

    assert [("error", "plain", ENFORCED_BY_NOBODY)] == _codes(_point(), _ASK, plain)
    assert [] == _codes(sidecar, plain)
    assert [("error", "plain", ENFORCED_BY_NOBODY)] == _codes(
        {**sidecar, "spec": {**sidecar["spec"], "labels": {}}}, plain
    )
    assert [] == _codes(_point(), _ASK, _marked(plain, "observed"))


def test_a_projected_policy_that_is_not_applied_is_enforced_by_nobody() -> None:
    """At ztunnel nobody enforces it meanwhile: an error until it is confirmed."""
    plain = policy(_FROM_WEB, action="DENY", name="plain")
    confirmed = _marked(plain, in_force_natively=projected_hash(document(plain)))

    assert [("warning", "plain", NOT_CONFIRMED), ("error", "plain", ENFORCED_BY_NOBODY)] == _codes(
        _point(), _ASK, _marked(plain)
    )
    assert [] == _codes(_point(), _ASK, confirmed)


def test_a_custom_policy_with_conditions_sends_a_part() -> None:
    """What its rules do not match never comes here: a warning."""
    some = policy(to(paths=["/a"]), action="CUSTOM", name="ask", provider={"name": "gatehouse"}, **_WAYPOINT)

    assert [("warning", "orders", PARTLY_ENFORCED)] == _codes(
        _point(), some, policy(_FROM_WEB, name="orders", **_ORDERS)
    )


def test_without_registered_points_nothing_is_said_of_reaching() -> None:
    """One file of policies is no set of which it can be said who enforces it."""
    assert [] == _codes(policy(_FROM_WEB, **_ORDERS))


def test_what_is_enforced_twice_is_an_error() -> None:
    """A native copy beside the document, the same words under another name, and what comes from the cluster."""
    own = policy(_FROM_WEB, name="own", **_ORDERS)
    twin = _marked({**own, "metadata": {"name": "twin", "namespace": "shop"}}, "observed")
    copy = _marked(
        policy(_FROM_WEB, source(namespaces=["x"]), name="copy", **_ORDERS),
        "observed",
        projected_from="AuthorizationPolicy/shop/own",
    )
    applied_here = policy(_FROM_WEB, name="here", annotations={PROJECTED_FROM: "AuthorizationPolicy/shop/x"}, **_ORDERS)

    error = Severity.ERROR.value
    assert [(error, "own", ENFORCED_TWICE)] == _codes(own, twin)
    assert [(error, "own", ENFORCED_TWICE)] == _codes(own, copy)
    assert [(error, "here", ENFORCED_TWICE)] == _codes(applied_here)
    from_cluster = {"AuthorizationPolicy/shop/own": "kubernetes"}
    assert [(error, "own", ENFORCED_TWICE)] == _codes(own, sources=from_cluster)
    assert [] == _codes(_marked(own, "observed"), sources=from_cluster)


def test_a_confirmation_of_old_content_is_an_error() -> None:
    """The old copy is in force natively and the new document here."""
    stale = _marked(policy(_FROM_WEB, name="stale", action="DENY", **_ORDERS), in_force_natively="0" * 64)

    (found,) = ownership_findings(_view(stale))

    assert ("error", "stale", ENFORCED_TWICE) == _short(found)
    assert projected_hash(document(stale)) in found.message
    assert f"/metadata/annotations/{CONFIRMED.replace('/', '~1')}" == found.pointer


def test_a_marked_policy_that_cannot_be_projected_is_an_error() -> None:
    """By its own fields, or by an ALLOW of the same target that is not marked."""
    path = _marked(policy(to(paths=["/a"]), name="path", action="DENY", **_ORDERS))
    marked = _marked(policy(_FROM_WEB, name="marked", **_ORDERS))

    error = Severity.ERROR.value
    assert [(error, "path", NOT_PROJECTABLE)] == _codes(path)
    assert [(error, "marked", NOT_PROJECTABLE)] == _codes(marked, policy(_FROM_WEB, name="other", **_ORDERS))
    assert [("warning", "marked", NOT_CONFIRMED)] == _codes(marked)
