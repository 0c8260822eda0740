"""Inventory documents as people and kubectl write them, turned into nodes, workloads and services.

Two shapes are read: our own compact one, `{nodes: [...], workloads: [...], services: [...]}`, and Kubernetes
objects as `kubectl get pods,services,nodes -o yaml` prints them (a List, one object, or a list of objects), with
Istio's ServiceEntry. Everything wrong is told at once, by JSON pointer; the objects are read in
`inventory_kubernetes`, the compact items here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.errors import AppError, ErrorCode, FieldError
from app.identity.inventory import Node, Service, Workload
from app.identity.inventory_fields import ClusterNames, Fields, ParsedInventory
from app.identity.inventory_kubernetes import read_object

_COMPACT = {"nodes", "workloads", "services"}
_PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown")


def parse_inventory(
    value: Any, *, max_items: int, max_errors: int, clusters: ClusterNames | None = None
) -> ParsedInventory:
    """Read an inventory document; what names no cluster is of the default of `clusters`.

    Raises:
        AppError: `INVALID` with field errors; `TOO_LARGE` for more than `max_items` items.
    """
    parsed = ParsedInventory(max_items, clusters or ClusterNames())
    if isinstance(value, dict) and "kind" not in value:
        _read_compact(value, parsed)
    else:
        for pointer, item in _objects(value, "", parsed):
            read_object(Fields(item, pointer, parsed.errors), parsed)
    if parsed.errors:
        first, more = parsed.errors[0], len(parsed.errors) - 1
        suffix = f" (and {more} more)" if more else ""
        raise AppError(
            ErrorCode.INVALID,
            f"{first.pointer or '/'}: {first.message}{suffix}",
            errors=tuple(parsed.errors[:max_errors]),
        )
    return parsed


def _objects(value: Any, pointer: str, parsed: ParsedInventory) -> Iterator[tuple[str, Any]]:
    """The single objects of a List, of a list, or of one object."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _objects_of_item(item, f"{pointer}/{index}", parsed)
    else:
        yield from _objects_of_item(value, pointer, parsed)


def _objects_of_item(value: Any, pointer: str, parsed: ParsedInventory) -> Iterator[tuple[str, Any]]:
    if not (isinstance(value, dict) and str(value.get("kind", "")).endswith("List")):
        yield pointer, value
        return
    items = value.get("items", [])
    if not isinstance(items, list):
        parsed.errors.append(FieldError(f"{pointer}/items", "a list is wanted"))
        return
    # A PodList's items carry no kind of their own when they come from the API instead of kubectl.
    kind = str(value["kind"]).removesuffix("List")
    for index, item in enumerate(items):
        if isinstance(item, dict) and "kind" not in item and kind:
            yield f"{pointer}/items/{index}", {"kind": kind, "apiVersion": value.get("apiVersion", ""), **item}
        else:
            yield f"{pointer}/items/{index}", item


def _read_compact(value: dict[str, Any], parsed: ParsedInventory) -> None:
    top = Fields(value, "", parsed.errors)
    top.only(_COMPACT)
    for item in top.objects("nodes"):
        _compact_node(item, parsed)
    for item in top.objects("workloads"):
        _compact_workload(item, parsed)
    for item in top.objects("services"):
        _compact_service(item, parsed)


def _compact_node(item: Fields, parsed: ParsedInventory) -> None:
    item.only({"name", "banned", "cluster"})
    name = item.name("name")
    banned, cluster = item.boolean("banned"), item.cluster("cluster", parsed.clusters)
    if name is not None and banned is not None and cluster is not None:
        parsed.add_node(item.pointer, Node(name=name, banned=banned, cluster=cluster))


def _compact_workload(item: Fields, parsed: ParsedInventory) -> None:
    item.only({"namespace", "name", "serviceAccount", "node", "uid", "phase", "addresses", "labels", "cluster"})
    namespace, name = item.namespace("namespace"), item.name("name")
    account, node = item.name("serviceAccount", default="default"), item.name("node")
    phase = item.choice("phase", _PHASES, default="Running")
    uid, addresses, labels = item.text("uid"), item.addresses("addresses"), item.labels("labels")
    cluster = item.cluster("cluster", parsed.clusters)
    if None not in (namespace, name, account, node, phase, cluster):
        parsed.add_workload(
            item.pointer,
            Workload(
                namespace=str(namespace),
                name=str(name),
                service_account=str(account),
                node=str(node),
                uid=uid,
                phase=str(phase),
                addresses=addresses,
                labels=labels,
                cluster=str(cluster),
            ),
        )


def _compact_service(item: Fields, parsed: ParsedInventory) -> None:
    item.only({"namespace", "name", "registry", "hosts", "addresses", "ports", "labels"})
    namespace, name = item.namespace("namespace"), item.name("name")
    registry = item.choice("registry", ("Kubernetes", "External"), default="Kubernetes")
    hosts, addresses = item.hosts("hosts"), item.addresses("addresses")
    ports, labels = item.ports("ports"), item.labels("labels")
    if None not in (namespace, name, registry):
        parsed.add_service(
            item.pointer,
            Service(
                namespace=str(namespace),
                name=str(name),
                registry=str(registry),
                hosts=hosts,
                addresses=addresses,
                ports=ports,
                labels=labels,
            ),
        )
