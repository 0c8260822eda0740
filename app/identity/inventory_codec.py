"""The JSON form of nodes, workloads and services: for storage, for snapshots and for the compact document.

Unlike `inventory_documents`, which reads what people wrote, this reads what we wrote ourselves.
"""

from __future__ import annotations

from typing import Any

from app.identity.inventory import Node, Service, Workload


def node_to_json(node: Node) -> dict[str, Any]:
    """A node's members, without those that have their default."""
    return _without_empty({"name": node.name, "banned": node.banned, "cluster": node.cluster})


def node_from_json(value: dict[str, Any]) -> Node:
    """What `node_to_json` wrote."""
    return Node(name=value["name"], banned=value.get("banned", False), cluster=value.get("cluster", ""))


def workload_to_json(workload: Workload) -> dict[str, Any]:
    """A workload's members, without those that are empty."""
    return _without_empty(
        {
            "namespace": workload.namespace,
            "name": workload.name,
            "serviceAccount": workload.service_account,
            "node": workload.node,
            "uid": workload.uid,
            "phase": workload.phase,
            "addresses": list(workload.addresses),
            "labels": dict(workload.labels),
            "cluster": workload.cluster,
        }
    )


def workload_from_json(value: dict[str, Any]) -> Workload:
    """What `workload_to_json` wrote."""
    return Workload(
        namespace=value["namespace"],
        name=value["name"],
        service_account=value["serviceAccount"],
        node=value.get("node", ""),
        uid=value.get("uid", ""),
        phase=value.get("phase", ""),
        addresses=tuple(value.get("addresses", ())),
        labels=tuple(sorted(value.get("labels", {}).items())),
        cluster=value.get("cluster", ""),
    )


def service_to_json(service: Service) -> dict[str, Any]:
    """A service's members, without those that are empty."""
    return _without_empty(
        {
            "namespace": service.namespace,
            "name": service.name,
            "registry": service.registry,
            "hosts": list(service.hosts),
            "addresses": list(service.addresses),
            "ports": list(service.ports),
            "labels": dict(service.labels),
        }
    )


def service_from_json(value: dict[str, Any]) -> Service:
    """What `service_to_json` wrote."""
    return Service(
        namespace=value["namespace"],
        name=value["name"],
        registry=value["registry"],
        hosts=tuple(value.get("hosts", ())),
        addresses=tuple(value.get("addresses", ())),
        ports=tuple(value.get("ports", ())),
        labels=tuple(sorted(value.get("labels", {}).items())),
    )


def _without_empty(value: dict[str, Any]) -> dict[str, Any]:
    return {key: member for key, member in value.items() if member not in ("", False, [], {})}
