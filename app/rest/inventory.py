"""What runs where: read, replace, add to, take away."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from app.authority.records import InventoryChange
from app.identity.inventory import Service, Workload
from app.limits import Limits
from app.rest.bodies import documents_schema, read_documents
from app.rest.conditional import IfMatch, expected_number, quoted
from app.rest.parameters import DryRun, Reason
from app.rest.schemas import InventoryChangeShape, InventoryShape
from app.rest.services import CallingActor, RestServices, Services

router = APIRouter(prefix="/v1/inventory", tags=["inventory"])
_BODY = documents_schema(
    "Nodes, workloads and services in the compact form (see GET), or Kubernetes objects as kubectl prints them."
)


@router.get("", response_model=InventoryShape)
async def get_inventory(services: Services, response: Response) -> dict[str, Any]:
    """Everything."""
    contents = await services.administration.get_inventory()
    response.headers["etag"] = quoted(contents.generation)
    return {
        "generation": contents.generation,
        "nodes": [{"name": node.name, "banned": node.banned} for node in contents.nodes],
        "workloads": [_workload(workload) for workload in contents.workloads],
        "services": [_service(service) for service in contents.services],
    }


@router.put("", response_model=InventoryChangeShape, openapi_extra=_BODY)
async def put_inventory(
    request: Request,
    response: Response,
    services: Services,
    actor: CallingActor,
    *,
    if_match: IfMatch = None,
    dry_run: DryRun = None,
    reason: Reason = "",
) -> InventoryChange:
    """Replace the whole inventory; If-Match is optional and names the generation that it must be at."""
    change = await services.administration.put_inventory(
        actor,
        await _read(request, services.limits),
        expected_generation=expected_number(if_match, "inventory"),
        reason=reason,
        dry_run=dry_run is not None,
    )
    response.headers["etag"] = quoted(change.generation)
    return change


@router.patch("", response_model=InventoryChangeShape, openapi_extra=_BODY)
async def apply_inventory(
    request: Request, services: Services, actor: CallingActor, dry_run: DryRun = None, reason: Reason = ""
) -> InventoryChange:
    """Create or replace the items of the body; what it does not name stays."""
    value = await _read(request, services.limits)
    return await services.administration.apply_inventory(actor, value, reason=reason, dry_run=dry_run is not None)


@router.delete("/nodes/{name}", response_model=InventoryChangeShape)
async def delete_node(services: Services, actor: CallingActor, name: str, reason: Reason = "") -> InventoryChange:
    """Delete a node."""
    return await _delete(services, actor, "node", name, reason)


@router.delete("/workloads/{namespace}/{name}", response_model=InventoryChangeShape)
async def delete_workload(
    services: Services, actor: CallingActor, namespace: str, name: str, reason: Reason = ""
) -> InventoryChange:
    """Delete a workload."""
    return await _delete(services, actor, "workload", f"{namespace}/{name}", reason)


@router.delete("/services/{registry}/{namespace}/{name}", response_model=InventoryChangeShape)
async def delete_service(
    services: Services, actor: CallingActor, registry: str, namespace: str, name: str, reason: Reason = ""
) -> InventoryChange:
    """Delete a service."""
    return await _delete(services, actor, "service", f"{registry}/{namespace}/{name}", reason)


async def _delete(services: RestServices, actor: CallingActor, kind: str, key: str, reason: str) -> InventoryChange:
    return await services.administration.delete_inventory_item(actor, kind, key, reason=reason)


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
