"""What runs where: read, replace, add to, take away."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from app.authority.records import InventoryChange
from app.errors import AppError, ErrorCode
from app.identity.inventory import Service, Workload
from app.limits import Limits
from app.rest.bodies import documents_schema, read_documents
from app.rest.conditional import IfMatch, expected_number, quoted
from app.rest.inventory_shapes import InventoryChangeShape, InventoryShape, LeaseShape
from app.rest.parameters import Cluster, DryRun, Push, Reason, lease_of
from app.rest.services import CallingActor, Services

router = APIRouter(prefix="/v1/inventory", tags=["inventory"])
_BODY = documents_schema(
    "Nodes, workloads and services in the compact form (see GET), or Kubernetes objects as kubectl prints them."
)


@router.get("", response_model=InventoryShape)
async def get_inventory(services: Services, response: Response) -> dict[str, Any]:
    """Everything."""
    contents = await services.administration.inventory.get()
    response.headers["etag"] = quoted(contents.generation)
    return {
        "generation": contents.generation,
        "nodes": [{"name": node.name, "banned": node.banned, "cluster": node.cluster} for node in contents.nodes],
        "workloads": [_workload(workload) for workload in contents.workloads],
        "services": [_service(service) for service in contents.services],
    }


@router.put("", response_model=InventoryChangeShape, openapi_extra=_BODY)
async def put_inventory(
    request: Request,
    response: Response,
    services: Services,
    actor: CallingActor,
    push: Push,
    *,
    if_match: IfMatch = None,
    dry_run: DryRun = None,
    reason: Reason = "",
) -> InventoryChange:
    """Replace the inventory of a cluster; If-Match is optional and names the generation that it must be at."""
    change = await services.administration.inventory.put(
        actor,
        await _read(request, services.limits),
        cluster=push.cluster,
        lease=lease_of(push.lease),
        expected_generation=expected_number(if_match, "inventory"),
        reason=reason,
        dry_run=dry_run is not None,
    )
    response.headers["etag"] = quoted(change.generation)
    return change


@router.patch("", response_model=InventoryChangeShape, openapi_extra=_BODY)
async def apply_inventory(
    request: Request,
    services: Services,
    actor: CallingActor,
    push: Push,
    *,
    dry_run: DryRun = None,
    reason: Reason = "",
) -> InventoryChange:
    """Create or replace the items of the body; what it does not name stays."""
    return await services.administration.inventory.apply(
        actor,
        await _read(request, services.limits),
        cluster=push.cluster,
        lease=lease_of(push.lease),
        reason=reason,
        dry_run=dry_run is not None,
    )


@router.put("/lease", response_model=LeaseShape)
async def lease_inventory(services: Services, actor: CallingActor, push: Push, reason: Reason = "") -> dict[str, Any]:
    """Say that what was pushed last still holds; `lease=none` ends the lease."""
    asked = lease_of(push.lease)
    if asked is None:
        raise AppError(ErrorCode.INVALID, "lease is missing: a time such as 120s or 2m, or none.")
    until = await services.administration.inventory.lease(actor, asked, cluster=push.cluster, reason=reason)
    return {"cluster": services.placements.named(push.cluster)[0], "lease_until": until}


@router.get("/sources", response_model=dict[str, Any])
async def inventory_sources(services: Services) -> dict[str, Any]:
    """Where the placement of each cluster and the services come from, how old that is, and what is wrong with it."""
    kept = services.services_kept
    return {
        "items": [{"cluster": name, **state.to_json()} for name, state in services.placements.describe().items()],
        "services": {"kind": "api"} if kept is None else kept.describe().to_json(),
    }


@router.delete("/nodes/{name}", response_model=InventoryChangeShape)
async def delete_node(
    services: Services, actor: CallingActor, name: str, cluster: Cluster = "", reason: Reason = ""
) -> InventoryChange:
    """Delete a node."""
    return await services.administration.inventory.delete_item(actor, "node", name, cluster=cluster, reason=reason)


@router.delete("/workloads/{namespace}/{name}", response_model=InventoryChangeShape)
async def delete_workload(
    services: Services, actor: CallingActor, namespace: str, name: str, cluster: Cluster = "", reason: Reason = ""
) -> InventoryChange:
    """Delete a workload."""
    key = f"{namespace}/{name}"
    return await services.administration.inventory.delete_item(actor, "workload", key, cluster=cluster, reason=reason)


@router.delete("/services/{registry}/{namespace}/{name}", response_model=InventoryChangeShape)
async def delete_service(
    services: Services, actor: CallingActor, registry: str, namespace: str, name: str, reason: Reason = ""
) -> InventoryChange:
    """Delete a service."""
    key = f"{registry}/{namespace}/{name}"
    return await services.administration.inventory.delete_item(actor, "service", key, reason=reason)


async def _read(request: Request, limits: Limits) -> Any:
    documents = await read_documents(request, limits, is_import=True)
    return documents[0] if len(documents) == 1 else {"apiVersion": "v1", "kind": "List", "items": documents}


def _workload(workload: Workload) -> dict[str, Any]:
    return {
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


def _service(service: Service) -> dict[str, Any]:
    return {
        "namespace": service.namespace,
        "name": service.name,
        "registry": service.registry,
        "hosts": list(service.hosts),
        "addresses": list(service.addresses),
        "ports": list(service.ports),
        "labels": dict(service.labels),
    }
