"""Inventory documents: the compact form and what kubectl prints."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import AppError, ErrorCode
from app.identity.inventory import Node, Service, Workload
from app.identity.inventory_codec import (
    node_from_json,
    node_to_json,
    service_from_json,
    service_to_json,
    workload_from_json,
    workload_to_json,
)
from app.identity.inventory_documents import parse_inventory
from app.identity.inventory_fields import ParsedInventory

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "cart-5d7f",
        "namespace": "shop",
        "uid": "0f2a",
        "labels": {"app": "cart", "app.kubernetes.io/name": "cart"},
        "ownerReferences": [{"kind": "ReplicaSet"}],
    },
    "spec": {"nodeName": "node-a", "serviceAccountName": "cart", "containers": [{"name": "c", "image": "i"}]},
    "status": {"phase": "Running", "podIP": "10.1.0.7", "podIPs": [{"ip": "10.1.0.7"}, {"ip": "FD00::7"}]},
}
SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "cart", "namespace": "shop", "labels": {"istio.io/use-waypoint": "wp"}},
    "spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 80}, {"port": 443}]},
}
ENTRY: dict[str, Any] = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "ServiceEntry",
    "metadata": {"name": "pay", "namespace": "shop"},
    "spec": {"hosts": ["pay.example.com"], "addresses": ["240.0.0.9", "10.9.0.0/16"], "ports": [{"number": 443}]},
    "status": {"addresses": [{"value": "240.240.0.1"}]},
}
NODE: dict[str, Any] = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}, "status": {}}


def parse(value: Any, max_items: int = 100) -> ParsedInventory:
    return parse_inventory(value, max_items=max_items, max_errors=10)


def errors_of(value: Any) -> dict[str, str]:
    with pytest.raises(AppError) as caught:
        parse(value)
    assert ErrorCode.INVALID is caught.value.code
    return {error.pointer: error.message for error in caught.value.errors}


def test_what_kubectl_prints_is_read() -> None:
    """Pod, Service, ServiceEntry and Node of a List, by the members that matter here."""
    parsed = parse({"apiVersion": "v1", "kind": "List", "items": [POD, SERVICE, ENTRY, NODE]})
    assert {
        "shop/cart-5d7f": Workload(
            namespace="shop",
            name="cart-5d7f",
            service_account="cart",
            node="node-a",
            uid="0f2a",
            phase="Running",
            addresses=("10.1.0.7", "fd00::7"),
            labels=(("app", "cart"), ("app.kubernetes.io/name", "cart")),
        )
    } == parsed.workloads
    assert {
        "Kubernetes/shop/cart": Service(
            namespace="shop",
            name="cart",
            addresses=("10.0.0.1",),
            ports=(80, 443),
            labels=(("istio.io/use-waypoint", "wp"),),
        ),
        "External/shop/pay": Service(
            namespace="shop",
            name="pay",
            registry="External",
            hosts=("pay.example.com",),
            addresses=("240.0.0.9", "240.240.0.1"),
            ports=(443,),
        ),
    } == parsed.services
    assert {"node-a": Node(name="node-a")} == parsed.nodes
    assert {"node-a"} == parsed.silent_about_bans
    assert ["/items/2"] == [warning.pointer for warning in parsed.warnings]  # the range of the ServiceEntry


@pytest.mark.parametrize(
    "value",
    [
        POD,
        [POD],
        [{"kind": "List", "items": [POD]}],
        {
            "apiVersion": "v1",
            "kind": "PodList",
            "items": [{name: POD[name] for name in ("metadata", "spec", "status")}],
        },
    ],
)
def test_one_object_a_list_and_typed_lists_are_read_alike(value: Any) -> None:
    """However the objects are wrapped."""
    assert ["shop/cart-5d7f"] == list(parse(value).workloads)


def test_the_compact_form_is_read_with_its_defaults() -> None:
    """Service account `default`, phase Running, registry Kubernetes."""
    parsed = parse(
        {
            "nodes": [{"name": "n", "banned": True}],
            "workloads": [
                {"namespace": "a", "name": "b", "node": "n", "addresses": ["10.0.0.1"], "labels": {"x": "y"}}
            ],
            "services": [{"namespace": "a", "name": "s", "hosts": ["*.Example.com"]}],
        }
    )
    assert {"n": Node(name="n", banned=True)} == parsed.nodes
    assert {
        "a/b": Workload(
            namespace="a",
            name="b",
            service_account="default",
            node="n",
            addresses=("10.0.0.1",),
            labels=(("x", "y"),),
        )
    } == parsed.workloads
    assert {"Kubernetes/a/s": Service(namespace="a", name="s", hosts=("*.example.com",))} == parsed.services
    assert set() == parsed.silent_about_bans


def test_a_pod_without_a_node_is_left_out_with_a_warning() -> None:
    """A pod that is not scheduled gives nobody a right to its identity."""
    pending = {**POD, "spec": {}}
    parsed = parse(pending)
    assert {} == parsed.workloads
    assert 1 == len(parsed.warnings)


def test_headless_services_have_no_address() -> None:
    """`None` is Kubernetes' word for it."""
    headless = {**SERVICE, "spec": {"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}}
    assert () == parse(headless).services["Kubernetes/shop/cart"].addresses


def test_every_error_is_told_by_pointer() -> None:
    """One look at the answer is enough to mend the document."""
    found = errors_of(
        {
            "nodes": [{"name": "n"}, {"name": "n"}, {"nam": "m"}, 7],
            "workloads": [{"namespace": "a", "name": "b", "node": "n", "serviceAccount": "A", "labels": {"x": 1}}],
            "services": [{"namespace": "a", "name": "b", "addresses": ["10.0.0.300", "10.0.0.1/24"], "ports": [True]}],
        }
    )
    assert {
        "/nodes/1",
        "/nodes/2/nam",
        "/nodes/2/name",
        "/nodes/3",
        "/nodes/3/name",
        "/workloads/0/serviceAccount",
        "/workloads/0/labels/x",
        "/services/0/addresses/0",
        "/services/0/addresses/1",
        "/services/0/ports/0",
    } == found.keys()


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        (None, ""),
        (7, ""),
        ("x", ""),
        ([7], "/0"),
        ({"kind": "Secret"}, "/kind"),
        ({"kind": "List", "items": {}}, "/items"),
        ({"workload": []}, "/workload"),
        ({"nodes": {}}, "/nodes"),
        ({"kind": "Pod", "metadata": 1, "spec": {"nodeName": "n"}}, "/metadata"),
        ({"kind": "Pod", "metadata": {"name": "a", "namespace": "b"}, "spec": {"nodeName": "N"}}, "/spec/nodeName"),
        ({**SERVICE, "spec": {"clusterIPs": [5]}}, "/spec/clusterIPs/0"),
        ({**SERVICE, "spec": {"ports": [{"port": "http"}]}}, "/spec/ports/0/port"),
        ({**ENTRY, "spec": {"hosts": ["a b"]}}, "/spec/hosts/0"),
    ],
)
def test_other_values_are_refused_where_they_are_wrong(value: Any, pointer: str) -> None:
    """Nothing raises anything but the one error, and it points at the cause."""
    assert pointer in errors_of(value)


def test_too_many_items_are_refused() -> None:
    """The bound counts all kinds together."""
    nodes = [{"name": f"n-{number}"} for number in range(3)]
    assert 3 == len(parse({"nodes": nodes}, max_items=3).nodes)
    with pytest.raises(AppError) as caught:
        parse({"nodes": nodes}, max_items=2)
    assert ErrorCode.TOO_LARGE is caught.value.code


def test_the_errors_shown_are_bounded() -> None:
    """A million mistakes are counted, not listed."""
    with pytest.raises(AppError) as caught:
        parse({"nodes": [{} for _ in range(500)]}, max_items=1_000)
    assert 10 == len(caught.value.errors)
    assert "499 more" in caught.value.detail


def test_the_stored_form_reads_back_equal() -> None:
    """Codec round trip over everything that was parsed."""
    parsed = parse([POD, SERVICE, ENTRY, NODE])
    assert list(parsed.workloads.values()) == [
        workload_from_json(workload_to_json(item)) for item in parsed.workloads.values()
    ]
    assert list(parsed.services.values()) == [
        service_from_json(service_to_json(item)) for item in parsed.services.values()
    ]
    banned = Node(name="x", banned=True)
    assert [*parsed.nodes.values(), banned] == [
        node_from_json(node_to_json(item)) for item in (*parsed.nodes.values(), banned)
    ]
