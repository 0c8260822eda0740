"""The question behind `explain`, at a registered enforcement point."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from app.limits import PolicyLimits
from app.policy.broad_question import answer_reach
from app.policy.document import parse_document
from app.policy.policy_view import PolicyView
from app.policy.question import answer_question
from tests.support.providers import provider
from tests.support.snapshots import policy

POINT = {
    "apiVersion": "gatehouse.dev/v1",
    "kind": "EnforcementPoint",
    "metadata": {"name": "waypoint", "namespace": "shop"},
    "spec": {"kind": "waypoint", "gateway": "waypoint", "requireService": True, "caller": {"listener": "local"}},
}
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
QUESTION = {"request": {"destination_ip": "10.9.9.9", "port": 80}, "enforcementPoint": "shop/waypoint"}


def test_a_request_to_no_known_service_is_explained_as_a_worker_decides_it() -> None:
    """A waypoint that requires a service denies before any rule is asked, and says what to do."""
    limits = PolicyLimits()
    view = PolicyView.empty(limits).changed({"EnforcementPoint/shop/waypoint": POINT}, {}, limits)

    answer = answer_question(QUESTION, view, now=NOW)

    assert (False, "TARGET_UNKNOWN") == (answer["decision"]["allowed"], answer["decision"]["reason"])
    assert "inventory" in answer["decision"]["hint"]
    assert answer["target"] is None


CUSTOM = policy("ask", action="CUSTOM", provider={"name": "opa"}, rules=[{}])
ASKED = {
    "request": {"method": "GET", "path": "/", "provider_decisions": {"opa": "allow"}},
    "target": {"kind": "sidecar", "namespace": "shop"},
}


def _ask(question: dict[str, Any], *documents: dict[str, Any]) -> dict[str, Any]:
    limits = PolicyLimits()
    values = {parse_document(value, limits).key: value for value in documents}
    return answer_question(question, PolicyView.empty(limits).changed(values, {}, limits), now=NOW)


def test_a_question_says_which_providers_would_be_asked() -> None:
    """With the answers that were given, and a denial where there is none."""
    unanswered = {**ASKED, "request": {"method": "GET", "path": "/"}}
    allowed, denied = _ask(ASKED, CUSTOM, provider("opa")), _ask(unanswered, CUSTOM, provider("opa"))
    assert (True, [{"provider": "opa", "answer": "allow"}]) == (allowed["decision"]["allowed"], allowed["asks"])
    assert (False, [{"provider": "opa", "answer": None}]) == (denied["decision"]["allowed"], denied["asks"])
    assert "asks" not in _ask(ASKED, policy("p", rules=[{}]))


def test_a_provider_without_a_document_denies_whatever_is_said_of_it() -> None:
    """As in a worker: nobody could ask it."""
    answer = _ask(ASKED, CUSTOM)
    assert (False, "PROVIDER_DENIED") == (answer["decision"]["allowed"], answer["decision"]["reason"])
    assert [{"provider": "opa", "answer": None}] == answer["asks"]


def test_a_service_that_the_inventory_lacks_is_said() -> None:
    """A misspelt service has no policies, which must not look like an answer; an inventory without services says nothing."""
    limits = PolicyLimits()
    service = {"registry": "Kubernetes", "namespace": "shop", "name": "orders", "addresses": ["10.0.0.1"], "hosts": []}
    view = PolicyView.empty(limits).changed({}, {"Kubernetes/shop/orders": service}, limits)
    waypoint = {"kind": "waypoint", "namespace": "shop", "gateway_name": "waypoint", "service_namespace": "shop"}

    def ask(name: str, asked: PolicyView = view) -> Any:
        question = {"request": {"method": "GET", "path": "/"}, "target": {**waypoint, "service": name}}
        reached = answer_reach({"service": f"shop/{name}"}, asked, now=NOW)
        answer = answer_question(question, asked, now=NOW)
        assert answer.get("unknownServices") == reached.get("unknownServices")
        return answer.get("unknownServices")

    known = view.changed({}, {"Kubernetes/shop/orders": {**service, "ports": [8080]}}, limits)
    for port, doubts in ((8080, None), (80, ["shop/orders:80"])):
        question = {"request": {"port": port}, "target": {**waypoint, "service": "orders"}}
        assert doubts == answer_question(question, known, now=NOW).get("unknownServices")
        question = {"request": {"port": port}, "service": "shop/orders"}
        assert doubts == answer_reach(question, known, now=NOW).get("unknownServices")
    assert ["shop/odrers"] == ask("odrers")
    assert ask("orders") is None
    assert ask("odrers", PolicyView.empty(limits)) is None


def test_without_a_port_the_only_one_of_the_service_is_asked_about() -> None:
    """A rule about that port holds, and the answer says what was taken; with two ports none is guessed."""
    limits = PolicyLimits()
    service = {"registry": "Kubernetes", "namespace": "shop", "name": "orders", "addresses": ["10.0.0.1"], "hosts": []}
    at_orders = [{"kind": "Service", "group": "", "name": "orders"}]
    deny = policy("p", action="DENY", targetRefs=at_orders, rules=[{"to": [{"operation": {"ports": ["8080"]}}]}])
    target = {"kind": "waypoint", "namespace": "shop", "gateway_name": "waypoint", "gateway_class": "istio-waypoint"}
    question = {
        "request": {"method": "GET", "path": "/"},
        "target": {**target, "service": "orders", "service_namespace": "shop"},
    }

    def ask(*ports: int) -> tuple[str, Any]:
        services = {"Kubernetes/shop/orders": {**service, "ports": list(ports)}}
        documents = {f"AuthorizationPolicy/{deny['metadata']['namespace']}/p": deny}
        answer = answer_question(question, PolicyView.empty(limits).changed(documents, services, limits), now=NOW)
        return answer["decision"]["reason"], answer.get("assumedPort")

    assert ("DENY_RULE", 8080) == ask(8080)
    assert ("NO_ALLOW_POLICY", None) == ask(8080, 9090)
    assert ("NO_ALLOW_POLICY", None) == ask()
