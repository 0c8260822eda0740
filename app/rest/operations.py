"""Questions: how it stands, why a request was decided so, why a certificate was refused, whom to trust."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import PlainTextResponse

from app import __version__
from app.authority.certificates.explain_certificate import DEFAULT_TTL_SECONDS
from app.ca.impersonation import NodeCaller
from app.errors import AppError, ErrorCode
from app.rest.bodies import JSON, read_json
from app.rest.parameters import Cluster
from app.rest.schemas import StatusShape
from app.rest.services import Services

router = APIRouter(tags=["operations"])

_QUESTION = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {
                    "description": "`request`, and `target` or `enforcementPoint`, as in a decision case.",
                    "type": "object",
                }
            }
        },
    }
}


@router.get("/livez", response_class=PlainTextResponse, tags=["operations"])
async def live() -> str:
    """Whether this process answers; says nothing about what it depends on."""
    return "ok\n"


@router.get("/v1/status", response_model=StatusShape)
async def status(services: Services) -> dict[str, Any]:
    """The store's numbers, each worker's last word, and how old placement of clusters and keys of issuers are."""
    now = services.clock.now()
    return {
        "version": __version__,
        "snapshot_public_key": services.snapshot_public_key,
        "store": await services.administration.status(),
        "workers": [worker.to_json(now) for worker in services.workers.statuses(now=now)],
        "placements": [{"cluster": name, **state.to_json()} for name, state in services.placements.describe().items()],
        "token_keys": [keys.to_json() for keys in services.token_keys()],
    }


@router.post("/v1/explain", response_model=dict[str, Any], openapi_extra=_QUESTION)
async def explain(
    request: Request,
    services: Services,
    revision: Annotated[int | None, Query(ge=0, le=2**62, description="Over this revision, not the live set.")] = None,
) -> dict[str, Any]:
    """Decide one request as a worker would, and say why: every rule considered, and the nearest miss."""
    question = await read_json(request, services.limits)
    return await services.administration.explain(question, revision=revision)


@router.get("/v1/ca/refusals/{request_id}", response_model=dict[str, Any])
async def explain_refusal(services: Services, request_id: str) -> dict[str, Any]:
    """Why the certificate request of that id was refused, and what to do."""
    return services.explain_certificate.by_request(request_id).to_json()


@router.get("/v1/ca/explain", response_model=dict[str, Any])
async def explain_certificate(
    services: Services,
    caller: Annotated[
        str, Query(max_length=600, description="The caller's service account, NAMESPACE/NAME.")
    ] = "istio-system/ztunnel",
    node: Annotated[str, Query(max_length=253, description="The node that the caller's token names.")] = "",
    pod: Annotated[str, Query(max_length=253)] = "",
    pod_uid: Annotated[str, Query(alias="podUid", max_length=128)] = "",
    identity: Annotated[
        str | None, Query(max_length=4_096, description="The SPIFFE ID asked for; without it, the caller's own.")
    ] = None,
    ttl_seconds: Annotated[
        int, Query(alias="ttlSeconds", ge=0, lt=2**63, description="The lifetime asked for; 0 asks for the default.")
    ] = DEFAULT_TTL_SECONDS,
    cluster: Cluster = "",
) -> dict[str, Any]:
    """Whether a caller would get a certificate for an identity now, step by step, and with which lifetime."""
    namespace, slash, account = caller.partition("/")
    if not slash or not namespace or not account or "/" in account:
        raise AppError(ErrorCode.INVALID, "The caller is a service account, written NAMESPACE/NAME.")
    asked = NodeCaller(namespace=namespace, service_account=account, pod_name=pod, pod_uid=pod_uid, node_name=node)
    explain = services.explain_certificate.by_caller
    return (await explain(asked, identity, cluster=cluster, ttl_seconds=ttl_seconds)).to_json()
