"""Where a request really goes: the destination address first, and what a client writes never unless told so."""

from __future__ import annotations

from typing import Any

import pytest

from app.decision import target as target_module
from app.decision.attributes import CheckAttributes
from app.decision.target import SERVICE_EXTENSION, resolve_target
from app.policy.decision import Reason
from app.policy.target import PointKind, ServiceRef, Target
from tests.support.decisions import (
    FRONTEND,
    LOCAL_WAYPOINT,
    ORDERS_IP,
    SERVICE_REF,
    SERVICES,
    UNREGISTERED,
    WAYPOINT,
    Worker,
    at_waypoint,
    mutual_tls,
    xfcc,
)
from tests.support.snapshots import point, policy

PAYMENTS_REF = {"kind": "ServiceEntry", "group": "networking.istio.io", "name": "payments"}
INVENTORY = {
    **SERVICES,
    "External/shop/payments": {
        "namespace": "shop",
        "name": "payments",
        "registry": "External",
        "hosts": ["api.payments.example", "*.eu.payments.example"],
        "addresses": ["240.240.0.7"],
        "ports": [443],
        "labels": {},
    },
    "Kubernetes/bank/ledger": {
        "namespace": "bank",
        "name": "ledger",
        "registry": "Kubernetes",
        "hosts": ["ledger.bank.svc.cluster.local"],
        "addresses": [],
        "ports": [],
        "labels": {},
    },
}
EVERYBODY = at_waypoint("everybody", rules=[{}])
NOT_PAYMENTS = policy("not-payments", targetRefs=[PAYMENTS_REF], action="DENY", rules=[{}])
NOT_ORDERS = policy("not-orders", targetRefs=[SERVICE_REF], action="DENY", rules=[{}])


def _waypoint(**spec: Any) -> dict[str, Any]:
    return point("waypoint", gateway="waypoint", caller={"listener": "local"}, **spec)


async def _worker(*documents: dict[str, Any]) -> Worker:
    serving = Worker()
    await serving.put(*documents, services=INVENTORY)
    return serving


def _resolved(serving: Worker, listener: str | None = "local", **attributes: Any) -> Target | None:
    state = serving.holder.state
    assert state is not None
    found = state.points.by_listener[listener] if listener is not None else None
    return resolve_target(state, found, CheckAttributes(**attributes))


async def test_the_address_of_a_service_entry_leads_to_its_policies() -> None:
    """By address and port; another port of the same address is no service."""
    serving = await _worker(LOCAL_WAYPOINT, EVERYBODY, NOT_PAYMENTS)
    denied = serving.check(headers=xfcc(), destination_ip="240.240.0.7", destination_port=443).decision
    assert (Reason.DENY_RULE, "shop/not-payments") == (denied.reason, denied.policy)
    other = serving.check(headers=xfcc(), destination_ip="240.240.0.7", destination_port=80).decision
    assert (True, "shop/everybody") == (other.allowed, other.policy)


async def test_an_extension_names_the_service_where_the_address_does_not() -> None:
    """Only at a point that says so, and never against the address."""
    named = {"context_extensions": {SERVICE_EXTENSION: "External/shop/payments"}}
    serving = await _worker(_waypoint(targetFromContextExtensions=True), EVERYBODY, NOT_PAYMENTS, NOT_ORDERS)
    unknown = serving.check(headers=xfcc(), destination_ip="10.9.9.9", **named).decision
    assert "shop/not-payments" == unknown.policy
    assert "shop/not-orders" == serving.check(headers=xfcc(), **named).decision.policy
    short = {"context_extensions": {SERVICE_EXTENSION: "shop/orders"}}
    assert "shop/not-orders" == serving.check(headers=xfcc(), destination_ip="10.9.9.9", **short).decision.policy
    without = serving.check(headers=xfcc(), destination_ip="10.9.9.9", context_extensions={}).decision
    assert "shop/everybody" == without.policy


async def test_case_092_extensions_of_a_point_that_does_not_say_so_are_ignored() -> None:
    """Not even an unregistered caller on loopback is listened to, and on 9193 nobody who is no enforcement point."""
    extensions = {"context_extensions": {SERVICE_EXTENSION: "shop/orders"}, "destination_ip": "10.9.9.9"}
    serving = await _worker(LOCAL_WAYPOINT, EVERYBODY, NOT_ORDERS)
    assert "shop/everybody" == serving.check(headers=xfcc(), **extensions).decision.policy
    stranger = serving.check(UNREGISTERED, source_principal=FRONTEND, **extensions).decision
    assert (False, Reason.TARGET_UNKNOWN) == (stranger.allowed, stranger.reason)
    workload = serving.check(mutual_tls(FRONTEND), source_principal=FRONTEND, **extensions).decision
    assert Reason.CALLER_UNKNOWN == workload.reason


@pytest.mark.parametrize(
    "value", ["", "orders", "shop/nothing", "External/shop/orders", "Kubernetes/shop/orders/x", "/"]
)
async def test_an_extension_that_names_no_service_is_denied(value: str) -> None:
    """A mistake in the proxy's configuration must not take a request past the policies of its service."""
    serving = await _worker(_waypoint(targetFromContextExtensions=True), EVERYBODY)
    answer = serving.check(
        headers=xfcc(), destination_ip="10.9.9.9", context_extensions={SERVICE_EXTENSION: value}
    ).decision
    assert (False, Reason.TARGET_UNKNOWN) == (answer.allowed, answer.reason)


async def test_the_host_counts_only_at_a_point_that_says_so() -> None:
    """Everywhere else it is a header that a client writes, and changes nothing."""
    lost = {"destination_ip": "", "destination_port": 0, "host": "orders.shop.svc.cluster.local:8080"}
    assert (
        "shop/everybody"
        == (await _worker(LOCAL_WAYPOINT, EVERYBODY, NOT_ORDERS)).check(headers=xfcc(), **lost).decision.policy
    )
    serving = await _worker(_waypoint(serviceFromHost=True), EVERYBODY, NOT_ORDERS, NOT_PAYMENTS)
    assert "shop/not-orders" == serving.check(headers=xfcc(), **lost).decision.policy
    wildcard = serving.check(headers=xfcc(), **{**lost, "host": "A.EU.payments.example."}).decision
    assert "shop/not-payments" == wildcard.policy
    # The address goes before the Host.
    assert "shop/not-orders" == serving.check(headers=xfcc(), host="api.payments.example").decision.policy


@pytest.mark.parametrize(
    "host",
    ["", "orders", "other.example", "user@orders.shop.svc.cluster.local", "[::1]"],
)
async def test_a_host_of_no_service_is_denied(host: str) -> None:
    """Else whoever writes the Host could choose to be no service's business."""
    serving = await _worker(_waypoint(serviceFromHost=True), EVERYBODY)
    answer = serving.check(headers=xfcc(), destination_ip="", destination_port=0, host=host).decision
    assert (False, Reason.TARGET_UNKNOWN) == (answer.allowed, answer.reason)


async def test_the_certificate_of_an_unregistered_proxy_says_in_which_namespace_it_stands() -> None:
    """A namespace-wide policy holds there; of the workload's labels nothing is known."""
    serving = await _worker(policy("closed", namespace="bank", action="DENY", rules=[{}]))
    here = {"source_principal": FRONTEND, "destination_ip": "10.9.9.9"}
    at_bank = serving.check(UNREGISTERED, destination_principal="spiffe://cluster.local/ns/bank/sa/ledger", **here)
    assert "bank/closed" == at_bank.decision.policy
    nowhere = serving.check(UNREGISTERED, destination_principal="ledger.bank", **here)
    assert Reason.TARGET_UNKNOWN == nowhere.decision.reason


async def test_without_labels_a_namespace_with_selectors_is_not_decided_for() -> None:
    """A policy that may or may not attach cannot be left out; neither can one of the root namespace."""
    principal = {"destination_principal": "spiffe://cluster.local/ns/bank/sa/ledger"}
    for namespace in ("bank", "istio-system"):
        chosen = policy("chosen", namespace=namespace, action="DENY", rules=[{}], selector={"matchLabels": {"a": "b"}})
        serving = await _worker(chosen)
        assert _resolved(serving, None, **principal) is None
    elsewhere = policy("chosen", namespace="shop", action="DENY", rules=[{}], selector={"matchLabels": {"a": "b"}})
    assert Target(PointKind.SIDECAR, "bank") == _resolved(await _worker(elsewhere), None, **principal)


async def test_a_registered_proxy_with_a_certificate_of_another_namespace_is_decided_for_there() -> None:
    """Its labels belong to the namespace that it was registered for."""
    sidecar = point("orders", kind="sidecar", labels={"app": "orders"}, caller={"listener": "local"})
    serving = await _worker(sidecar)
    at_home = Target(PointKind.SIDECAR, "shop", labels=(("app", "orders"),))
    assert at_home == _resolved(serving, destination_principal="spiffe://cluster.local/ns/shop/sa/orders")
    assert at_home == _resolved(serving, destination_principal="")
    assert at_home == _resolved(serving, destination_principal="orders.shop")
    abroad = _resolved(serving, destination_principal="spiffe://cluster.local/ns/bank/sa/ledger")
    assert Target(PointKind.SIDECAR, "bank") == abroad


async def test_at_a_waypoint_its_own_certificate_changes_nothing() -> None:
    """The waypoint stands where it was registered, whatever it is behind."""
    serving = await _worker(LOCAL_WAYPOINT)
    found = _resolved(serving, destination_ip="10.9.9.9", destination_principal=WAYPOINT.replace("shop", "bank"))
    assert found is not None
    assert ("shop", ()) == (found.namespace, found.services)


async def test_what_is_remembered_is_bounded_and_leaves_room_for_services(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses that lead nowhere are a client's to choose: they fill half of the memory at most."""
    monkeypatch.setattr(target_module, "_MAX_REMEMBERED", 10)
    monkeypatch.setattr(target_module, "_MAX_UNKNOWN", 5)
    serving = await _worker(_waypoint(requireService=True))
    for number in range(100):
        assert _resolved(serving, destination_ip=f"10.9.9.{number}") is None
    state = serving.holder.state
    assert state is not None
    assert 5 == len(state.targets)
    for _ in range(2):
        found = _resolved(serving, destination_ip=ORDERS_IP, destination_port=8080)
        assert found is not None
        assert (ServiceRef("shop", "orders"),) == found.services
    assert 6 == len(state.targets)
